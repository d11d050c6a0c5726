"""Logistic regression in mini-batches, for features that do not fit in memory.

Adam with a cosine schedule runs on standardized features. The objective is that of `logistic_head`, so both have the
same optimum: mean loss plus the penalty times half the squared norm of the kernel.
Source of the update rule: D. P. Kingma, J. Ba, "Adam", ICLR 2015.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import special

from catdog.training.fit.head.logistic_head import LogisticHead

_RATE = 3e-3  # initial learning rate, for standardized features
_DECAYS = (0.9, 0.999)
_EPSILON = 1e-8
_MIN_DEVIATION = 1e-6

Total = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(kw_only=True)
class HeadState:
    """The state after a step: float64 `point` (D + 1, K) for standardized features, Adam's `moments` (2, D + 1, K)."""

    point: np.ndarray
    moments: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    step: int = 0

    @classmethod
    def start(cls, head: LogisticHead, features: np.ndarray, *, total: Total) -> HeadState:
        """Return the state at `head` without its shift; all workers' `features` (N, D) give mean and deviation."""
        squares = np.einsum("nd,nd->d", features, features, dtype=np.float64, casting="same_kind")
        sums = total(np.concatenate([[len(features)], features.sum(axis=0, dtype=np.float64), squares]))
        mean, square = np.split(sums[1:] / sums[0], 2)
        deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
        deviation = np.where(deviation > _MIN_DEVIATION, deviation, 1.0)
        point = np.concatenate([head.kernel * deviation[:, np.newaxis], [head.bias - head.shift + mean @ head.kernel]])
        return cls(point=point, moments=np.zeros((2, *point.shape)), mean=mean, deviation=deviation)

    def unfold(self) -> tuple[np.ndarray, np.ndarray]:
        """Return float32 kernel (D, K) and bias (K,) for raw features."""
        kernel = self.point[:-1] / self.deviation[:, np.newaxis]
        return kernel.astype(np.float32), (self.point[-1] - self.mean @ kernel).astype(np.float32)

    def to_arrays(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return what a checkpoint holds as weights and as the optimizer's state."""
        return [self.point, self.mean, self.deviation], [self.moments, np.array(self.step)]

    @classmethod
    def from_arrays(cls, weights: Sequence[np.ndarray], optimizer: Sequence[np.ndarray]) -> HeadState:
        """Return the state from the arrays that `to_arrays` returned."""
        point, mean, deviation = weights
        return cls(point=point, mean=mean, deviation=deviation, moments=optimizer[0], step=int(optimizer[1]))


class BatchProblem:
    """Optimizer steps on batches, the same on every worker, because `total` sums the gradients over all workers."""

    def __init__(
        self, state: HeadState, *, penalty: float, class_weights: np.ndarray, steps: int, total: Total
    ) -> None:
        self.state = state
        self._penalty, self._class_weights, self._steps, self._total = penalty, class_weights, steps, total

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step: half a cosine that falls to zero after the last step."""
        return _RATE * 0.5 * (1 + math.cos(math.pi * min(1.0, self.state.step / self._steps)))

    def step(self, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Take one step on this worker's part of a batch; return its [sum of losses, right answers, rows]."""
        state, rate = self.state, self.learning_rate
        inputs = (features.astype(np.float32) - state.mean.astype(np.float32)) / state.deviation.astype(np.float32)
        log_probabilities = special.log_softmax(inputs @ state.point[:-1] + state.point[-1], axis=1)
        rows = np.arange(len(labels))
        losses = -log_probabilities[rows, labels]
        right = int((log_probabilities.argmax(axis=1) == labels).sum())
        residual = np.exp(log_probabilities)
        residual[rows, labels] -= 1
        residual *= self._class_weights[labels][:, np.newaxis]
        gradient = np.concatenate([inputs.T @ residual, residual.sum(axis=0)[np.newaxis]])
        sums = self._total(np.concatenate([[len(labels)], gradient.ravel()]))
        self._descend((sums[1:] / sums[0]).reshape(gradient.shape), rate)
        return np.array([losses.sum(), right, len(labels)], np.float64)

    def _descend(self, gradient: np.ndarray, rate: float) -> None:
        state = self.state
        gradient[:-1] += self._penalty * state.point[:-1]
        state.step += 1
        for moment, decay, value in zip(state.moments, _DECAYS, (gradient, np.square(gradient)), strict=True):
            moment *= decay
            moment += (1 - decay) * value
        first, second = (moment / (1 - decay**state.step) for moment, decay in zip(state.moments, _DECAYS, strict=True))
        state.point = state.point - rate * first / (np.sqrt(second) + _EPSILON)
