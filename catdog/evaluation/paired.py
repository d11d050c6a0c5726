"""Two models on the same photos: how often they agree, and whether one is better by more than chance."""

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
    """Two models on the same photos: how often they agree and, if classes are known, how often each is right."""

    photos: int
    agree: int
    first_accuracy: float | None = None
    second_accuracy: float | None = None
    only_first_correct: int | None = None
    only_second_correct: int | None = None
    p_value: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as a dict for JSON."""
        return dataclasses.asdict(self)

    def lines(self) -> list[str]:
        """Return the numbers as lines for the console."""
        lines = [f"They agree on {self.agree} of {self.photos} photos ({self.agree / self.photos:.1%})."]
        if self.first_accuracy is not None and self.p_value is not None:
            lines.append(
                f"Accuracy {self.first_accuracy:.4f} and {self.second_accuracy:.4f}: only the first is right on "
                f"{self.only_first_correct}, only the second on {self.only_second_correct} "
                f"(McNemar p = {self.p_value:.3g})."
            )
        return lines


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairSums:
    """The counts over some photos that a comparison is computed from; counts of disjoint sets of photos can be added.

    Photos without a class are counted only in `photos` and `agree`.
    """

    photos: int = 0
    agree: int = 0
    known: int = 0
    agree_known: int = 0
    first_correct: int = 0
    second_correct: int = 0
    both_correct: int = 0

    def __add__(self, other: PairSums) -> PairSums:
        """Return the sums of both sets of photos."""
        mine, others = dataclasses.astuple(self), dataclasses.astuple(other)
        names = [field.name for field in dataclasses.fields(self)]
        return PairSums(**dict(zip(names, map(sum, zip(mine, others, strict=True)), strict=True)))


def pair_sums(first: np.ndarray, second: np.ndarray, true: np.ndarray) -> PairSums:
    """Return the sums of two models' (N, classes) probabilities of the same photos; `true` (N,) has -1 for no class."""
    labels, known = (first.argmax(axis=1), second.argmax(axis=1)), true >= 0
    agree, correct = labels[0] == labels[1], [found == true for found in labels]
    counts = [agree, known, agree & known, *correct, correct[0] & correct[1]]
    return PairSums(
        **dict(
            zip(
                ("agree", "known", "agree_known", "first_correct", "second_correct", "both_correct"),
                (int(count.sum()) for count in counts),
                strict=True,
            )
        ),
        photos=len(true),
    )


def compare_sums(sums: PairSums) -> Comparison:
    """Compare two models on the photos of known class, or on all photos in `sums` if no class is known.

    Raises UsageError when there is no photo.
    """
    if not sums.photos:
        raise UsageError("expected photos that can be read, found none: nothing to compare")
    if not sums.known:
        return Comparison(photos=sums.photos, agree=sums.agree)
    only_first, only_second = sums.first_correct - sums.both_correct, sums.second_correct - sums.both_correct
    return Comparison(
        photos=sums.known,
        agree=sums.agree_known,
        first_accuracy=sums.first_correct / sums.known,
        second_accuracy=sums.second_correct / sums.known,
        only_first_correct=only_first,
        only_second_correct=only_second,
        p_value=_p_value(only_first, only_second),
    )


def paired_test(first_correct: np.ndarray, second_correct: np.ndarray) -> PairedTest:
    """Compare two models by which photos they get right: both (N,) bool, of the same photos in the same order."""
    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((second_correct & ~first_correct).sum())
    return PairedTest(
        only_first_correct=only_first,
        only_second_correct=only_second,
        p_value=_p_value(only_first, only_second),
    )


def _p_value(only_first: int, only_second: int) -> float:
    from scipy.stats import binomtest

    differing = only_first + only_second
    return float(binomtest(only_first, differing).pvalue) if differing else 1.0


def compare_models(first: np.ndarray, second: np.ndarray, *, true: np.ndarray | None = None) -> Comparison:
    """Compare two models' (N, classes) probabilities of the same photos, and both with labels `true` (N,) if given.

    Raises UsageError when there is no photo.
    """
    labels = np.full(len(first), -1) if true is None else true
    return compare_sums(pair_sums(first, second, labels))
