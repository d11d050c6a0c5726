"""The Bayesian search of a sweep: Optuna's tree-structured Parzen estimator, asked and told by Ray Tune.

Source: J. Bergstra and others, "Algorithms for Hyper-Parameter Optimization", NIPS 2011.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from catdog.errors import UsageError
from catdog.tuning.space import Domain, Space

OBJECTIVE = "val_loss"  # the least of all epochs of a trial


def require_optuna() -> None:
    """Raise UsageError where Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise UsageError("--search optuna: expected the package optuna, found none: pip install 'catdog-ray[optuna]'")


def make_searcher(space: Space, *, done: Mapping[int, Mapping[str, Any]], seed: int) -> Any:
    """Return a searcher of Ray Tune's that suggests {"chosen": {"number": …, knob: value …}}.

    `done` has the records of earlier trials by number: the search goes on from what they taught.
    """
    import optuna
    from ray.tune.search import Searcher

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {key: _distribution(domain) for key, domain in space.items()}
    sampler = optuna.samplers.TPESampler(seed=seed + len(done))
    study = optuna.create_study(direction="minimize", sampler=sampler)
    for record in done.values():
        if "validation" in record:
            study.add_trial(
                optuna.trial.create_trial(
                    params=record["values"], distributions=distributions, value=record["validation"]["loss"]
                )
            )

    class OptunaSearch(Searcher):  # type: ignore[misc]
        """Numbers its suggestions on from the earlier trials."""

        def __init__(self) -> None:
            super().__init__(metric=OBJECTIVE, mode="min")
            self._next = max(done, default=-1) + 1
            self._asked: dict[str, Any] = {}

        def suggest(self, trial_id: str) -> dict[str, Any]:
            asked = self._asked[trial_id] = study.ask(distributions)
            number, self._next = self._next, self._next + 1
            values = {key: _value(space[key], asked.params[key]) for key in space}
            return {"chosen": {"number": number, **values}}

        def on_trial_complete(
            self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
        ) -> None:
            asked = self._asked.pop(trial_id, None)
            if asked is None:
                return
            if error or not result or OBJECTIVE not in result:
                study.tell(asked, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(asked, float(result[OBJECTIVE]))

    return OptunaSearch()


def _distribution(domain: Domain) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if domain.values:
        return CategoricalDistribution(domain.values)
    if domain.whole:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.kind == "loguniform")
    return FloatDistribution(domain.low, domain.high, log=domain.kind == "loguniform")


def _value(domain: Domain, found: Any) -> Any:
    """Return what Optuna drew with four digits: a person can type it again."""
    rounded = isinstance(found, float) and not domain.values
    return min(max(float(f"{found:.4g}"), domain.low), domain.high) if rounded else found
