"""Scores of predictions: accuracy with its interval, balanced accuracy, log loss, calibration, confusion matrix.

All of them are computed from sums over photos (sums.py), so photos need not be in one place. The metrics follow
scikit-learn's definitions, and the intervals come from SciPy. SciPy is imported inside functions, because the import
takes a second and `--help` does not need it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from catdog.console import table_text
from catdog.errors import UsageError
from catdog.evaluation.sums import ScoreSums, score_sums
from catdog.storage.schemas import UNSURE

_MAX_CLASSES = 12  # that fit on a console; of more classes the worst are listed


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassScores:
    """Scores of one class; a score is None if it is undefined, for lack of photos or of predictions of the class."""

    name: str
    photos: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores of one model on photos whose class is known.

    An unsure photo counts as wrong in `accuracy` and is left out of `accuracy_of_sure`. The accuracy's interval is
    Wilson's, 95 %. `balanced_accuracy` is the mean recall of the classes that have photos. `confusion` has a row for
    each true class and a column for each label, the last one for unsure.
    """

    classes: tuple[str, ...]
    photos: int
    correct: int
    sure: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    accuracy_of_sure: float | None
    balanced_accuracy: float
    log_loss: float
    calibration_error: float
    confusion: tuple[tuple[int, ...], ...]
    by_class: tuple[ClassScores, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as a dict for JSON."""
        return dataclasses.asdict(self)

    def lines(self) -> list[str]:
        """Return the numbers as lines for the console."""
        unsure = self.sure < self.photos
        text = f"Accuracy {self.accuracy:.4f} (95 % interval {self.accuracy_low:.4f} to {self.accuracy_high:.4f})"
        if unsure and self.accuracy_of_sure is not None:
            text += f", {self.accuracy_of_sure:.4f} on the {self.sure} sure photos"
        text += f", balanced accuracy {self.balanced_accuracy:.4f}, log loss {self.log_loss:.4f}"
        first = f"{text}, calibration error {self.calibration_error:.4f}"
        labels = [*self.classes, *([UNSURE] if unsure else [])]
        if len(self.classes) <= _MAX_CLASSES:
            tables = [_confusion_rows(self, labels), _score_rows(self.by_class)]
        else:
            worst = sorted(self.by_class, key=lambda one: math.inf if one.f1 is None else one.f1)
            tables = [_frequent_confusions(self, labels), _score_rows(worst[:_MAX_CLASSES])]
            first += f"; the most frequent confusions and the worst of {len(self.classes)} classes:"
        return [first, *(line for rows in tables if len(rows) > 1 for line in table_text(rows).split("\n"))]


def _confusion_rows(evaluation: Evaluation, labels: Sequence[str]) -> list[tuple[str, ...]]:
    rows = zip(evaluation.classes, evaluation.confusion, strict=True)
    return [
        ("true \\ predicted", *labels),
        *((name, *(str(count) for count in row[: len(labels)])) for name, row in rows),
    ]


def _frequent_confusions(evaluation: Evaluation, labels: Sequence[str]) -> list[tuple[str, ...]]:
    pairs = [
        (count, name, label)
        for name, row in zip(evaluation.classes, evaluation.confusion, strict=True)
        for label, count in zip(labels, row, strict=False)
        if count and label != name
    ]
    pairs.sort(key=lambda pair: -pair[0])
    return [
        ("true", "predicted", "photos"),
        *((name, label, str(count)) for count, name, label in pairs[:_MAX_CLASSES]),
    ]


def _score_rows(scores: Sequence[ClassScores]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("class", "photos", "precision", "recall", "F1")]
    for one in scores:
        numbers = ("-" if score is None else f"{score:.4f}" for score in (one.precision, one.recall, one.f1))
        rows.append((one.name, str(one.photos), *numbers))
    return rows


def evaluate(
    true: np.ndarray, probabilities: np.ndarray, *, classes: Sequence[str], threshold: float = 0.0
) -> Evaluation:
    """Score `probabilities` (N, classes) against the labels `true` (N,); below `threshold` a photo is unsure.

    Raises UsageError when there is no photo.
    """
    return evaluate_sums(score_sums(true, probabilities, threshold=threshold), classes=classes)


def evaluate_sums(sums: ScoreSums, *, classes: Sequence[str]) -> Evaluation:
    """Score the photos in `sums`. Raises UsageError when there is no photo."""
    photos = sums.photos
    if not photos:
        raise UsageError("expected photos whose class is known, found none that could be read: nothing to evaluate")
    correct, sure = int(np.trace(sums.confusion)), photos - int(sums.confusion[:, -1].sum())
    low, high = wilson_interval(correct, photos)
    by_class = class_scores(sums.confusion, classes=classes)
    recalls = [one.recall for one in by_class if one.recall is not None]
    return Evaluation(
        classes=tuple(classes),
        photos=photos,
        correct=correct,
        sure=sure,
        accuracy=correct / photos,
        accuracy_low=low,
        accuracy_high=high,
        accuracy_of_sure=correct / sure if sure else None,
        balanced_accuracy=math.fsum(recalls) / len(recalls),
        log_loss=sums.loss / photos,
        calibration_error=expected_calibration_error(sums.bins),
        confusion=tuple(tuple(row) for row in sums.confusion.tolist()),
        by_class=by_class,
    )


def class_scores(confusion: np.ndarray, *, classes: Sequence[str]) -> tuple[ClassScores, ...]:
    """Return precision, recall and F1 of each class from the (classes, classes + 1) counts of `confusion`."""
    right, of_class, as_class = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return tuple(
        ClassScores(
            name=name,
            photos=int(of_class[label]),
            precision=_share(right[label], as_class[label]),
            recall=_share(right[label], of_class[label]),
            f1=_share(2 * right[label], of_class[label] + as_class[label]),
        )
        for label, name in enumerate(classes)
    )


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of the share `correct` / `total` (E. B. Wilson, 1927); it is never outside [0, 1]."""
    from scipy.stats import binomtest

    interval = binomtest(correct, total).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def reliability_bins(bins: np.ndarray) -> list[dict[str, float]]:
    """Return low, high, photos, mean confidence and accuracy of each confidence bin that has photos.

    The confidence is a row's greatest probability. `bins` is what sums.bin_sums returns.
    """
    counts, sums, hits = bins
    return [
        {
            "low": place / len(counts),
            "high": (place + 1) / len(counts),
            "photos": int(counts[place]),
            "confidence": float(sums[place] / counts[place]),
            "accuracy": float(hits[place] / counts[place]),
        }
        for place in np.flatnonzero(counts).tolist()
    ]


def expected_calibration_error(bins: np.ndarray) -> float:
    """Return the mean distance of accuracy from confidence over the bins, weighted by photos (Guo et al. 2017).

    `bins` is what sums.bin_sums returns.
    """
    counts, sums, hits = bins
    there = counts > 0
    distances = counts[there] * np.abs(hits[there] / counts[there] - sums[there] / counts[there])
    return math.fsum(distances) / int(counts.sum())
