"""Runs trials on Ray Tune: all in one run, or first the frozen stage of all and then the rest of the best quarter.

The schedulers stop poor trials early. They compare trials by `budget`: 1 for the frozen stage, which costs little, plus
the epochs of the unfrozen stage. Trial 0, the default settings, reports a budget of 0, on which no scheduler acts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from ray import tune
from ray.tune import Stopper
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, TrialScheduler

from catdog.cluster.failures import root_cause
from catdog.config import TuneConfig
from catdog.console import say
from catdog.errors import FailureError
from catdog.storage import files
from catdog.tuning.layouts import Sweep
from catdog.tuning.records import Record
from catdog.tuning.search import TrialSource, make_searcher, name_trials
from catdog.tuning.selection import choose_promoted
from catdog.tuning.trials.callbacks import MAX_FAILURES, TIME_BUDGET, TrialFollower
from catdog.tuning.trials.distributed import run_distributed_trial
from catdog.tuning.trials.quick import run_trial
from catdog.tuning.trials.resources import TrialResources

Planned = Mapping[int, Mapping[str, Any]]

_FACTOR = 4  # one in four of the trials that reach a rung continues
_GRACE = 4  # the first budget at which trials are compared, if the frozen stage has already screened them

# Of a running trial. Ray Tune writes the state of all trials whenever one trial has stored this many checkpoints since
# the last write. With 1, it writes each time a trial ends, which takes half a second after 600 trials. With more, it
# writes every 10 s, or less often if that would take more than a twentieth of the time.
_KEPT_CHECKPOINTS = 4


class TimeLimit(Stopper):  # type: ignore[misc]
    """Stops all trials once `is_late` returns true. Each counts with the best result that it has reported."""

    def __init__(self, is_late: Callable[[], bool]) -> None:
        self._is_late = is_late

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Return False: no trial is stopped individually."""
        return False

    def stop_all(self) -> bool:
        """Return whether all trials should stop."""
        return self._is_late()


def make_scheduler(name: str, *, epochs: int, screened: bool) -> TrialScheduler | None:
    """Return Ray Tune's scheduler for `name`, or None for `none`.

    `epochs` is the number of epochs of the unfrozen stage. `screened` trials are the best quarter of a run of the
    frozen stage. ASHA compares other trials after the frozen stage too.
    """
    compared: dict[str, Any] = {"time_attr": "budget", "metric": "objective", "mode": "min"}
    if name == "asha":
        grace = min(_GRACE, epochs + 1) if screened else 1
        return ASHAScheduler(grace_period=grace, max_t=epochs + 2, reduction_factor=_FACTOR, **compared)
    if name == "median":
        return MedianStoppingRule(grace_period=2, min_samples_required=3, **compared)
    return None


