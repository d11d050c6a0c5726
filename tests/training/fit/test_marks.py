from typing import Any

import pytest

from catdog.training.fit.marks import best_stage, choice_text, rank_key


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
