"""The trained part of a classifier: one optimizer step on a batch, evaluation, and sums over the workers."""

from __future__ import annotations

from typing import Any

import numpy as np

from catdog.config import StageConfig, UnfrozenStageConfig
from catdog.features.rows import RowSource
from catdog.training.fit.checkpoint import StageState

_EVALUATION_BATCH = 256


class Tail:
    """The trained part of a classifier with its optimizer: steps on batches, sums over workers."""

    def __init__(self, classifier: Any, settings: StageConfig, *, cut: str, strategy: Any, batch: int) -> None:
        import tf_keras

        from catdog.model import classifier as model

        self._strategy = strategy
        with strategy.scope():
            _, self.model = model.split_at(classifier, cut)
            keep_batch_norm = isinstance(settings, UnfrozenStageConfig) and not settings.train_batch_norm
            for layer in self.model.layers:
                layer.trainable = not (keep_batch_norm and isinstance(layer, tf_keras.layers.BatchNormalization))
            kind = {"adam": "Adam", "rmsprop": "RMSprop", "sgd": "SGD"}[settings.optimizer]
            self.optimizer = getattr(tf_keras.optimizers, kind)(settings.learning_rate)
            self.optimizer.build(self.model.trainable_variables)
        self.classes = int(self.model.output.shape[-1])
        self._train, self._evaluate = self._compile(batch)

    def _compile(self, batch: int) -> tuple[Any, Any]:
        import tensorflow as tf
        import tf_keras

        network, optimizer, strategy = self.model, self.optimizer, self._strategy
        variables = network.trainable_variables
        image_like = network.input.dtype == tf.uint8

        def scores(labels: Any, probabilities: Any) -> tuple[Any, Any]:
            labels = tf.cast(labels, tf.int32)
            losses = tf_keras.losses.sparse_categorical_crossentropy(labels, probabilities)
            right = tf.equal(tf.argmax(probabilities, axis=1, output_type=tf.int32), labels)
            count = tf.cast(tf.size(labels), tf.float32)
            return losses, tf.stack([tf.reduce_sum(losses), tf.reduce_sum(tf.cast(right, tf.float32)), count])

        def step(features: Any, labels: Any) -> Any:
            inputs = features if image_like else tf.cast(features, network.input.dtype)
            with tf.GradientTape() as tape:
                losses, sums = scores(labels, network(inputs, training=True))
                # Summed over workers by the optimizer, so each divides by the batch of all of them.
                loss = tf.reduce_sum(losses) / batch
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            return sums

        def measure(features: Any, labels: Any) -> Any:
            inputs = features if image_like else tf.cast(features, network.input.dtype)
            probabilities = network(inputs, training=False)
            # The label is a column of it: what comes back of all workers is one matrix.
            labelled = tf.concat([tf.cast(labels, tf.float32)[:, tf.newaxis], probabilities], axis=1)
            return scores(labels, probabilities)[1], labelled

        return (
            tf.function(lambda x, y: strategy.run(step, args=(x, y)), reduce_retracing=True),
            tf.function(lambda x, y: strategy.run(measure, args=(x, y)), reduce_retracing=True),
        )

    def train(self, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Take one step; return this worker's [sum of losses, right answers, rows]."""
        return np.asarray(self._train(features, labels), np.float64)

    def evaluate(self, rows: RowSource, kept: list[np.ndarray] | None = None) -> np.ndarray:
        """Return this worker's [sum of losses, right answers, rows] over one epoch of `rows`.

        What it said is appended to `kept`: arrays (N, 1 + classes) of label and probabilities.
        """
        sums = np.zeros(3)
        for features, labels in rows.epoch(0):
            for start in range(0, len(labels), _EVALUATION_BATCH):
                stop = start + _EVALUATION_BATCH
                found, labelled = self._evaluate(features[start:stop], labels[start:stop])
                sums += np.asarray(found, np.float64)
                if kept is not None:
                    kept.append(np.asarray(labelled))
        return sums

    def total(self, values: np.ndarray) -> np.ndarray:
        """Return `values` summed over the workers; each must call it."""
        import tensorflow as tf

        if self._strategy.num_replicas_in_sync == 1:
            return values
        own = tf.constant(values, tf.float32)
        spread = self._strategy.run(tf.function(lambda: tf.identity(own)))
        return np.asarray(self._strategy.reduce(tf.distribute.ReduceOp.SUM, spread, axis=None), np.float64)

    def restore(self, state: StageState) -> None:
        """Take weights and optimizer from a checkpoint."""
        self.model.set_weights(state.weights)
        for variable, value in zip(optimizer_variables(self.optimizer), state.optimizer, strict=True):
            variable.assign(value)


def optimizer_variables(optimizer: Any) -> list[Any]:
    """Return the variables of a Keras optimizer, the same in every version."""
    variables = optimizer.variables
    return list(variables() if callable(variables) else variables)
