"""The record of a trial that ended, for which every checkpoint counts."""

from __future__ import annotations

from typing import Any

from catdog.tuning.trials.callbacks import merge_record

BEFORE: dict[str, Any] = {
    "number": 4, "status": "stopped", "stage": "frozen", "validation": {"loss": 0.1, "accuracy": 0.97},
    "stages": {"frozen": {"loss": 0.1, "accuracy": 0.97, "epochs": 1}},
}  # fmt: skip


def merged(loss: float, **rest: Any) -> dict[str, Any]:
    scores = {"loss": loss, "accuracy": 0.98}
    result = {"stage": "unfrozen", "validation": scores, "stages": {"unfrozen": {**scores, "epochs": 3}}, **rest}
    return merge_record(BEFORE, result, number=4, values={"dropout": 0.1}, metric="val_loss")


def test_a_trial_that_was_stopped_in_a_worse_stage_keeps_the_better_one() -> None:
    record = merged(0.2)
    assert (record["stage"], record["validation"]["loss"]) == ("frozen", 0.1)
    assert (record["status"], record["reached"], record["epochs"]) == ("stopped", "unfrozen", 4)


def test_a_better_epoch_of_a_later_stage_counts_though_the_trial_was_stopped() -> None:
    record = merged(0.05)
    assert (record["stage"], record["validation"]["loss"], record["status"]) == ("unfrozen", 0.05, "stopped")


def test_a_failed_trial_keeps_what_it_reached() -> None:
    record = merged(0.05, status="failed", reason="it diverged")
    assert (record["status"], record["reason"], record["stage"]) == ("failed", "it diverged", "unfrozen")
    empty = merge_record({}, {"status": "failed", "reason": "x"}, number=1, values={}, metric="val_loss")
    assert "validation" not in empty
