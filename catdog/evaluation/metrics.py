"""Scores of predictions: accuracy with its interval, balanced accuracy, log loss, calibration, confusion matrix.

The metrics are scikit-learn's and the intervals SciPy's. Both are imported inside functions, because they take a
second and a job's `--help` needs neither.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from catdog.console import table_text
from catdog.errors import UsageError
from catdog.storage.schemas import UNSURE

_BINS = 15  # Guo et al. 2017
_MAX_CLASSES = 12  # that a console has room for; of more the worst are listed


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

    An unsure photo counts as wrong in `accuracy` and is left out of `accuracy_of_sure`. The interval is Wilson's, 95 %.
    `balanced_accuracy` is the mean recall of the classes that have photos. `confusion` has a row for each true class
    and a column for each label, the last one for unsure.
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
        """Return the numbers as JSON holds them."""
        return dataclasses.asdict(self)

    def lines(self) -> list[str]:
        """Return the numbers for the console."""
        unsure = self.sure < self.photos
        text = f"Accuracy {self.accuracy:.4f} (95 % interval {self.accuracy_low:.4f} to {self.accuracy_high:.4f})"
        if unsure and self.accuracy_of_sure is not None:
            text += f", {self.accuracy_of_sure:.4f} of the {self.sure} sure ones"
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
    photos = len(true)
    if not photos:
        raise UsageError("expected photos whose class is known, found none that could be read: nothing to evaluate")
    top = probabilities.max(axis=1)
    predicted = np.where(top < threshold, -1, probabilities.argmax(axis=1))
    correct, sure = int((predicted == true).sum()), int((predicted >= 0).sum())
    low, high = wilson_interval(correct, photos)
    by_class = class_scores(true, predicted, classes=classes)
    recalls = [one.recall for one in by_class if one.recall is not None]
    confusion = confusion_matrix(true, predicted, classes=len(classes))
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
        log_loss=log_loss(true, probabilities),
        calibration_error=expected_calibration_error(probabilities, probabilities.argmax(axis=1) == true),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        by_class=by_class,
    )


def confusion_matrix(true: np.ndarray, predicted: np.ndarray, *, classes: int) -> np.ndarray:
    """Return (classes, classes + 1) counts: rows the true labels, columns the predicted ones, -1 in the last."""
    from sklearn import metrics

    columns = np.where(predicted < 0, classes, predicted)
    counts: np.ndarray = metrics.confusion_matrix(true, columns, labels=range(classes + 1))
    return counts[:classes]


def class_scores(true: np.ndarray, predicted: np.ndarray, *, classes: Sequence[str]) -> tuple[ClassScores, ...]:
    """Return precision, recall and F1 of each class from labels (N,); a `predicted` label of -1 is no class."""
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(true, predicted, labels=range(len(classes)), zero_division=np.nan)
    return tuple(
        ClassScores(name=name, photos=int(photos), precision=_known(precision), recall=_known(recall), f1=_known(f1))
        for name, precision, recall, f1, photos in zip(classes, *columns, strict=True)
    )


def _known(score: float) -> float | None:
    return None if math.isnan(score) else float(score)


def log_loss(true: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean of -ln p of the true class; p is kept one float64 step above 0."""
    from sklearn import metrics

    exact = probabilities.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)  # scikit-learn warns of float32's rounding
    return float(metrics.log_loss(true, exact, labels=range(exact.shape[1])))


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, `correct` of `total`, after E. B. Wilson, 1927; never outside [0, 1]."""
    from scipy.stats import binomtest

    interval = binomtest(correct, total).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def reliability_bins(probabilities: np.ndarray, correct: np.ndarray, *, bins: int = _BINS) -> list[dict[str, float]]:
    """Return for each bin of the confidence that has photos: low, high, count, mean probability, accuracy.

    The confidence is a row's greatest probability. `probabilities` is (N, classes), `correct` (N,) bool. Bins are of
    equal width and closed above (Guo et al. 2017).
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
    """Return the mean distance of accuracy from confidence over the bins, weighted by photos (Guo et al. 2017)."""
    found = reliability_bins(probabilities, correct, bins=bins)
    return math.fsum(one["count"] * abs(one["accuracy"] - one["probability"]) for one in found) / len(correct)
