"""How good predictions are: accuracy with its interval, confusion matrix, scores by class, calibration, two models."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from catdog.console import table_text
from catdog.errors import UsageError
from catdog.storage.schemas import UNSURE

_Z_95 = 1.959963984540054  # of the normal distribution, two-sided 95 %
_BINS = 15  # Guo et al. 2017


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassScores:
    """Scores of one class; None where nothing was predicted as it, or no photo is of it."""

    name: str
    photos: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model on photos whose class is known.

    An unsure photo counts as not correct in `accuracy` and is left out of `accuracy_of_sure`. The interval is
    Wilson's, 95 %. `confusion` has a row for each true class and a column for each label, the last one for unsure.
    """

    classes: tuple[str, ...]
    photos: int
    correct: int
    sure: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    accuracy_of_sure: float | None
    log_loss: float
    calibration_error: float
    confusion: tuple[tuple[int, ...], ...]
    by_class: tuple[ClassScores, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON holds them."""
        return dataclasses.asdict(self)

    def lines(self) -> list[str]:
        """Return the numbers for the console."""
        unsure = self.sure < self.photos
        text = f"Accuracy {self.accuracy:.4f} (95 % interval {self.accuracy_low:.4f} to {self.accuracy_high:.4f})"
        if unsure and self.accuracy_of_sure is not None:
            text += f", {self.accuracy_of_sure:.4f} of the {self.sure} sure ones"
        labels = [*self.classes, *([UNSURE] if unsure else [])]
        confusion = [("true \\ label", *labels)]
        for name, row in zip(self.classes, self.confusion, strict=True):
            confusion.append((name, *(str(count) for count in row[: len(labels)])))
        scores = [("class", "photos", "precision", "recall", "F1")]
        for one in self.by_class:
            numbers = ("-" if score is None else f"{score:.4f}" for score in (one.precision, one.recall, one.f1))
            scores.append((one.name, str(one.photos), *numbers))  # type: ignore[arg-type]
        tables = f"{table_text(confusion)}\n{table_text(scores)}".split("\n")
        return [f"{text}, log loss {self.log_loss:.4f}, calibration error {self.calibration_error:.4f}", *tables]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the same photos: how often they say the same and, where classes are known, which is right."""

    photos: int
    agree: int
    first_accuracy: float | None
    second_accuracy: float | None
    only_first_correct: int | None
    only_second_correct: int | None
    p_value: float | None

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


def evaluate(
    true: np.ndarray, probabilities: np.ndarray, *, classes: Sequence[str], threshold: float = 0.0
) -> Evaluation:
    """Score `probabilities` (N, classes) against the labels `true` (N,); below `threshold` a photo is unsure.

    Raises UsageError when there is no photo.
    """
    photos = len(true)
    if not photos:
        raise UsageError("expected photos whose class is known, found none that could be read: nothing to evaluate")
    top = probabilities.max(axis=1)
    predicted = np.where(top < threshold, -1, probabilities.argmax(axis=1))
    confusion = confusion_matrix(true, predicted, classes=len(classes))
    correct, sure = int((predicted == true).sum()), int((predicted >= 0).sum())
    low, high = wilson_interval(correct, photos)
    return Evaluation(
        classes=tuple(classes),
        photos=photos,
        correct=correct,
        sure=sure,
        accuracy=correct / photos,
        accuracy_low=low,
        accuracy_high=high,
        accuracy_of_sure=correct / sure if sure else None,
        log_loss=log_loss(true, probabilities),
        calibration_error=expected_calibration_error(probabilities, probabilities.argmax(axis=1) == true),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        by_class=tuple(_class_scores(name, label, confusion) for label, name in enumerate(classes)),
    )


def compare(first: np.ndarray, second: np.ndarray, *, true: np.ndarray | None = None) -> Comparison:
    """Compare two models' (N, classes) probabilities of the same photos, and both with the labels `true` (N,).

    Raises UsageError when there is no photo.
    """
    if not len(first):
        raise UsageError("expected photos that can be read, found none: nothing to compare")
    labels = first.argmax(axis=1), second.argmax(axis=1)
    agree = int((labels[0] == labels[1]).sum())
    if true is None:
        nothing = dict.fromkeys(("first_accuracy", "second_accuracy", "only_first_correct", "only_second_correct"))
        return Comparison(photos=len(first), agree=agree, p_value=None, **nothing)
    right = labels[0] == true, labels[1] == true
    only_first, only_second, p_value = mcnemar(*right)
    return Comparison(
        photos=len(first),
        agree=agree,
        first_accuracy=float(right[0].mean()),
        second_accuracy=float(right[1].mean()),
        only_first_correct=only_first,
        only_second_correct=only_second,
        p_value=p_value,
    )


def confusion_matrix(true: np.ndarray, predicted: np.ndarray, *, classes: int) -> np.ndarray:
    """Return (classes, classes + 1) counts: rows the true labels, columns the predicted ones, -1 in the last."""
    columns = np.where(predicted < 0, classes, predicted)
    counts = np.bincount(true.astype(np.int64) * (classes + 1) + columns, minlength=classes * (classes + 1))
    return counts.reshape(classes, classes + 1)


def _class_scores(name: str, label: int, confusion: np.ndarray) -> ClassScores:
    hits, of_class, as_class = (
        int(x) for x in (confusion[label, label], confusion[label].sum(), confusion[:, label].sum())
    )
    return ClassScores(
        name=name,
        photos=of_class,
        precision=hits / as_class if as_class else None,
        recall=hits / of_class if of_class else None,
        f1=2 * hits / (of_class + as_class) if of_class + as_class else None,
    )


def log_loss(true: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean of -ln p of the true class; p is kept one float64 step above 0, as scikit-learn does."""
    chosen = probabilities[np.arange(len(true)), true].astype(np.float64)
    return float(-np.log(np.clip(chosen, np.finfo(np.float64).eps, 1.0)).mean())


def wilson_interval(correct: int, total: int, *, z: float = _Z_95) -> tuple[float, float]:
    """Return the interval of a share, `correct` of `total`, after E. B. Wilson, 1927; never outside [0, 1]."""
    share, square = correct / total, z * z
    centre = (share + square / (2 * total)) / (1 + square / total)
    half = z * math.sqrt(share * (1 - share) / total + square / (4 * total * total)) / (1 + square / total)
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(first_correct: np.ndarray, second_correct: np.ndarray) -> tuple[int, int, float]:
    """Return (only the first right, only the second right, p) of McNemar's test, 1947, exact and two-sided.

    p is the chance of a split of the photos on which one alone is right that is no more even than this one.
    """
    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((second_correct & ~first_correct).sum())
    total, fewer = only_first + only_second, min(only_first, only_second)
    # The binomial tail in logarithms: 2^-total is 0 in floats from a thousand photos on.
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
        for k in range(fewer + 1)
    ]
    return only_first, only_second, min(1.0, 2 * math.fsum(math.exp(log) for log in logs))


def reliability_bins(probabilities: np.ndarray, correct: np.ndarray, *, bins: int = _BINS) -> list[dict[str, float]]:
    """Return for each bin of the greatest probability that has photos: low, high, count, mean probability, accuracy.

    `probabilities` is (N, classes), `correct` (N,) bool. Bins are of equal width and closed above (Guo et al. 2017).
    """
    top = probabilities.max(axis=1).astype(np.float64)
    places = np.clip(np.ceil(top * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    sums, hits = (np.bincount(places, weights=values, minlength=bins) for values in (top, correct.astype(np.float64)))
    return [
        {
            "low": place / bins,
            "high": (place + 1) / bins,
            "count": int(counts[place]),
            "probability": float(sums[place] / counts[place]),
            "accuracy": float(hits[place] / counts[place]),
        }
        for place in np.flatnonzero(counts).tolist()
    ]


def expected_calibration_error(probabilities: np.ndarray, correct: np.ndarray, *, bins: int = _BINS) -> float:
    """Return the mean distance of accuracy from probability over the bins, weighted by photos (Guo et al. 2017)."""
    found = reliability_bins(probabilities, correct, bins=bins)
    return math.fsum(one["count"] * abs(one["accuracy"] - one["probability"]) for one in found) / len(correct)
