"""The two stages: one train loop, and the state from which it goes on. Nothing here knows of Ray.

`fit_stage` trains a tail on rows; workers.py calls it in the workers of a trainer, tuning.py in a trial's process.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from catdog.config import StageConfig, UnfrozenStageConfig
from catdog.errors import FailureError
from catdog.features.rows import CachedRows, RowSource
from catdog.storage import files

HISTORY_COLUMNS = ("epoch", "steps", "seconds", "learning_rate", "loss", "acc", "val_loss", "val_acc")
# A report costs 0.2 s and more; epochs of cached rows may be shorter. So much work a killed job repeats.
_CHECKPOINT_EVERY_SECONDS = 2.0
_EVALUATION_BATCH = 256


class DivergedError(FailureError):
    """The loss is no longer a number: the same training would end so again."""


@dataclasses.dataclass(kw_only=True)
class StageState:
    """Where a stage stands after an epoch: all that is needed to go on."""

    epoch: int = 0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    weights: list[np.ndarray] = dataclasses.field(default_factory=list)
    optimizer: list[np.ndarray] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    best_weights: list[np.ndarray] = dataclasses.field(default_factory=list)

    def to_bytes(self) -> bytes:
        """Return the state as the content of an npz file; nothing in it is pickled."""
        arrays = {
            f"{kind}_{index:04d}": array
            for kind in ("weights", "optimizer", "best_weights")
            for index, array in enumerate(getattr(self, kind))
        }
        header = json.dumps({"epoch": self.epoch, "history": self.history, "best_epoch": self.best_epoch})
        content = io.BytesIO()
        np.savez(content, header=np.frombuffer(header.encode(), np.uint8), **arrays)
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> StageState:
        """Read what `to_bytes` returned."""
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            header = json.loads(stored["header"].tobytes())
            lists = {
                kind: [stored[name] for name in sorted(stored.files) if name.startswith(f"{kind}_")]
                for kind in ("weights", "optimizer", "best_weights")
            }
        return cls(epoch=header["epoch"], history=header["history"], best_epoch=header["best_epoch"], **lists)


def fit_stage(
    classifier: Any,
    settings: StageConfig,
    *,
    cut: str,
    train: RowSource,
    validation: RowSource,
    strategy: Any,
    seed: int,
    state: StageState | None = None,
    on_epoch: Callable[[StageState, bool], None] | None = None,
    on_step: Callable[[int, int, int], None] | None = None,
) -> StageState:
    """Train the tail of `classifier` from `cut` on; leave it with the weights of its best epoch.

    The best epoch is the one of the lowest validation loss. `classifier` was built in the scope of `strategy`,
    a tf.distribute strategy; every worker of it calls this with its own share of the rows, of equal length.
    `on_epoch` gets the state and whether it is time for a checkpoint, the same on every worker;
    `on_step` gets (epoch, steps done, steps).
    Raises DivergedError when the loss is no longer a number.
    """
    workers = strategy.num_replicas_in_sync
    batch = _batch_a_worker(settings.global_batch_size, workers=workers, rows=train.rows)
    steps = train.rows // batch
    tail = _Tail(classifier, settings, cut=cut, strategy=strategy, batch=batch * workers)
    state = state or StageState()
    if state.weights:
        tail.restore(state)
    last_checkpoint = time.monotonic()
    while state.epoch < settings.epochs and not _is_stale(state, settings):
        start = time.monotonic()
        trained = np.zeros(3)
        for step, (features, labels) in enumerate(_batches(train.epoch(state.epoch), batch, steps)):
            trained += tail.train(features, labels)
            if on_step:
                on_step(state.epoch, step + 1, steps)
        due = time.monotonic() - last_checkpoint > _CHECKPOINT_EVERY_SECONDS
        sums = tail.total(np.concatenate([trained, tail.evaluate(validation), [float(due)]]))
        row = {
            "epoch": state.epoch + 1,
            "steps": steps,
            "seconds": round(time.monotonic() - start, 3),
            "learning_rate": settings.learning_rate,
            **_scores(sums[:3], prefix=""),
            **_scores(sums[3:6], prefix="val_"),
        }
        _take(state, row, tail)
        finished = state.epoch >= settings.epochs or _is_stale(state, settings)
        checkpoint = bool(sums[6]) or finished
        if on_epoch:
            on_epoch(state, checkpoint)
        if checkpoint:
            last_checkpoint = time.monotonic()
    if state.best_weights:
        tail.model.set_weights(state.best_weights)
    return state


def evaluate(classifier: Any, *, cut: str, rows: RowSource, strategy: Any) -> dict[str, float]:
    """Return {"accuracy", "loss"} of `classifier` on all rows of all workers."""
    tail = _Tail(classifier, StageConfig(), cut=cut, strategy=strategy, batch=1)
    scores = _scores(tail.total(tail.evaluate(rows)), prefix="")
    return {"accuracy": scores["acc"], "loss": scores["loss"]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """What a classifier made of one split: its scores, and for each photo its probabilities.

    `labels` (N,) and `probabilities` (N, classes) are in the order of the cache, the same on every worker.
    """

    scores: dict[str, float]
    labels: np.ndarray
    probabilities: np.ndarray


def score_splits(classifier: Any, *, cut: str, splits: Mapping[str, CachedRows], strategy: Any) -> dict[str, Scored]:
    """Run `classifier` over each split once; every worker calls this with its shares and gets the whole."""
    tail = _Tail(classifier, StageConfig(), cut=cut, strategy=strategy, batch=1)
    found = {}
    for split, rows in splits.items():
        kept: list[np.ndarray] = []
        sums = tail.evaluate(rows, kept)
        # A share is entered at its place among zeros, so that the sum over the workers is the whole.
        whole = np.zeros((rows.total, 1 + tail.classes))
        if kept:
            whole[rows.first : rows.first + rows.rows] = np.concatenate(kept)
        columns = tail.total(np.concatenate([sums, whole.ravel()]))
        scores = _scores(columns[:3], prefix="")
        probabilities = columns[3:].reshape(whole.shape)
        found[split] = Scored(
            scores={"accuracy": scores["acc"], "loss": scores["loss"]},
            labels=probabilities[:, 0].astype(np.int32),
            probabilities=probabilities[:, 1:].astype(np.float32),
        )
    return found


class _Tail:
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
        for variable, value in zip(_optimizer_variables(self.optimizer), state.optimizer, strict=True):
            variable.assign(value)


def _take(state: StageState, row: dict[str, float], tail: _Tail) -> None:
    """Enter a finished epoch into `state`; every worker does, because reading weights may ask all of them."""
    if not all(math.isfinite(row[name]) for name in ("loss", "val_loss")):
        raise DivergedError(
            f"the loss is not a number after epoch {state.epoch + 1} (learning rate {row['learning_rate']:g}); "
            "try a smaller learning rate"
        )
    state.epoch += 1
    state.history.append(row)
    state.weights = tail.model.get_weights()
    state.optimizer = [np.asarray(value) for value in _optimizer_variables(tail.optimizer)]
    losses = [past["val_loss"] for past in state.history]
    if row["val_loss"] <= min(losses):
        state.best_epoch, state.best_weights = state.epoch, state.weights


def _optimizer_variables(optimizer: Any) -> list[Any]:
    variables = optimizer.variables
    return list(variables() if callable(variables) else variables)


def _is_stale(state: StageState, settings: StageConfig) -> bool:
    return settings.patience > 0 and state.epoch - state.best_epoch >= settings.patience


def _scores(sums: np.ndarray, *, prefix: str) -> dict[str, float]:
    count = max(1.0, float(sums[2]))
    return {f"{prefix}loss": float(sums[0]) / count, f"{prefix}acc": float(sums[1]) / count}


def _batch_a_worker(global_batch_size: int, *, workers: int, rows: int) -> int:
    """Return how many rows a worker takes a step: its share of the global batch, or all it has."""
    return max(1, min(global_batch_size // workers, rows))


def _batches(
    chunks: Iterator[tuple[np.ndarray, np.ndarray]], batch: int, steps: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut `chunks` into exactly `steps` batches of `batch` rows, across the borders of chunks."""
    features, labels = next(chunks)
    for _ in range(steps):
        while len(labels) < batch:
            more = next(chunks)
            features, labels = np.concatenate([features, more[0]]), np.concatenate([labels, more[1]])
        yield features[:batch], labels[:batch]
        features, labels = features[batch:], labels[batch:]


def write_history(directory: str, history: Sequence[Mapping[str, float]]) -> None:
    """Write history.csv, whole: one row an epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    files.write_bytes(files.join(directory, "history.csv"), text.getvalue().encode())


def read_history(directory: str) -> list[dict[str, float]]:
    """Return the rows of history.csv, or none where the stage has not finished an epoch."""
    path = files.join(directory, "history.csv")
    if not files.exists(path):
        return []
    rows = csv.DictReader(io.StringIO(files.read_bytes(path).decode()))
    return [{name: float(value) for name, value in row.items()} for row in rows]
