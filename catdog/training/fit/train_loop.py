"""The train loop of a stage: epochs, best epoch, early stopping. Runs in train workers and in a sweep's trials."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from catdog.config import StageConfig
from catdog.errors import FailureError
from catdog.features.rows import CachedRows, RowSource
from catdog.training.fit.checkpoint import StageState
from catdog.training.fit.networks import Networks, Trained
from catdog.training.fit.train_step import StepPlan, Tail

# Reporting a checkpoint takes 0.2 s or more, which may be longer than an epoch on cached rows.
# A killed job repeats at most this much work plus one epoch.
_CHECKPOINT_EVERY_SECONDS = 2.0


class DivergedError(FailureError):
    """The loss is no longer a number, and the same training would end in the same way again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageRows:
    """One worker's share of the rows that a stage reads; every worker has the same number of `train` rows."""

    train: RowSource
    validation: CachedRows
    test: CachedRows | None = None

    def held_out(self) -> dict[str, CachedRows]:
        """Return the splits that a stage is measured on."""
        return {"validation": self.validation, **({"test": self.test} if self.test else {})}


class Observer(Protocol):
    """Callbacks of a stage while it trains."""

    def resume(self) -> StageState | None:
        """Return the state from which the stage resumes, or None if it starts from the beginning."""

    def on_step(self, epoch: int, step: int, steps: int) -> None:
        """Handle a finished step: `step` of `steps` are done in `epoch`, which counts from 0."""

    def on_epoch(self, state: StageState, *, checkpoint: bool) -> None:
        """Handle a finished epoch; `checkpoint` says whether to save `state`, and is the same on every worker."""

    def on_end(self) -> None:
        """Handle the end of the stage, after rank 0 has written its files; a worker may wait for the others here."""


def fit_stage(
    networks: Networks,
    settings: StageConfig,
    rows: StageRows,
    observer: Observer,
    *,
    cut: str,
    class_weights: tuple[float, ...] = (),
) -> StageState:
    """Train the tail of the classifier from `cut` on; leave it with the weights of its best epoch.

    The best epoch is the one with the lowest validation loss. Every worker calls this with its own share of the rows.
    `class_weights` has the weight of each class in the loss; if it is empty, all count the same.
    Raises DivergedError when the loss is no longer a number.
    """
    workers = networks.workers.count
    batch = _batch_per_worker(settings.global_batch_size, workers=workers, rows=rows.train.rows)
    steps = rows.train.rows // batch
    plan = StepPlan(batch=batch * workers, steps=steps * settings.epochs, class_weights=class_weights)
    tail = Tail(networks.trained, networks.workers, cut=cut, settings=settings, plan=plan)
    state = observer.resume() or StageState()
    if state.weights:
        tail.restore(state)
    last_checkpoint = time.monotonic()
    while state.epoch < settings.epochs and not _is_stale(state, settings):
        start = time.monotonic()
        trained = _train_epoch(tail, rows.train, observer, epoch=state.epoch, batch=batch, steps=steps)
        tail.share_statistics()
        due = time.monotonic() - last_checkpoint > _CHECKPOINT_EVERY_SECONDS
        with tail.averaged():
            sums = tail.total(np.concatenate([trained, tail.evaluate(rows.validation), [float(due)]]))
            candidate = tail.model.get_weights()
        row = {
            "epoch": state.epoch + 1,
            "steps": steps,
            "seconds": round(time.monotonic() - start, 3),
            "learning_rate": _learning_rate(settings, state.epoch),
        }
        scores = mean_scores(sums[:3], prefix="") | mean_scores(sums[3:6], prefix="val_")
        record_epoch(state, {**row, **scores}, tail, candidate)
        finished = state.epoch >= settings.epochs or _is_stale(state, settings)
        checkpoint = bool(sums[6]) or finished
        observer.on_epoch(state, checkpoint=checkpoint)
        if checkpoint:
            last_checkpoint = time.monotonic()
    if state.best_weights:
        tail.model.set_weights(state.best_weights)
    return state


