"""How a sweep finds values to try: Optuna's tree-structured Parzen estimator, asked and told by Ray Tune.

Source: J. Bergstra and others, "Algorithms for Hyper-Parameter Optimization", NIPS 2011. Imported late: it needs Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from catdog.tuning.space import Domain, Space

OBJECTIVE = "val_loss"  # the lowest of all epochs of a trial


def name_trials(numbers: Sequence[int]) -> Callable[[Trial], str]:
    """Return what names trials for Ray Tune by `numbers`, in the order in which it makes them."""
    names: dict[str, str] = {}

    def name(trial: Trial) -> str:
        if trial.trial_id not in names:
            names[trial.trial_id] = f"{numbers[len(names)]:05d}"
        return names[trial.trial_id]

    return name


def make_searcher(space: Space, *, done: Mapping[int, Mapping[str, Any]], seed: int) -> Searcher:
    """Return a searcher for Ray Tune that suggests `{"values": {setting: value, …}}`.

    `done` has the records of earlier trials by number: the search resumes from their scores.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {key: _distribution(domain) for key, domain in space.items()}
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=seed + len(done)))
    for record in done.values():
        if "validation" in record:
            study.add_trial(
                optuna.trial.create_trial(
                    params=record["values"], distributions=distributions, value=record["validation"]["loss"]
                )
            )
    return OptunaSearcher(space, study, distributions)


class OptunaSearcher(Searcher):  # type: ignore[misc]
    """Asks an Optuna study for values and tells it the scores."""

    def __init__(self, space: Space, study: Any, distributions: Mapping[str, Any]) -> None:
        super().__init__(metric=OBJECTIVE, mode="min")
        self._space, self._study, self._distributions = space, study, distributions
        self._asked: dict[str, Any] = {}

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Return the values of the next trial."""
        asked = self._asked[trial_id] = self._study.ask(self._distributions)
        return {"values": {key: _value(self._space[key], asked.params[key]) for key in self._space}}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study how a trial ended."""
        import optuna

        asked = self._asked.pop(trial_id, None)
        if asked is None:
            return
        if error or not result or OBJECTIVE not in result:
            self._study.tell(asked, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(asked, float(result[OBJECTIVE]))


def _distribution(domain: Domain) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if domain.values:
        return CategoricalDistribution(domain.values)
    if domain.whole:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.kind == "loguniform")
    return FloatDistribution(domain.low, domain.high, log=domain.kind == "loguniform")


def _value(domain: Domain, found: Any) -> Any:
    """Return what Optuna drew with four digits, short enough to type."""
    rounded = isinstance(found, float) and not domain.values
    return min(max(float(f"{found:.4g}"), domain.low), domain.high) if rounded else found
