"""Sums over photos that scores are computed from: each task counts its own photos, and the tasks' sums are added."""

from __future__ import annotations

import dataclasses

import numpy as np

BINS = 15  # Guo et al. 2017


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreSums:
    """Sums for one model over photos whose class is known; sums of disjoint sets of photos can be added.

    `confusion` is (classes, classes + 1) counts: rows are true labels, columns predicted labels, the last one unsure.
    `loss` is the sum of the photos' log losses. `bins` is (3, BINS): for each confidence bin the number of photos, the
    sum of their confidences, and how many of them are correct, whether sure or not.
    """

    confusion: np.ndarray
    loss: float
    bins: np.ndarray

    @property
    def photos(self) -> int:
        """The number of photos."""
        return int(self.confusion.sum())

    def __add__(self, other: ScoreSums) -> ScoreSums:
        """Return the sums of both sets of photos."""
        return ScoreSums(
            confusion=self.confusion + other.confusion, loss=self.loss + other.loss, bins=self.bins + other.bins
        )


def score_sums(true: np.ndarray, probabilities: np.ndarray, *, threshold: float = 0.0) -> ScoreSums:
    """Return the sums for `probabilities` (N, classes) and labels `true` (N,); below `threshold` a photo is unsure."""
    classes = probabilities.shape[1]
    top, chosen = probabilities.max(axis=1), probabilities.argmax(axis=1)
    predicted = np.where(top < threshold, classes, chosen)
    return ScoreSums(
        confusion=count_pairs(true, predicted, classes=classes),
        loss=float(losses(true, probabilities).sum()),
        bins=bin_sums(top, chosen == true),
    )


def count_pairs(true: np.ndarray, predicted: np.ndarray, *, classes: int) -> np.ndarray:
    """Return (classes, classes + 1) counts of label pairs (N,); the value `classes` in `predicted` means unsure."""
    places = true.astype(np.int64) * (classes + 1) + predicted
    return np.bincount(places, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def losses(true: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return -ln p of the true class of each photo (N,); p is kept one float64 step above 0, as scikit-learn does."""
    exact = probabilities.astype(np.float64)
    of_true = exact[np.arange(len(true)), true] / exact.sum(axis=1)
    step = np.finfo(np.float64).eps
    found: np.ndarray = -np.log(np.clip(of_true, step, 1 - step))
    return found


def bin_sums(confidence: np.ndarray, correct: np.ndarray, *, bins: int = BINS) -> np.ndarray:
    """Return the sums of ScoreSums.bins for `confidence` (N,) and `correct` (N,) bool.

    Bins are of equal width and closed above (Guo et al. 2017).
    """
    exact = confidence.astype(np.float64)
    places = np.clip(np.ceil(exact * bins).astype(np.int64) - 1, 0, bins - 1)
    weights = (None, exact, correct.astype(np.float64))
    return np.stack([np.bincount(places, weights=weight, minlength=bins) for weight in weights])
