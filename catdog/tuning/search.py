"""The source of trial values: a list that was drawn in advance, or one of Ray Tune's searchers.

Sources: J. Bergstra and others, "Algorithms for Hyper-Parameter Optimization", NIPS 2011 (TPE); S. Falkner and others,
"BOHB", ICML 2018 (multivariate TPE). Imported late: it needs Ray.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher
from ray.tune.search.sample import Domain as TuneDomain

from catdog.tuning.records import Record
from catdog.tuning.selection import objective, record_scores
from catdog.tuning.space import Domain, Space, active_values

_LEARNING = {"metric": "objective", "mode": "min"}


class TrialSource(Searcher):  # type: ignore[misc]
    """Gives Ray Tune the values of `planned` trials by number, then what `searcher` suggests for the free `numbers`.

    Suggested values are rounded to what a person can type. Values whose condition does not hold are left out.
    """

    def __init__(
        self,
        space: Space,
        planned: Mapping[int, Mapping[str, Any]],
        *,
        searcher: Searcher | None = None,
        numbers: Sequence[int] = (),
    ) -> None:
        super().__init__(**_LEARNING)
        self._space, self._searcher, self._free = space, searcher, list(numbers)
        self._planned = dict(planned)
        self._given: dict[str, Mapping[str, Any]] = {}  # values of planned trials, by Ray Tune's trial id
        self._suggested: set[str] = set()  # Ray Tune's ids of the trials that the searcher suggested
        self.numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial's values, None if Ray Tune should ask again later, or FINISHED after the last trial."""
        if self._planned:
            number = next(iter(self._planned))
            self.numbers[trial_id] = number
            self._given[trial_id] = self._planned.pop(number)
            return {"values": dict(self._given[trial_id])}
        if self._searcher is None or not self._free:
            return str(Searcher.FINISHED)
        found: Any = self._searcher.suggest(trial_id)
        if not isinstance(found, dict):
            return None if found is None else str(found)
        values = {key: domain.rounded(found["values"][key]) for key, domain in self._space.items()}
        self._suggested.add(trial_id)
        self.numbers[trial_id] = self._free.pop(0)
        return {"values": active_values(self._space, values)}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Report an epoch to the searcher if it suggested the trial."""
        if self._searcher is not None and trial_id in self._suggested:
            self._searcher.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Report a trial's end to the searcher. A trial that it suggested counts as an error if it has no score."""
        if self._searcher is None:
            return
        failed = error or not result or "stage" not in result
        if trial_id in self._suggested:
            self._searcher.on_trial_complete(trial_id, None if failed else result, error=failed)
        elif result and not failed:
            add_result(self._searcher, self._space, self._given[trial_id], result["objective"])

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: a sweep resumes from its records, and nothing is unpickled from files."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing; see `save`."""


def name_trials(source: TrialSource) -> Any:
    """Return a function for Ray Tune that names a trial by its number, which is not among the trial's settings."""

    def name(trial: Trial) -> str:
        return f"{source.numbers[trial.trial_id]:05d}"

    return name


def make_searcher(name: str, space: Space, *, done: Mapping[int, Record], seed: int, metric: str) -> Searcher | None:
    """Return Ray Tune's searcher for `name`, or None for `random`. If it can, it resumes from the scores in `done`."""
    domains = {"values": {key: to_tune(domain) for key, domain in space.items()}}
    if name == "optuna":
        return _make_optuna(domains, space, done=done, seed=seed, metric=metric)
    if name == "hyperopt":
        from ray.tune.search.hyperopt import HyperOptSearch

        logging.getLogger("hyperopt").setLevel(logging.ERROR)
        return HyperOptSearch(space=domains, n_initial_points=8, random_state_seed=seed + len(done), **_LEARNING)
    return None


def _make_optuna(
    domains: Mapping[str, Any], space: Space, *, done: Mapping[int, Record], seed: int, metric: str
) -> Searcher:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        # `multivariate` has been experimental since 2020.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(multivariate=True, seed=seed + len(done), n_startup_trials=8)
    searcher = OptunaSearch(OptunaSearch.convert_search_space(domains), sampler=sampler, **_LEARNING)
    for record in done.values():
        scores = record_scores(record)
        if scores is not None:
            add_result(searcher, space, record["values"], objective(scores, metric))
    return searcher


def add_result(searcher: Searcher, space: Space, values: Mapping[str, Any], value: float) -> None:
    """Report to `searcher` the objective `value` of a trial that it did not suggest.

    A trial is ignored if its values are outside the space, such as trial 0, or if it lacks a conditional setting.
    """
    if values.keys() == space.keys():
        with contextlib.suppress(ValueError, NotImplementedError):
            searcher.add_evaluated_point({f"values/{key}": values[key] for key in values}, value)


def to_tune(domain: Domain) -> TuneDomain:
    """Return the domain as a domain of Ray Tune."""
    if domain.values:
        return tune.choice(list(domain.values))
    if domain.kind == "quniform":
        if domain.whole:
            return tune.qrandint(int(domain.low), int(domain.high), int(domain.step))
        return tune.quniform(domain.low, domain.high, domain.step)
    if domain.whole:
        make = tune.lograndint if domain.is_log else tune.randint
        return make(int(domain.low), int(domain.high) + 1)  # Ray Tune excludes the upper end
    return (tune.loguniform if domain.is_log else tune.uniform)(domain.low, domain.high)
