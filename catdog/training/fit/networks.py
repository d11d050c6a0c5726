"""The interface of the classifier that stages train, and its implementation in Keras."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from catdog.features.rows import RowSource
from catdog.model.saved_model import OUTPUT
from catdog.training.fit.train_step import Tail
from catdog.training.fit.workers import Workers


class Scorer(Protocol):
    """Measures a classifier on rows of features."""

    classes: int

    def evaluate(self, rows: RowSource, kept: list[np.ndarray] | None = None) -> np.ndarray:
        """Return what Tail.evaluate does."""

    def total(self, values: np.ndarray) -> np.ndarray:
        """Return what Tail.total does."""


class Head(Scorer, Protocol):
    """The output layer of a classifier, on its pooled features."""

    width: int  # numbers in a feature
    workers: int

    def get(self) -> list[np.ndarray]:
        """Return its kernel and bias."""

    def set(self, weights: Sequence[np.ndarray]) -> None:
        """Set its kernel and bias."""


class Trained(Protocol):
    """A classifier that stages train, measure and save: Networks, or head_network.HeadNetwork."""

    def load(self, model_dir: str) -> None:
        """Load all weights from a saved model."""

    def head(self, cut: str) -> Head:
        """Return the output layer, for features at `cut`."""

    def scorer(self, cut: str) -> Scorer:
        """Return a Scorer of the classifier in float32 with its present weights, for features at `cut`."""

    def save(self, folder: Path, card: Mapping[str, Any]) -> None:
        """Write the model directory `folder`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Networks:
    """A Keras classifier in training, and the workers that train it.

    `float32` is the network that is measured and saved: `trained` itself, or a copy if that has a lower precision.
    """

    trained: Any
    float32: Any
    workers: Workers = dataclasses.field(default_factory=Workers)

    def load(self, model_dir: str) -> None:
        """Load all weights from a saved model."""
        from catdog.model import classifier as model

        model.load_weights_into(self.trained, model_dir)
        self._update_float32()

    def head(self, cut: str) -> Head:
        """Return the output layer, for features at `cut`."""
        return _KerasHead(self, cut)

    def scorer(self, cut: str) -> Scorer:
        """Return a Scorer of the classifier in float32 with its present weights, for features at `cut`."""
        self._update_float32()
        return Tail(self.float32, self.workers, cut=cut)

    def save(self, folder: Path, card: Mapping[str, Any]) -> None:
        """Write the model directory `folder`."""
        from catdog.model import classifier as model

        self._update_float32()
        model.save_model(folder, self.float32, card)

    def _update_float32(self) -> None:
        """Copy the trained weights to `float32`, if that is another network."""
        if self.float32 is not self.trained:
            self.float32.set_weights(self.trained.get_weights())


class _KerasHead:
    """The output layer of the classifier in training, as a Head."""

    def __init__(self, networks: Networks, cut: str) -> None:
        self._tail = Tail(networks.trained, networks.workers, cut=cut)
        self._layer = networks.trained.get_layer(OUTPUT)
        self.classes, self.workers = self._tail.classes, networks.workers.count
        self.width = int(np.prod(self._tail.model.input.shape[1:]))
        self.evaluate, self.total = self._tail.evaluate, self._tail.total

    def get(self) -> list[np.ndarray]:
        found: list[np.ndarray] = self._layer.get_weights()
        return found

    def set(self, weights: Sequence[np.ndarray]) -> None:
        self._layer.set_weights(weights)