def _train_epoch(tail: Tail, rows: RowSource, observer: Observer, *, epoch: int, batch: int, steps: int) -> np.ndarray:
    """Run the steps of `epoch`, counted from 0; return this worker's [sum of losses, right answers, rows]."""
    trained = np.zeros(3)
    for step, (features, labels) in enumerate(_batches(rows.epoch(epoch), batch, steps)):
        trained += tail.train(features, labels)
        observer.on_step(epoch, step + 1, steps)
    return trained


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """The results of a classifier on one split: its scores, and the probabilities of each photo.

    `labels` (N,) and `probabilities` (N, classes) are in the order of the cache, the same on every worker.
    """

    scores: dict[str, float]
    labels: np.ndarray
    probabilities: np.ndarray


def score_splits(networks: Trained, *, cut: str, splits: Mapping[str, CachedRows]) -> dict[str, Scored]:
    """Run the float32 classifier over each split once.

    Every worker calls this with its own shares and gets the results of the whole splits.
    """
    scorer = networks.scorer(cut)
    found = {}
    for split, rows in splits.items():
        kept: list[np.ndarray] = []
        sums = scorer.evaluate(rows, kept)
        # Each worker writes its share into a matrix of zeros, so that the sum over the workers is the whole.
        whole = np.zeros((rows.total, 1 + scorer.classes))
        if kept:
            whole[rows.first : rows.first + rows.rows] = np.concatenate(kept)
        columns = scorer.total(np.concatenate([sums, whole.ravel()]))
        scores = mean_scores(columns[:3], prefix="")
        labelled = columns[3:].reshape(whole.shape)
        labels, probabilities = labelled[:, 0].astype(np.int32), labelled[:, 1:].astype(np.float32)
        found[split] = Scored(
            scores={
                "accuracy": scores["acc"],
                "balanced_accuracy": _balanced_accuracy(labels, probabilities),
                "loss": scores["loss"],
            },
            labels=labels,
            probabilities=probabilities,
        )
    return found


def _balanced_accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean recall of the classes that occur in `labels`."""
    right = probabilities.argmax(axis=1) == labels
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def mean_scores(sums: np.ndarray, *, prefix: str) -> dict[str, float]:
    """Return mean loss and accuracy from `sums`: [sum of losses, right answers, rows] over all workers."""
    count = max(1.0, float(sums[2]))
    return {f"{prefix}loss": float(sums[0]) / count, f"{prefix}acc": float(sums[1]) / count}


def record_epoch(state: StageState, row: dict[str, float], tail: Tail, candidate: list[Any]) -> None:
    """Record a finished epoch in `state`; `candidate` are the weights that its validation scores belong to."""
    if not all(math.isfinite(row[name]) for name in ("loss", "val_loss")):
        raise DivergedError(
            f"the loss is NaN or infinite after epoch {state.epoch + 1} (learning rate {row['learning_rate']:g}); "
            "try a smaller learning rate"
        )
    state.epoch += 1
    state.history.append(row)
    state.weights, state.optimizer = tail.state()
    if row["val_loss"] <= min(past["val_loss"] for past in state.history):
        state.best_epoch, state.best_weights = state.epoch, candidate


def _learning_rate(settings: StageConfig, epoch: int) -> float:
    """Return the learning rate at the start of `epoch`, counted from 0."""
    if settings.schedule == "constant":
        return settings.learning_rate
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))


def _is_stale(state: StageState, settings: StageConfig) -> bool:
    return settings.patience > 0 and state.epoch - state.best_epoch >= settings.patience


def _batch_per_worker(global_batch_size: int, *, workers: int, rows: int) -> int:
    """Return how many rows a worker takes per step: its share of the global batch, or all its rows if fewer."""
    return max(1, min(global_batch_size // workers, rows))


def _batches(
    chunks: Iterator[tuple[np.ndarray, np.ndarray]], batch: int, steps: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut `chunks` into exactly `steps` batches of `batch` rows, across chunk borders; read `chunks` to the end."""
    features, labels = next(chunks)
    for _ in range(steps):
        while len(labels) < batch:
            more = next(chunks)
            features, labels = np.concatenate([features, more[0]]), np.concatenate([labels, more[1]])
        yield features[:batch], labels[:batch]
        features, labels = features[batch:], labels[batch:]
    for _ in chunks:  # a stream that is left open would hold the actors that the next epoch needs
        pass
