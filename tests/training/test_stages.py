from typing import Any

import pytest

from catdog.command_line.settings import build_config
from catdog.config import TrainConfig
from catdog.training.stages import best_stage, choice_text, class_weights, rank_key


def mark(loss: float, accuracy: float, **more: Any) -> dict[str, Any]:
    return {"validation": {"loss": loss, "accuracy": accuracy}, **more}


def against(first: int, second: int, p_value: float) -> dict[str, Any]:
    return {"stage": "frozen", "only_first_correct": first, "only_second_correct": second, "p_value": p_value}


def test_the_loss_ranks_before_the_accuracy() -> None:
    models = [{"loss": 0.05, "accuracy": 0.99}, {"loss": 0.04, "accuracy": 0.98}, {"loss": 0.04, "accuracy": 0.985}]
    assert max(models, key=rank_key) == {"loss": 0.04, "accuracy": 0.985}


@pytest.mark.parametrize(
    ("unfrozen", "best"),
    [
        (mark(0.03, 0.99), "unfrozen"),
        (mark(0.05, 0.999), "frozen"),
        (mark(0.04, 0.985), "frozen"),  # a tie: the earlier one stays
        (mark(0.03, 0.97, against=against(18, 3, 0.0015)), "frozen"),  # fewer photos right, beyond chance
        (mark(0.03, 0.98, against=against(12, 7, 0.36)), "unfrozen"),  # within chance
        (mark(0.03, 0.999, against=against(0, 14, 0.0001)), "unfrozen"),
    ],
)
def test_a_later_stage_replaces_an_earlier_one_only_where_validation_prefers_it(
    unfrozen: dict[str, Any], best: str
) -> None:
    assert best_stage({"frozen": mark(0.04, 0.985), "unfrozen": unfrozen}) == best


def test_the_choice_is_told_in_a_sentence() -> None:
    frozen = mark(0.04, 0.985)
    assert choice_text({"frozen": frozen}) == "the frozen stage is the only one"
    assert choice_text({"frozen": frozen, "unfrozen": mark(0.03, 0.99)}) == (
        "the unfrozen stage's model has the lower validation loss: 0.0300 against 0.0400"
    )
    worse = mark(0.03, 0.97, against=against(18, 3, 0.0015))
    assert choice_text({"frozen": frozen, "unfrozen": worse}) == (
        "the unfrozen stage lowers the validation loss from 0.0400 to 0.0300, but gets fewer validation photos right "
        "(McNemar p = 0.0015)"
    )


class Counted:
    """A manifest of so many training photos of each class."""

    def __init__(self, *counts: int) -> None:
        self.classes = tuple("abc"[: len(counts)])
        self._counts = counts

    def counts(self) -> dict[str, dict[str, int]]:
        return {"train": dict(zip(self.classes, self._counts, strict=True))}


@pytest.mark.parametrize(
    ("asked", "counts", "weights"),
    [
        ("auto", (100, 140), ()),
        ("auto", (300, 100), (400 / 600, 400 / 200)),
        ("none", (300, 100), ()),
        ("balanced", (100, 100, 100), (1.0, 1.0, 1.0)),
    ],
)
def test_rare_classes_weigh_more_where_it_is_asked_for_or_the_counts_differ(
    asked: str, counts: tuple[int, ...], weights: tuple[float, ...]
) -> None:
    config = build_config(TrainConfig, {"class_weights": asked})
    assert class_weights(config, Counted(*counts)) == pytest.approx(weights)  # type: ignore[arg-type]
