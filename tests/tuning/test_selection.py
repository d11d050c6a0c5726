"""Which trial wins, and what it gains over the defaults."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from catdog.tuning.selection import choose_promoted, choose_winner, gain_text, measure_gain, objective, rank_records


def record(number: int, loss: float, accuracy: float, **rest: Any) -> dict[str, Any]:
    scores = {"loss": loss, "accuracy": accuracy}
    return {"number": number, "values": {}, "status": "finished", "validation": scores, **rest}


def by_number(*records: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {one["number"]: one for one in records}


def test_a_stopped_trial_with_the_best_checkpoint_wins_and_heads_the_table() -> None:
    # A bug that was reported: trials 2 and 7 were stopped, and the seventh of eight trials was called the best.
    found = by_number(
        record(2, 0.0444, 0.9840, status="stopped"),
        record(6, 0.0561, 0.9850),
        record(7, 0.0449, 0.9900, status="stopped"),
    )
    for metric, winner in (("val_loss", 2), ("val_accuracy", 7)):
        best = choose_winner(found, metric)
        assert best is not None
        assert best["number"] == winner
        assert rank_records(found, metric)[0]["number"] == winner


def test_ties_of_accuracy_are_broken_by_the_loss_and_then_by_the_number() -> None:
    found = by_number(record(0, 0.3, 0.99), record(1, 0.2, 0.99), record(2, 0.2, 0.99))
    assert [one["number"] for one in rank_records(found, "val_accuracy")] == [1, 2, 0]
    # One more correct photo in a million counts more than any difference in loss.
    assert objective({"accuracy": 0.990001, "loss": 9.0}, "val_accuracy") < objective(
        {"accuracy": 0.99, "loss": 0.1}, "val_accuracy"
    )


def test_a_trial_without_scores_or_with_a_loss_that_is_no_number_has_no_rank() -> None:
    failed: dict[str, Any] = {"number": 0, "values": {}, "status": "failed", "reason": "it diverged"}
    found = by_number(failed, record(1, float("nan"), 0.5))
    assert rank_records(found, "val_loss") == []
    assert choose_winner(found, "val_loss") is None


def test_folds_outweigh_the_validation_photos() -> None:
    folds = {"loss": 0.05, "accuracy": 0.98, "loss_error": 0.01, "accuracy_error": 0.01}
    found = by_number(record(0, 0.01, 1.0, folds={**folds, "loss": 0.06}), record(1, 0.02, 1.0, folds=folds))
    assert rank_records(found, "val_loss")[0]["number"] == 1


def test_the_one_standard_error_rule_prefers_the_stronger_penalty() -> None:
    def folded(number: int, loss: float, c: float) -> dict[str, Any]:
        folds = {"loss": loss, "accuracy": 0.98, "loss_error": 0.01, "accuracy_error": 0.01}
        return record(number, loss, 0.98, folds=folds, values={"frozen.c": c})

    found = by_number(folded(0, 0.060, 0.02), folded(1, 0.050, 0.3), folded(2, 0.059, 0.01), folded(3, 0.071, 0.001))
    for rule, winner in (("best", 1), ("one-se", 2)):
        best = choose_winner(found, "val_loss", rule=rule)
        assert best is not None
        assert best["number"] == winner


def test_the_best_quarter_and_the_defaults_go_on() -> None:
    found = {
        number: {
            "number": number,
            "values": {},
            "status": "stopped",
            "stages": {"frozen": {"loss": loss, "accuracy": 1}},
        }
        for number, loss in enumerate([0.9, 0.2, 0.8, 0.1, 0.7, 0.6, 0.5, 0.4])
    }
    assert choose_promoted(found, "val_loss", factor=4) == [3, 1, 0]


def test_the_gain_over_the_defaults_is_a_paired_test_in_plain_words() -> None:
    default = {"losses": np.full(100, 0.2), "correct": np.arange(100) >= 10}
    better = {"losses": np.full(100, 0.1) + np.arange(100) / 1e4, "correct": np.arange(100) >= 2}
    gain = measure_gain(better, default)
    assert (gain.winner_only, gain.default_only, gain.photos) == (8, 0, 100)
    assert gain.p_value == pytest.approx(2 / 2**8)
    assert gain.loss == pytest.approx(0.09505)
    text = gain_text(gain.as_dict("val_loss"), winner=3, photos="validation photos")
    assert text.endswith("The gain is larger than the noise.")
    same = measure_gain(default, default)
    assert (same.accuracy, same.loss) == (0.0, 0.0)
    assert "within noise: the default settings may be as good" in gain_text(
        same.as_dict("val_accuracy"), winner=3, photos="validation photos"
    )
