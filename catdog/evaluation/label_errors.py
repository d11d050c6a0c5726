"""Likely label errors among training photos: confident disagreement with a held-out prediction.

The idea is confident learning's (C. G. Northcutt and others, JAIR 2021): a photo is suspect when a model that was
trained without it is surer of another class than it usually is of that class's own photos. The model is a logistic
regression on the principal components of features that are cached anyway, fitted five times on four fifths of the
photos.
"""

from __future__ import annotations

import dataclasses

import numpy as np

_FOLDS = 5
_STEPS = 100
_PENALTY = 1e-3  # on the weights, of features of about unit length: keeps a separable fit from certainty
_COMPONENTS = 128  # of 1,280 features: ten times faster, and the answers are the same


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suspects:
    """Photos whose label is likely wrong, the surest first: position, label of the prediction, its probability."""

    positions: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray


def find_label_errors(features: np.ndarray, labels: np.ndarray, *, classes: int, limit: int, seed: int = 0) -> Suspects:
    """Return at most `limit` suspects among photos of (N, F) `features` and given `labels` (N,) int.

    Where a class has fewer photos than there are folds, nothing can be said, and none is returned.
    """
    if np.bincount(labels, minlength=classes).min() < _FOLDS:
        nothing = np.zeros(0, np.int64)
        return Suspects(positions=nothing, labels=nothing, probabilities=np.zeros(0))
    chances = held_out_probabilities(features, labels, classes=classes, seed=seed)
    # The threshold of a class: how sure the model is, on the average, of the photos that carry its label.
    usual = np.array([chances[labels == label, label].mean() for label in range(classes)])
    # A class that the model does not know at all makes nobody suspect.
    rivals = np.where(chances > np.maximum(usual, 0.5), chances, 0.0)
    rivals[np.arange(len(labels)), labels] = 0.0
    found, top = rivals.argmax(axis=1), rivals.max(axis=1)
    order = np.argsort(-top, kind="stable")[:limit]
    chosen = order[top[order] > 0]
    return Suspects(positions=chosen, labels=found[chosen], probabilities=top[chosen])


def held_out_probabilities(features: np.ndarray, labels: np.ndarray, *, classes: int, seed: int = 0) -> np.ndarray:
    """Return (N, classes) probabilities of each photo by a regression that was not fitted on it."""
    # Folds in turn within each class, so that each has its share of every class.
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    folds = np.empty(len(labels), np.int64)
    folds[order] = np.arange(len(labels)) % _FOLDS
    scaled = _reduce(features)
    found = np.zeros((len(labels), classes))
    for fold in range(_FOLDS):
        held = folds == fold
        weights, bias = fit_logistic(scaled[~held], labels[~held], classes=classes)
        found[held] = _softmax(scaled[held] @ weights + bias)
    return found


def fit_logistic(
    features: np.ndarray, labels: np.ndarray, *, classes: int, steps: int = _STEPS
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a multinomial logistic regression with a squared penalty; return weights (F, classes) and bias (classes,).

    The loss is the mean log loss + penalty / 2 * sum of squared weights. Nesterov's accelerated gradient with a step
    of 1 / L, where L bounds the curvature: softmax's is a half at most, times the greatest eigenvalue of the features.
    """
    one_hot = np.eye(classes, dtype=np.float32)[labels]
    step = 1 / (0.5 * (_greatest_eigenvalue(features) + 1) + _PENALTY)
    parameters = np.zeros((features.shape[1] + 1, classes), np.float32)  # the bias is the last row
    ahead, momentum = parameters, 1.0
    for _ in range(steps):
        errors = (_softmax(features @ ahead[:-1] + ahead[-1]) - one_hot) / len(labels)
        gradient = np.concatenate([features.T @ errors + _PENALTY * ahead[:-1], errors.sum(axis=0, keepdims=True)])
        moved = ahead - step * gradient
        following = (1 + np.sqrt(1 + 4 * momentum * momentum)) / 2
        ahead = moved + np.float32((momentum - 1) / following) * (moved - parameters)
        parameters, momentum = moved, following
    return parameters[:-1], parameters[-1]


def _reduce(features: np.ndarray) -> np.ndarray:
    """Return (N, at most 128) float32: the principal components of the standardized features, rows about a unit long.

    The components are found by a random projection and one power iteration (N. Halko and others, SIAM Review 2011).
    """
    found = features.astype(np.float32)
    found -= found.mean(axis=0)
    found /= np.maximum(found.std(axis=0), np.float32(1e-6)) * np.float32(np.sqrt(found.shape[1]))
    if found.shape[1] <= _COMPONENTS:
        return found
    directions = np.random.default_rng(0).normal(size=(found.shape[1], _COMPONENTS)).astype(np.float32)
    for _ in range(2):
        directions = np.linalg.qr(found.T @ (found @ directions))[0]
    reduced: np.ndarray = found @ directions
    return reduced


def _greatest_eigenvalue(features: np.ndarray) -> float:
    """Return the greatest eigenvalue of the mean of x x^T over the rows, by power iteration, a little too great."""
    moments = features.T @ features / len(features)
    vector = np.ones((len(moments), 1), np.float32)
    length = 1.0
    for _ in range(30):
        vector = moments @ vector
        length = float(np.linalg.norm(vector))
        if length == 0.0:
            return 0.0
        vector = vector / np.float32(length)
    return 1.1 * length


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return found
