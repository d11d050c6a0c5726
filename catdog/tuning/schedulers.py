"""What stops poor trials of a sweep early, on the best validation loss of each so far.

Schedulers count a trial's `budget`: 1 for all stages before the last, which cost little, plus the epochs of the last
stage. Imported late: it needs Ray.
"""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, TrialScheduler

_FACTOR = 4  # one in four of the trials that reach a rung continues
_GRACE = 4  # the budget at which those that continued are compared again


def make_scheduler(name: str, *, epochs: int, synchronous: bool) -> Any:
    """Return Ray Tune's scheduler for `name`, or None for `none`; `epochs` are those of the last stage.

    With `synchronous`, ASHA's first rung waits until all trials have reached it. What comes before the last stage
    takes seconds, so this costs nothing, and no trial continues only because it was early.
    """
    counted: dict[str, Any] = {"time_attr": "budget", "metric": "val_loss", "mode": "min"}
    if name == "asha":
        # max_t is never reached: ASHA would stop a trial there before it writes its model.
        limits = {"max_t": epochs + 2, "reduction_factor": _FACTOR}
        if synchronous:
            return SynchronousFirstRung(grace_period=min(_GRACE, epochs + 1), **limits, **counted)
        return ASHAScheduler(grace_period=1, **limits, **counted)
    if name == "median":
        return MedianStoppingRule(grace_period=2, min_samples_required=3, **counted)
    return None


class SynchronousFirstRung(ASHAScheduler):  # type: ignore[misc]
    """Pauses every trial at budget 1; when all have reached it, the best quarter continues, best first, under ASHA.

    Source: successive halving (K. Jamieson, A. Talwalkar, AISTATS 2016) for the first rung.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._losses: dict[str, float] = {}  # of the trials that reached the rung, by trial id
        self._promoted: set[str] | None = None

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Return what happens to a trial that reported: it pauses at the first rung, later ASHA decides."""
        if result["budget"] != 1 or self._promoted is not None:
            action: str = super().on_trial_result(tune_controller, trial, result)
            return action
        self._losses[trial.trial_id] = result["val_loss"]
        pause: str = TrialScheduler.PAUSE
        return pause

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return the next trial to start or to resume; stop those that are not promoted."""
        trials = tune_controller.get_trials()
        for trial in trials:
            if trial.status == Trial.PENDING:
                return trial
        paused = [trial for trial in trials if trial.status == Trial.PAUSED]
        if self._promoted is None:
            running = (trial for trial in trials if trial.status == Trial.RUNNING)
            if not paused or any(trial.trial_id not in self._losses for trial in running):
                return None
            ranked = sorted(self._losses, key=self._losses.__getitem__)
            self._promoted = set(ranked[: -(-len(ranked) // _FACTOR)])
        paused.sort(key=lambda trial: self._losses[trial.trial_id])
        for trial in paused:
            if trial.trial_id not in self._promoted:
                tune_controller.stop_trial(trial)
        return next((trial for trial in paused if trial.trial_id in self._promoted), None)