class TrialRunner:
    """Runs the trials of a sweep that have not ended yet, and adds their records to `records`.

    `planned` has the values that are known in advance: of all trials in a random search, otherwise of trial 0.
    `deadline` is a time.monotonic() value, or None without a time budget.
    """

    def __init__(
        self,
        sweep: Sweep,
        config: TuneConfig,
        *,
        planned: Planned,
        records: dict[int, Record],
        resources: TrialResources,
        deadline: float | None,
    ) -> None:
        self._sweep, self._config, self._planned, self._records = sweep, config, planned, records
        self._resources, self._deadline = resources, deadline

    def run(self) -> None:
        """Run all trials. Raises FailureError when Ray Tune fails."""
        config, stages = self._config, self._sweep.stage_names
        waiting = [number for number in range(config.trials) if not self._has_ended(number)]
        if waiting and self._records:
            say(f"Resuming: {config.trials - len(waiting)} of {config.trials} trials were finished before.")
        # The frozen stage costs little, so all trials run it before the best quarter continues. Exceptions are a
        # searcher, which learns from whole trials, and distributed trials, which must start a trainer for that stage.
        two_runs = (
            len(stages) > 1 and config.scheduler == "asha" and config.search == "random" and not config.cluster.workers
        )
        if not two_runs:
            self._run(waiting, stages, screened=False)
            return
        self._run([number for number in waiting if number not in self._records], stages[:1], screened=False)
        chosen = choose_promoted(self._records, self._sweep.metric, factor=_FACTOR)
        open_ = [number for number in chosen if self._is_open(self._records[number])]
        if open_ and not self._is_late():
            say(f"The best {len(chosen)} of {len(self._records)} trials continue with the unfrozen stage.")
            self._run(open_, stages[1:], screened=True)

    def _has_ended(self, number: int) -> bool:
        record = self._records.get(number)
        return record is not None and record.get("reason") != TIME_BUDGET

    def _is_open(self, record: Record) -> bool:
        """Return whether a trial of the best quarter still has to run its unfrozen stage or the rest of it."""
        stopped = record["status"] == "stopped" and record.get("reached") == "frozen"
        return stopped or record.get("reason") == TIME_BUDGET

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _run(self, numbers: list[int], stages: tuple[str, ...], *, screened: bool) -> None:
        if not numbers or self._is_late():
            return
        # Turn off Ray Tune's log files of each trial, because we write records.
        os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
        storage = files.join(self._sweep.run_dir, "tune")
        files.delete(storage)  # Ray Tune's state of a sweep that was killed; we resume from the records
        try:
            self._make_tuner(numbers, stages, screened=screened).fit()
        except Exception as error:  # Ray wraps what it catches in its own classes
            raise FailureError(f"the sweep failed: {root_cause(error)}; run the same command to resume") from error
        files.delete(storage)

    def _make_tuner(self, numbers: list[int], stages: tuple[str, ...], *, screened: bool) -> tune.Tuner:
        sweep, config, resources = self._sweep, self._config, self._resources
        source, scheduler = self._source(numbers), None
        if len(sweep.stage_names) > 1:
            scheduler = make_scheduler(config.scheduler, epochs=config.unfrozen.epochs, screened=screened)
        follower = TrialFollower(
            sweep,
            self._records,
            ends=len(numbers),
            parallel=resources.parallel,
            is_late=self._is_late,
            may_continue=stages != sweep.stage_names and not screened,
        )
        return tune.Tuner(
            self._make_trainable(stages),
            tune_config=tune.TuneConfig(
                search_alg=source,
                scheduler=scheduler,
                num_samples=len(numbers),
                max_concurrent_trials=resources.parallel,
                reuse_actors=not config.cluster.workers,
                trial_name_creator=name_trials(source),
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=sweep.run_dir,
                verbose=0,
                stop=TimeLimit(self._is_late),
                callbacks=[follower],
                checkpoint_config=tune.CheckpointConfig(num_to_keep=_KEPT_CHECKPOINTS),
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            ),
        )

    def _make_trainable(self, stages: tuple[str, ...]) -> Any:
        booked = {"cpu": self._resources.cpus, **({"gpu": self._resources.gpus} if self._resources.gpus else {})}
        if self._config.cluster.workers:
            return tune.with_resources(tune.with_parameters(run_distributed_trial, sweep=self._sweep), booked)
        return tune.with_resources(tune.with_parameters(run_trial, sweep=self._sweep, stages=stages), booked)

    def _source(self, numbers: list[int]) -> TrialSource:
        planned = {number: self._values(number) for number in numbers if self._is_known(number)}
        config, space = self._config, self._sweep.space
        searcher = make_searcher(config.search, space, done=self._records, seed=config.seed, metric=self._sweep.metric)
        free = [number for number in numbers if number not in planned]
        return TrialSource(space, planned, searcher=searcher, numbers=free)

    def _is_known(self, number: int) -> bool:
        return number in self._records or number in self._planned

    def _values(self, number: int) -> Mapping[str, Any]:
        values: Mapping[str, Any] = (
            self._records[number]["values"] if number in self._records else self._planned[number]
        )
        return values
