"""The head of the frozen stage as a convex problem: regularized multinomial logistic regression on trunk features.

The frozen trunk turns each photo into a fixed vector, so the best head for a given penalty is unique. L-BFGS finds it
in tens of passes over the features, without a learning rate, epochs or early stopping. The penalty is chosen by
cross-validation over photos. The standardization is folded into the head, so the saved head is one plain dense layer.

If classes are uneven, class weights alone leave the head biased towards the large ones. It fits the few photos of a
small class far more closely than it generalizes to others of that class. So the biases are shifted to minimize the loss
on held-out photos.

Sources: D. Liu, J. Nocedal, "On the limited memory BFGS method", Mathematical Programming 45 (1989), as in SciPy. The
objective is that of scikit-learn's LogisticRegression: C * sum of losses + half the squared norm of the kernel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize, special

# Inverse penalties to try, for standardized features, from the strongest penalty to the weakest.
C_GRID = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
# Tolerances for the gradient of the mean loss. A larger one is enough to compare penalties, whose losses differ by
# far more.
_TOLERANCE, _COMPARING_TOLERANCE = 1e-6, 3e-5
_MAX_ITERATIONS = 500
_ROWS_AT_ONCE = 2048
_MIN_DEVIATION = 1e-6  # a feature that never varies is not scaled

Total = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogisticHead:
    """A fitted head: float32 `kernel` (D, K) and `bias` (K,) for the raw features of the trunk.

    `c` is the inverse penalty, and `losses` has the cross-validated mean log loss of each one that was tried.
    `shift` (K,) is the part of `bias` that corrects for uneven classes.
    """

    kernel: np.ndarray
    bias: np.ndarray
    c: float
    losses: dict[float, float]
    shift: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadRows:
    """One worker's share of the rows: features (N, D), labels (N,), positive weights (N,), folds (N,) from 0 on.

    All views of a photo are in the same fold. The loss on a photo whose other views were trained on would be too low.
    """

    features: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    folds: np.ndarray


def fit_logistic_head(
    rows: HeadRows,
    *,
    classes: int,
    candidates: Sequence[float] = C_GRID,
    folds: int = 5,
    uneven: bool = False,
    total: Total = lambda values: values,
) -> LogisticHead:
    """Fit a head on the rows of all workers, with the C among `candidates` of the lowest cross-validated loss.

    Every worker calls this with its share. `total` sums a float64 vector over the workers and returns the same result
    on each, so all take the same steps. A single worker does not need it. If classes are `uneven`, the weights of
    `rows` must balance them, and the biases are shifted. With one candidate and even classes, nothing is
    cross-validated.
    """
    problem = _Problem(rows, classes=classes, total=total)
    candidates = sorted(candidates)
    losses: dict[float, float] = {}
    shifts: dict[float, np.ndarray] = {}
    if len(candidates) > 1 or uneven:
        losses, shifts = _cross_validate(problem, candidates, folds=folds, uneven=uneven)
    c = min(losses, key=losses.__getitem__) if losses else candidates[0]
    everything = np.ones((len(rows.labels), 1), np.float32)
    kernel, bias = problem.unfold(problem.minimize(problem.zeros(1), c=c, kept=everything, tolerance=_TOLERANCE))
    shift = shifts.get(c, np.zeros(classes)).astype(np.float32)
    tried = losses if len(candidates) > 1 else {}
    return LogisticHead(kernel=kernel, bias=bias + shift, c=c, losses=tried, shift=shift)


def _cross_validate(
    problem: _Problem, candidates: Sequence[float], *, folds: int, uneven: bool
) -> tuple[dict[float, float], dict[float, np.ndarray]]:
    """Return the mean log loss on held-out folds for each candidate and, if `uneven`, the shift of its biases.

    Stops once the lowest loss is not among the last two. All folds are fitted as one problem, so that they share each
    pass over the features, which dominates the cost. Each candidate starts from the solution of the previous one.
    """
    held = problem.fold_masks(folds)
    points = problem.zeros(folds)
    losses: dict[float, float] = {}
    shifts: dict[float, np.ndarray] = {}
    for c in candidates:
        points = problem.minimize(points, c=c, kept=1 - held, tolerance=_COMPARING_TOLERANCE)
        left_out = problem.left_out(points, held)
        if uneven:
            shifts[c] = problem.fit_shift(left_out)
        losses[c] = problem.mean_loss(left_out)
        if len(losses) > 2 and min(losses.values()) not in list(losses.values())[-2:]:
            break
    return losses, shifts


class _Problem:
    """The objective over all workers' rows, for F fits at the same time that each use some of the rows.

    Points are float64 (F, D + 1, K): for each fit, the kernel for standardized features with the bias as its last row.
    """

    def __init__(self, rows: HeadRows, *, classes: int, total: Total) -> None:
        self._total, self._classes = total, classes
        self._folds, self._weights = rows.folds, rows.weights.astype(np.float32)[:, np.newaxis]
        features = rows.features.astype(np.float32)
        weights = rows.weights.astype(np.float64)
        moments = total(np.concatenate([[weights.sum()], _weighted_sum(weights, features)]))
        self._mean = moments[1:] / moments[0]
        features -= self._mean.astype(np.float32)
        deviation = np.sqrt(total(_weighted_sum(weights, features, np.square)) / moments[0])
        self._deviation = np.where(deviation > _MIN_DEVIATION, deviation, 1.0)
        features /= self._deviation.astype(np.float32)
        self._features = features
        self._truth = np.eye(classes, dtype=np.float32)[rows.labels][:, np.newaxis]

    def zeros(self, fits: int) -> np.ndarray:
        """Return the points at which all classes are equally likely."""
        return np.zeros((fits, self._features.shape[1] + 1, self._classes))

    def fold_masks(self, folds: int) -> np.ndarray:
        """Return float32 (N, folds): 1 where a row belongs to a fold."""
        masks: np.ndarray = np.eye(folds, dtype=np.float32)[self._folds]
        return masks

    def minimize(self, points: np.ndarray, *, c: float, kept: np.ndarray, tolerance: float) -> np.ndarray:
        """Return the points that minimize the objectives, from `points` on; `kept` (N, F) is 1 for a fit's own rows."""
        weights = kept * self._weights
        # Divided by the total weight of the rows, objectives have the same scale for ten photos and for a million.
        scale = 1.0 / (c * self._total(weights.sum(axis=0, dtype=np.float64)))

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            found = flat.reshape(points.shape)
            log_probabilities = self._log_probabilities(found)
            losses = -np.einsum("nfk,nok,nf->f", log_probabilities, self._truth, weights, optimize=True)
            residual = (np.exp(log_probabilities) - self._truth) * weights[..., np.newaxis]
            slopes = (self._features.T @ residual.reshape(len(residual), -1)).reshape(-1, *residual.shape[1:])
            slopes = np.concatenate([slopes, residual.sum(axis=0)[np.newaxis]]).transpose(1, 0, 2)
            sums = self._total(np.concatenate([losses, slopes.ravel()]).astype(np.float64)) * c
            losses, slopes = sums[: len(losses)], sums[len(losses) :].reshape(points.shape)
            kernels = found[:, :-1]
            slopes[:, :-1] += kernels
            losses += 0.5 * np.square(kernels).sum(axis=(1, 2))
            return float(scale @ losses), (slopes * scale[:, np.newaxis, np.newaxis]).ravel()

        limits = {"gtol": tolerance, "ftol": 0.0, "maxiter": _MAX_ITERATIONS, "maxfun": 2 * _MAX_ITERATIONS}
        found = optimize.minimize(objective, points.ravel(), jac=True, method="L-BFGS-B", options=limits)
        best: np.ndarray = found.x.reshape(points.shape)
        return best

    def left_out(self, points: np.ndarray, held: np.ndarray) -> np.ndarray:
        """Return the float64 log probabilities (N, K) of each row by the fit that held it out: `held` (N, F) is 1."""
        found: np.ndarray = np.einsum("nfk,nf->nk", self._log_probabilities(points), held, dtype=np.float64)
        return found

    def mean_loss(self, logits: np.ndarray) -> float:
        """Return the weighted mean log loss over all workers' rows; this worker's have `logits` (N, K)."""
        loss, weight = self._total(np.array([self._loss(logits)[0], self._weights.sum()], np.float64))
        return float(loss / weight)

    def fit_shift(self, logits: np.ndarray) -> np.ndarray:
        """Return the shift (K,) that minimizes the loss when it is added to `logits` (N, K).

        Half its squared norm is added to the sum of losses, so this penalty counts as much as the loss of one photo.
        """

        def objective(shift: np.ndarray) -> tuple[float, np.ndarray]:
            loss, slope = self._loss(logits + shift)
            sums = self._total(np.concatenate([[loss], slope]))
            return float(sums[0] + 0.5 * shift @ shift), sums[1:] + shift

        found: np.ndarray = optimize.minimize(objective, np.zeros(self._classes), jac=True, method="L-BFGS-B").x
        return found

    def _loss(self, logits: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the weighted sum of losses of this worker's rows, and its gradient for a shift of the biases."""
        log_probabilities = special.log_softmax(logits, axis=1)
        truth = self._truth[:, 0]
        loss = -float((log_probabilities * truth * self._weights).sum(dtype=np.float64))
        slope: np.ndarray = ((np.exp(log_probabilities) - truth) * self._weights).sum(axis=0, dtype=np.float64)
        return loss, slope

    def unfold(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return kernel and bias of the first fit for raw features: w'(x - m)/s + b = (w/s)'x + b - (w/s)'m."""
        kernel = points[0, :-1] / self._deviation[:, np.newaxis]
        bias = points[0, -1] - self._mean @ kernel
        return kernel.astype(np.float32), bias.astype(np.float32)

    def _log_probabilities(self, points: np.ndarray) -> np.ndarray:
        """Return the log probabilities of this worker's rows, float32 (N, F, K)."""
        flat = points.astype(np.float32).transpose(1, 0, 2).reshape(points.shape[1], -1)
        logits = (self._features @ flat[:-1] + flat[-1]).reshape(-1, len(points), self._classes)
        found: np.ndarray = special.log_softmax(logits, axis=2)
        return found


def _weighted_sum(
    weights: np.ndarray, features: np.ndarray, function: Callable[[np.ndarray], np.ndarray] = lambda rows: rows
) -> np.ndarray:
    """Return float64 (D,): the sum of `function` of the rows (N, D) times `weights` (N,).

    Rows are processed in chunks, because all of them in float64 would take twice the memory of the features.
    """
    found = np.zeros(features.shape[1])
    for start in range(0, len(features), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        found += weights[rows] @ function(features[rows])
    return found
