"""The train loop of both stages: epochs, the best of them, the end.

`fit_stage` trains a tail on rows: in the workers of a train job, and in the process of a sweep's trial.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from catdog.config import StageConfig
from catdog.errors import FailureError
from catdog.features.rows import CachedRows, RowSource
from catdog.training.fit.checkpoint import StageState
from catdog.training.fit.train_step import Tail, optimizer_variables

# A report costs 0.2 s and more; epochs of cached rows may be shorter. So much work a killed job repeats.
_CHECKPOINT_EVERY_SECONDS = 2.0


class DivergedError(FailureError):
    """The loss is no longer a number: the same training would end so again."""


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
    batch = _batch_per_worker(settings.global_batch_size, workers=workers, rows=train.rows)
    steps = train.rows // batch
    tail = Tail(classifier, settings, cut=cut, strategy=strategy, batch=batch * workers)
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
        record_epoch(state, row, tail)
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
    tail = Tail(classifier, StageConfig(), cut=cut, strategy=strategy, batch=1)
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
    tail = Tail(classifier, StageConfig(), cut=cut, strategy=strategy, batch=1)
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


def record_epoch(state: StageState, row: dict[str, float], tail: Tail) -> None:
    """Enter a finished epoch into `state`; every worker does, because reading weights may ask all of them."""
    if not all(math.isfinite(row[name]) for name in ("loss", "val_loss")):
        raise DivergedError(
            f"the loss is not a number after epoch {state.epoch + 1} (learning rate {row['learning_rate']:g}); "
            "try a smaller learning rate"
        )
    state.epoch += 1
    state.history.append(row)
    state.weights = tail.model.get_weights()
    state.optimizer = [np.asarray(value) for value in optimizer_variables(tail.optimizer)]
    losses = [past["val_loss"] for past in state.history]
    if row["val_loss"] <= min(losses):
        state.best_epoch, state.best_weights = state.epoch, state.weights


def _is_stale(state: StageState, settings: StageConfig) -> bool:
    return settings.patience > 0 and state.epoch - state.best_epoch >= settings.patience


def _scores(sums: np.ndarray, *, prefix: str) -> dict[str, float]:
    count = max(1.0, float(sums[2]))
    return {f"{prefix}loss": float(sums[0]) / count, f"{prefix}acc": float(sums[1]) / count}


def _batch_per_worker(global_batch_size: int, *, workers: int, rows: int) -> int:
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
