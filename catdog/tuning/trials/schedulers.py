"""What stops poor trials of a sweep early: Ray Tune's own schedulers, on the sweep's objective.

Schedulers count a trial's `budget`: 1 for the frozen stage, which costs little, plus the epochs of the unfrozen stage.
Trial 0, the default settings, reports a budget of 0, on which no scheduler acts. Imported late: it needs Ray.
"""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, TrialScheduler

FACTOR = 4  # one in four of the trials that reach a rung continues
_GRACE = 4  # the budget at which trials of the unfrozen stage are compared first, if all had passed the frozen one


def make_scheduler(name: str, *, epochs: int, screened: bool) -> TrialScheduler | None:
    """Return Ray Tune's scheduler for `name`, or None for `none`; `epochs` are those of the unfrozen stage.

    `screened` trials are the best quarter of a run of the frozen stage; others are compared after that stage.
    """
    compared: dict[str, Any] = {"time_attr": "budget", "metric": "objective", "mode": "min"}
    if name == "asha":
        grace = min(_GRACE, epochs + 1) if screened else 1
        return ASHAScheduler(grace_period=grace, max_t=epochs + 2, reduction_factor=FACTOR, **compared)
    if name == "median":
        return MedianStoppingRule(grace_period=2, min_samples_required=3, **compared)
    return None
