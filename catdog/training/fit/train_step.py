"""The trained part of a classifier: one optimizer step on a batch, evaluation, and sums over the workers."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from catdog.config import StageConfig, UnfrozenStageConfig
from catdog.features.rows import RowSource
from catdog.training.fit.checkpoint import StageState
from catdog.training.fit.workers import Workers

_EVALUATION_BATCH = 256
_OPTIMIZERS = {"adam": "Adam", "rmsprop": "RMSprop", "sgd": "SGD"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepPlan:
    """The steps of a stage: rows in a batch over all workers, total steps, weight of each class in the loss or none."""

    batch: int = 1
    steps: int = 1
    class_weights: tuple[float, ...] = ()


class Tail:
    """The trained part of a classifier with its optimizer: steps on batches, sums over workers."""

    def __init__(
        self,
        classifier: Any,
        workers: Workers,
        *,
        cut: str,
        settings: StageConfig | None = None,
        plan: StepPlan | None = None,
    ) -> None:
        import tf_keras

        from catdog.model import classifier as model

        settings, self._plan = settings or StageConfig(), plan or StepPlan()
        self._workers, self._settings = workers, settings
        self.total = workers.total
        _, self.model = model.split_at(classifier, cut)
        keep_batch_norm = isinstance(settings, UnfrozenStageConfig) and not settings.train_batch_norm
        self._moving: list[Any] = []  # moving statistics that training updates
        for layer in self.model.layers:
            normalizes = isinstance(layer, tf_keras.layers.BatchNormalization)
            layer.trainable = not (keep_batch_norm and normalizes)
            if normalizes and layer.trainable:
                self._moving += layer.non_trainable_weights
        self.optimizer = _make_optimizer(settings, steps=self._plan.steps)
        self.optimizer.build(self.model.trainable_variables)
        self.classes = int(self.model.output.shape[-1])
        self._train, self._evaluate = self._compile()

    def _compile(self) -> tuple[Any, Any]:
        import tensorflow as tf

        network, optimizer, workers = self.model, self.optimizer, self._workers
        variables = network.trainable_variables
        image_like = network.input.dtype == tf.uint8
        batch, smoothing = self._plan.batch, self._settings.label_smoothing
        class_weights = tf.constant(self._plan.class_weights or (1.0,) * self.classes, tf.float32)

        def prepare(features: Any) -> Any:
            return features if image_like else tf.cast(features, network.input.dtype)

        def step(features: Any, labels: Any) -> Any:
            labels = tf.cast(labels, tf.int32)
            with tf.GradientTape() as tape:
                probabilities = network(prepare(features), training=True)
                losses = _cross_entropy(labels, probabilities)
                target = losses
                if smoothing:
                    log_probabilities = tf.math.log(tf.clip_by_value(probabilities, 1e-7, 1.0))
                    target = (1 - smoothing) * losses - smoothing * tf.reduce_mean(log_probabilities, axis=1)
                # The gradients are summed over the workers, so each one divides by the global batch.
                loss = tf.reduce_sum(tf.gather(class_weights, labels) * target) / batch
            gradients = workers.summed(tape.gradient(loss, variables))
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return _sums(labels, probabilities, losses)

        def measure(features: Any, labels: Any) -> Any:
            labels = tf.cast(labels, tf.int32)
            probabilities = network(prepare(features), training=False)
            # The label is the first column, so that labels and probabilities come back as one matrix.
            labelled = tf.concat([tf.cast(labels, tf.float32)[:, tf.newaxis], probabilities], axis=1)
            return _sums(labels, probabilities, _cross_entropy(labels, probabilities)), labelled

        # No control flow here depends on the value of a tensor, so autograph is not needed. It writes a file to TMPDIR
        # for each function that it rewrites. These stay when a process is killed, as workers are.
        compiled = functools.partial(tf.function, reduce_retracing=True, autograph=False)
        return compiled(step), compiled(measure)

    def train(self, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Take one step; return this worker's [sum of losses, right answers, rows]."""
        return np.asarray(self._train(features, labels), np.float64)

    def evaluate(self, rows: RowSource, kept: list[np.ndarray] | None = None) -> np.ndarray:
        """Return this worker's [sum of losses, right answers, rows] over one epoch of `rows`.

        If `kept` is given, arrays (N, 1 + classes) of label and probabilities are appended to it.
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

    def share_statistics(self) -> None:
        """Give all workers the mean of their moving statistics, which differ as their batches do; all call this."""
        if self._workers.count == 1 or not self._moving:
            return
        sums = self._workers.totals([variable.numpy() for variable in self._moving])
        for variable, summed in zip(self._moving, sums, strict=True):
            variable.assign(summed / self._workers.count)

    def state(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return (weights, optimizer)."""
        return self.model.get_weights(), [np.asarray(value) for value in _optimizer_variables(self.optimizer)]

    def restore(self, state: StageState) -> None:
        """Restore the weights and the optimizer from a checkpoint."""
        self.model.set_weights(state.weights)
        for variable, value in zip(_optimizer_variables(self.optimizer), state.optimizer, strict=True):
            variable.assign(value)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the model the moving average of its weights within the block, if the stage keeps one."""
        if not self._settings.average_decay:
            yield
            return
        weights = self.model.get_weights()
        self.optimizer.finalize_variable_values(self.model.trainable_variables)
        try:
            yield
        finally:
            self.model.set_weights(weights)


def _make_optimizer(settings: StageConfig, *, steps: int) -> Any:
    import tf_keras

    rate: Any = settings.learning_rate
    if settings.schedule == "cosine":
        rate = tf_keras.optimizers.schedules.CosineDecay(settings.learning_rate, decay_steps=max(1, steps))
    optimizer = getattr(tf_keras.optimizers, _OPTIMIZERS[settings.optimizer])(
        rate,
        weight_decay=settings.weight_decay or None,
        use_ema=settings.average_decay > 0,
        ema_momentum=settings.average_decay or 0.99,
    )
    if settings.weight_decay:
        # Only kernels are regularized: not biases, nor the scales and shifts of batch normalization.
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _cross_entropy(labels: Any, probabilities: Any) -> Any:
    import tf_keras

    return tf_keras.losses.sparse_categorical_crossentropy(labels, probabilities)


def _sums(labels: Any, probabilities: Any, losses: Any) -> Any:
    """Return [sum of losses, right answers, rows] of a batch."""
    import tensorflow as tf

    right = tf.equal(tf.argmax(probabilities, axis=1, output_type=tf.int32), labels)
    count = tf.cast(tf.size(labels), tf.float32)
    return tf.stack([tf.reduce_sum(losses), tf.reduce_sum(tf.cast(right, tf.float32)), count])


def _optimizer_variables(optimizer: Any) -> list[Any]:
    variables = optimizer.variables
    return list(variables() if callable(variables) else variables)
