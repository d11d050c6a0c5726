"""The interface of the classifier that stages train, and its implementation in Keras."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from catdog.features.rows import RowSource
from catdog.model.saved_model import OUTPUT, ClassifierSpec
from catdog.training.fit.train_step import Tail


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
        """Load all weights from a saved model; every worker calls this."""

    def head(self, cut: str) -> Head:
        """Return the output layer, for features at `cut`."""

    def scorer(self, cut: str) -> Scorer:
        """Return a Scorer of the classifier in float32, for features at `cut`."""

    def gather(self) -> list[np.ndarray]:
        """Return the trained weights, and copy them to the network that is measured; every worker calls this."""

    def save(self, folder: Path, card: Mapping[str, Any], *, spec: ClassifierSpec, weights: list[np.ndarray]) -> None:
        """Write the model directory `folder` with the weights that `gather` returned; one worker calls this."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Networks:
    """A Keras classifier in training, and the tf.distribute strategy in whose scope it was built.

    `float32` is the network that is measured and saved: `trained` itself, or a copy if that has a lower precision.
    """

    trained: Any
    float32: Any
    strategy: Any
    _own: list[Any] = dataclasses.field(default_factory=list)

    def own_float32(self, spec: ClassifierSpec) -> Any:
        """Return a float32 classifier of `spec` that this process can read and save without the other workers.

        With one worker this is `float32` itself. With several it is another network with its own weights, built once:
        a worker that reads mirrored variables alone would wait for the others forever.
        """
        if self.strategy.num_replicas_in_sync == 1:
            return self.float32
        if not self._own:
            import tensorflow as tf

            from catdog.model import classifier as model

            with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
                self._own.append(model.build_classifier(spec))
        return self._own[0]

    def _both(self) -> list[Any]:
        return list({id(each): each for each in (self.trained, self.float32)}.values())

    def load(self, model_dir: str) -> None:
        """Load all weights from a saved model; every worker calls this."""
        from catdog.model import classifier as model

        for network in self._both():
            model.load_weights_into(network, model_dir)

    def head(self, cut: str) -> Head:
        """Return the output layer, for features at `cut`."""
        return _KerasHead(self, cut)

    def scorer(self, cut: str) -> Scorer:
        """Return a Scorer of the classifier in float32, for features at `cut`."""
        return Tail(self.float32, self.strategy, cut=cut)

    def gather(self) -> list[np.ndarray]:
        """Return the trained weights, and copy them to `float32`; every worker calls this."""
        weights: list[np.ndarray] = self.trained.get_weights()  # reading some variables involves all workers
        if self.float32 is not self.trained:
            self.float32.set_weights(weights)
        return weights

    def save(self, folder: Path, card: Mapping[str, Any], *, spec: ClassifierSpec, weights: list[np.ndarray]) -> None:
        """Write the model directory `folder` with the weights that `gather` returned; one worker calls this."""
        from catdog.model import classifier as model

        classifier = self.own_float32(spec)
        if classifier is not self.float32:
            classifier.set_weights(weights)
        model.save_model(folder, classifier, card)


class _KerasHead:
    """The output layer of the classifier in training, as a Head."""

    def __init__(self, networks: Networks, cut: str) -> None:
        self._tail = Tail(networks.trained, networks.strategy, cut=cut)
        self._layer = networks.trained.get_layer(OUTPUT)
        self.classes, self.workers = self._tail.classes, int(networks.strategy.num_replicas_in_sync)
        self.width = int(np.prod(self._tail.model.input.shape[1:]))
        self.evaluate, self.total = self._tail.evaluate, self._tail.total

    def get(self) -> list[np.ndarray]:
        found: list[np.ndarray] = self._layer.get_weights()
        return found

    def set(self, weights: Sequence[np.ndarray]) -> None:
        self._layer.set_weights(weights)
