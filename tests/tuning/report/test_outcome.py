"""The end of a sweep: which trials can win, and what the console reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from catdog.tuning.report.outcome import held_out_text, winner_text, with_models
from catdog.tuning.selection import choose_winner

OLD: dict[str, Any] = {"values": {"dropout": 0.1}, "status": "finished", "epochs": 4, "seconds": 1.0}


def test_a_sweep_of_an_earlier_version_is_won_by_a_trial_whose_model_it_kept(tmp_path: Path) -> None:
    found = {
        0: {**OLD, "number": 0, "status": "stopped", "validation": {"loss": 0.1, "accuracy": 0.99}},
        1: {**OLD, "number": 1, "stage": "unfrozen", "validation": {"loss": 0.2, "accuracy": 0.98}},
    }
    (tmp_path / "trials/00001/model").mkdir(parents=True)
    winner = choose_winner(with_models(found, str(tmp_path)), "val_loss")
    assert winner is not None
    assert winner["number"] == 1


def test_the_winner_is_named_by_what_it_was_chosen_by() -> None:
    result: dict[str, Any] = {
        "number": 0, "stage": "frozen", "validation": {"loss": 0.25, "accuracy": 0.9},
        "folds": {"loss": 0.125, "accuracy": 0.95, "scores": [{}] * 5},
    }  # fmt: skip
    assert winner_text(result, "val_loss") == (
        "Best: the default settings (trial 0), its frozen stage, chosen by val_loss over 5 folds: "
        "loss 0.1250, accuracy 0.9500."
    )
    assert winner_text({**result, "number": 3, "folds": None}, "val_accuracy") == (
        "Best: trial 3, its frozen stage, chosen by val_accuracy on validation: loss 0.2500, accuracy 0.9000."
    )
    tested = {"test": {"accuracy": 0.75}, "default": {"test": {"accuracy": 0.5}}}
    assert (
        held_out_text(tested)
        == "On the test photos, which were not used for selection: accuracy 0.7500, trial 0 0.5000."
    )
