"""What stops poor trials of a sweep early, on the best validation loss of each so far.

Schedulers count `effort`: 1 for all stages before the last, which cost little, and the epochs of the last stage.
"""

from __future__ import annotations

from typing import Any

_FACTOR = 4  # of the trials that come so far, one in four goes on
_GRACE = 4  # the effort at which those that went on are compared again


def make_scheduler(name: str, *, epochs: int, waits: bool) -> Any:
    """Return Ray Tune's scheduler for `name`, or None for `none`; `epochs` are those of the last stage.

    With `waits`, ASHA's first rung waits until all trials have come to it: what comes before the last stage costs
    seconds, so nothing is lost by it, and no trial goes on only because it was early.
    """
    from ray.tune import schedulers

    counted: dict[str, Any] = {"time_attr": "effort", "metric": "val_loss", "mode": "min"}
    if name == "asha":
        # max_t is never reached: ASHA would stop a trial there before it leaves its model.
        limits = {"max_t": epochs + 2, "reduction_factor": _FACTOR}
        if waits:
            return _make_halving(grace_period=min(_GRACE, epochs + 1), **limits, **counted)
        return schedulers.ASHAScheduler(grace_period=1, **limits, **counted)
    if name == "median":
        return schedulers.MedianStoppingRule(grace_period=2, min_samples_required=3, **counted)
    return None


def _make_halving(**settings: Any) -> Any:
    from ray.tune.experiment import Trial
    from ray.tune.schedulers import ASHAScheduler, TrialScheduler

    class Halving(ASHAScheduler):  # type: ignore[misc]
        """Pauses every trial at effort 1; when all are there, the best quarter goes on, best first, under ASHA.

        Source: successive halving (K. Jamieson, A. Talwalkar, AISTATS 2016) for the first rung.
        """

        def __init__(self) -> None:
            super().__init__(**settings)
            self._losses: dict[str, float] = {}  # of the trials that came to the rung, by trial id
            self._promoted: set[str] | None = None

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            if result["effort"] != 1 or self._promoted is not None:
                action: str = super().on_trial_result(tune_controller, trial, result)
                return action
            self._losses[trial.trial_id] = result["val_loss"]
            pause: str = TrialScheduler.PAUSE
            return pause

        def choose_trial_to_run(self, tune_controller: Any) -> Any:
            trials = tune_controller.get_trials()
            for trial in trials:
                if trial.status == Trial.PENDING:
                    return trial
            paused = [trial for trial in trials if trial.status == Trial.PAUSED]
            if self._promoted is None:
                on_the_way = (trial for trial in trials if trial.status == Trial.RUNNING)
                if not paused or any(trial.trial_id not in self._losses for trial in on_the_way):
                    return None
                ranked = sorted(self._losses, key=self._losses.__getitem__)
                self._promoted = set(ranked[: -(-len(ranked) // _FACTOR)])
            paused.sort(key=lambda trial: self._losses[trial.trial_id])
            for trial in paused:
                if trial.trial_id not in self._promoted:
                    tune_controller.stop_trial(trial)
            return next((trial for trial in paused if trial.trial_id in self._promoted), None)

    return Halving()
