"""Two models on the same photos: how often they agree, and whether one is better than the other or merely luckier."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from catdog.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedTest:
    """McNemar's test (1947), exact and two-sided: the photos that only one of two models gets right.

    `p_value` is the probability of a split at least as uneven as this one if both models were equally good.
    """

    only_first_correct: int
    only_second_correct: int
    p_value: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the same photos: how often they say the same and, where classes are known, which is right."""

    photos: int
    agree: int
    first_accuracy: float | None = None
    second_accuracy: float | None = None
    only_first_correct: int | None = None
    only_second_correct: int | None = None
    p_value: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON holds them."""
        return dataclasses.asdict(self)

    def lines(self) -> list[str]:
        """Return the numbers for the console."""
        lines = [f"They agree on {self.agree} of {self.photos} photos ({self.agree / self.photos:.1%})."]
        if self.first_accuracy is not None and self.p_value is not None:
            lines.append(
                f"Accuracy {self.first_accuracy:.4f} and {self.second_accuracy:.4f}: only the first is right on "
                f"{self.only_first_correct}, only the second on {self.only_second_correct} "
                f"(McNemar p = {self.p_value:.3g})."
            )
        return lines


def paired_test(first_correct: np.ndarray, second_correct: np.ndarray) -> PairedTest:
    """Compare two models by which photos they get right, each (N,) bool, the same photos in the same order."""
    from scipy.stats import binomtest

    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((second_correct & ~first_correct).sum())
    differing = only_first + only_second
    p_value = float(binomtest(only_first, differing).pvalue) if differing else 1.0
    return PairedTest(only_first_correct=only_first, only_second_correct=only_second, p_value=p_value)


def compare_models(first: np.ndarray, second: np.ndarray, *, true: np.ndarray | None = None) -> Comparison:
    """Compare two models' (N, classes) probabilities of the same photos, and both with the labels `true` (N,).

    Raises UsageError when there is no photo.
    """
    if not len(first):
        raise UsageError("expected photos that can be read, found none: nothing to compare")
    labels = first.argmax(axis=1), second.argmax(axis=1)
    agree = int((labels[0] == labels[1]).sum())
    if true is None:
        return Comparison(photos=len(first), agree=agree)
    correct = labels[0] == true, labels[1] == true
    return Comparison(
        photos=len(first),
        agree=agree,
        first_accuracy=float(correct[0].mean()),
        second_accuracy=float(correct[1].mean()),
        **dataclasses.asdict(paired_test(*correct)),
    )
