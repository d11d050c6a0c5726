"""The completion marks of finished stages, and the one rule that chooses the stage with the best model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from catdog.errors import FailureError
from catdog.storage import artifacts, files

_SIGNIFICANT = 0.05  # p-value of the paired test between stages


def stage_mark(run_dir: str, stage: str) -> dict[str, Any]:
    """Return the mark that a finished stage left in `run_dir`: epochs, scores, seconds.

    Raises FailureError when it did not finish.
    """
    summary = artifacts.completed(files.join(run_dir, stage), inputs={})
    if summary is None:
        raise FailureError(f"the {stage} stage left no result in {run_dir}; run the same command to resume")
    return summary


def finished_marks(run_dir: str, stages: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the marks of those of `stages` that are finished, in their order."""
    found = {name: artifacts.completed(files.join(run_dir, name), inputs={}) for name in stages}
    return {name: mark for name, mark in found.items() if mark is not None}


def rank_key(scores: Mapping[str, float]) -> tuple[float, float]:
    """Return the key that ranks models, the greatest first: the lower validation loss, then the higher accuracy.

    The loss is more informative than the accuracy: one photo of a thousand changes the accuracy by chance.
    """
    return -scores["loss"], scores["accuracy"]


def best_stage(marks: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the stage whose model is the run's.

    A later stage replaces an earlier one if its `rank_key` on validation is greater, unless the paired test in its
    mark says that it gets fewer photos right. If the keys are equal, the earlier stage stays.
    """
    best, *later = marks
    for name in later:
        if rank_key(marks[name]["validation"]) > rank_key(marks[best]["validation"]) and not _is_worse(marks[name]):
            best = name
    return best


def choice_text(marks: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a sentence on why the model of `best_stage` is the run's."""
    best = best_stage(marks)
    others = [name for name in marks if name != best]
    if not others:
        return f"the {best} stage is the only one"
    loss, other = (marks[name]["validation"]["loss"] for name in (best, others[-1]))
    text = f"the {best} stage's model has the lower validation loss: {loss:.4f} against {other:.4f}"
    if loss > other:
        against = marks[others[-1]]["against"]
        text = (
            f"the {others[-1]} stage lowers the validation loss from {loss:.4f} to {other:.4f}, but gets fewer "
            f"validation photos right (McNemar p = {against['p_value']:.3g})"
        )
    return text


def _is_worse(mark: Mapping[str, Any]) -> bool:
    """Return whether the paired test in a stage's mark finds it significantly less accurate than the earlier one."""
    against = mark.get("against")  # earlier versions made no test
    if not against:
        return False
    return bool(against["p_value"] < _SIGNIFICANT and against["only_first_correct"] > against["only_second_correct"])
