"""Temperature scaling: calibrated probabilities (C. Guo and others, ICML 2017).

    softmax(logits / T), T > 0, fitted on validation photos by log loss

T is one number, so the most probable class never changes. It is folded into the model: kernel and bias of the output
layer are divided by T (model/saved_model.py), so every engine returns calibrated probabilities. The model card records
the `temperature`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

_LOWEST, _HIGHEST = 0.05, 20.0
_MIN_WRONG = 10  # T is learned from the mistakes; with fewer it would be random
_FOLDS = 5
_STANDARD_ERRORS = 2.0  # by which the held-out log loss must improve
_TINY = float(np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Temperature:
    """The temperature to use, 1.0 if none helps, and the reason in words."""

    value: float
    reason: str


def choose_temperature(true: np.ndarray, probabilities: np.ndarray, *, seed: int = 0) -> Temperature:
    """Fit the temperature to `probabilities` (N, classes) of photos of the classes `true` (N,), if one helps.

    Two conditions must hold. At least ten photos are wrong. Temperatures fitted on four fifths of the photos lower the
    log loss of the other photos by more than twice the standard error of the difference.
    """
    wrong = int((probabilities.argmax(axis=1) != true).sum())
    if wrong < _MIN_WRONG:
        return Temperature(value=1.0, reason=f"{wrong} wrong photos are too few to fit a temperature")
    folds = np.random.default_rng(seed).permutation(len(true)) % _FOLDS
    gains = np.zeros(len(true))
    for fold in range(_FOLDS):
        held = folds == fold
        temperature = fit_temperature(true[~held], probabilities[~held])
        calibrated = apply_temperature(probabilities[held], temperature)
        gains[held] = _losses(true[held], probabilities[held]) - _losses(true[held], calibrated)
    if gains.mean() <= _STANDARD_ERRORS * gains.std(ddof=1) / np.sqrt(len(gains)):
        return Temperature(value=1.0, reason="no temperature lowers the log loss of held-out photos significantly")
    return Temperature(
        value=fit_temperature(true, probabilities),
        reason=f"it lowers the log loss of held-out photos by {gains.mean():.4f}",
    )


def fit_temperature(true: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the T with the lowest log loss, from 0.05 to 20.

    The log loss is convex in 1/T. Its derivative with respect to 1/T is the mean of E[logit] - logit of the true class.
    Bisection finds the zero of this derivative.
    """
    logits = _logits(probabilities)
    of_true = logits[np.arange(len(true)), true]
    low, high = 1 / _HIGHEST, 1 / _LOWEST
    for _ in range(50):
        middle = (low + high) / 2
        expected = (_softmax(middle * logits) * logits).sum(axis=1)
        low, high = (middle, high) if float((expected - of_true).mean()) < 0 else (low, middle)
    return float(2 / (low + high))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return (N, classes) `probabilities` after the logits are divided by `temperature`, in float64."""
    return _softmax(_logits(probabilities) / temperature)


def _logits(probabilities: np.ndarray) -> np.ndarray:
    """Return logits of `probabilities`, up to a constant in each row, which does not affect the softmax."""
    return np.log(np.maximum(probabilities.astype(np.float64), _TINY))


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return found


def _losses(true: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    losses: np.ndarray = -_logits(probabilities)[np.arange(len(true)), true]
    return losses
