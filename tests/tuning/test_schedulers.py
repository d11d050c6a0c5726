"""Which trials a scheduler lets go on: trials whose losses are known beforehand, on a real Ray Tune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from catdog.tuning.schedulers import make_scheduler

EPOCHS = 8


def epochs_run(scheduler: Any, losses: list[float], folder: Path) -> dict[float, int]:
    """The budget that each trial reached, by its loss."""
    from ray import tune

    def trial(params: dict[str, Any]) -> None:
        for budget in range(1, EPOCHS + 1):
            tune.report({"budget": budget, "val_loss": params["loss"]})

    found = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space={"loss": tune.grid_search(losses)},
        tune_config=tune.TuneConfig(scheduler=scheduler, reuse_actors=True),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0),
    ).fit()
    # A trial that went on from the first rung began anew, so its last report counts.
    return {result.config["loss"]: int(result.metrics["budget"]) for result in found}


@pytest.mark.usefixtures("ray_session")
def test_only_the_best_quarter_passes_the_first_rung_however_late_it_comes(tmp_path: Path) -> None:
    scheduler = make_scheduler("asha", epochs=EPOCHS, synchronous=True)
    found = epochs_run(scheduler, [0.9, 0.8, 0.7, 0.6, 0.5, 0.3, 0.2, 0.1], tmp_path)
    assert {loss for loss, budget in found.items() if budget > 1} == {0.1, 0.2}
    assert found[0.1] == EPOCHS


@pytest.mark.usefixtures("ray_session")
def test_one_trial_alone_runs_to_its_end(tmp_path: Path) -> None:
    assert epochs_run(make_scheduler("asha", epochs=EPOCHS, synchronous=True), [0.5], tmp_path) == {0.5: EPOCHS}


def test_a_search_that_learns_is_not_synchronous() -> None:
    scheduler = make_scheduler("asha", epochs=EPOCHS, synchronous=False)
    assert type(scheduler).__name__ == "AsyncHyperBandScheduler"
    assert make_scheduler("none", epochs=EPOCHS, synchronous=False) is None


def test_a_last_stage_of_one_epoch_has_a_scheduler_too() -> None:
    for synchronous in (True, False):
        assert make_scheduler("asha", epochs=1, synchronous=synchronous) is not None
