"""The frozen stage without a learning rate: its head is the regularized logistic regression on trunk features.

If the features of a worker's share fit in memory, the head is solved exactly (`logistic_head`). Otherwise a head is
solved on as many rows as fit, which also chooses the penalty. It is then refined in mini-batches (`head_batches`)
towards the same optimum.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import special

from catdog.config import FrozenStageConfig
from catdog.training.fit.checkpoint import StageState
from catdog.training.fit.head.head_batches import BatchProblem, HeadState
from catdog.training.fit.head.logistic_head import HeadRows, LogisticHead, fit_logistic_head
from catdog.training.fit.networks import Head
from catdog.training.fit.train_loop import DivergedError, Observer, StageRows, mean_scores

FOLDS = 5
_EXACT_BYTES = 2**30  # of float32 features of one worker; the solver holds them about twice
_CHECKPOINT_EVERY_SECONDS = 2.0
_ROWS_AT_ONCE = 8192


def fit_frozen_head(
    head: Head,
    settings: FrozenStageConfig,
    rows: StageRows,
    observer: Observer,
    *,
    class_weights: tuple[float, ...] = (),
    exact_bytes: int = _EXACT_BYTES,
) -> StageState:
    """Fit `head` to `rows.train`; every worker calls this with its share.

    All views of a photo together count as one photo. `class_weights` has the weight of each class; if it is empty, all
    count the same. Raises DivergedError if the features are not numbers.
    """
    fit = _HeadFit(head, rows, settings, class_weights)
    state = observer.resume() or StageState()
    limit = max(1, exact_bytes // (4 * head.width))
    if rows.train.every_view_rows <= limit:
        if not state.epoch:
            fit.solve(state, limit)
            observer.on_epoch(state, checkpoint=True)
    else:
        fit.refine(state, limit, observer)
    head.set(state.best_weights)
    return state


class _HeadFit:
    def __init__(
        self,
        head: Head,
        rows: StageRows,
        settings: FrozenStageConfig,
        class_weights: tuple[float, ...],
    ) -> None:
        self._head, self._rows, self._settings = head, rows, settings
        self._uneven = bool(class_weights)
        self._class_weights = np.array(class_weights or (1.0,) * head.classes, np.float32)

    def solve(self, state: StageState, limit: int) -> None:
        """Record the exact head of all rows in `state`, as its only epoch."""
        start = time.monotonic()
        share = self._read(limit)
        head = self._solve(share)
        self._head.set([head.kernel, head.bias])
        scored = score_rows(share.features, share.labels, kernel=head.kernel, bias=head.bias)
        trained = sum((sums for sums, _ in scored), np.zeros(3))
        self._record(state, start=start, trained=trained, steps=1, learning_rate=0.0)
        state.note = _note(head)

    def refine(self, state: StageState, limit: int, observer: Observer) -> None:
        """Train the head in mini-batches, from the exact head of the first rows on; record each epoch in `state`."""
        if not state.epoch:
            sample = self._read(limit)
            head = self._solve(sample)
            state.note = _note(head)
            found = HeadState.start(head, sample.features, total=self._head.total)
        else:
            found = HeadState.from_arrays(state.weights, state.optimizer)
        batch = max(1, self._settings.global_batch_size // self._head.workers)
        steps = max(1, self._rows.train.rows // batch)
        problem = BatchProblem(
            found,
            penalty=1 / (state.note["c"] * self._rows.train.rows * self._head.workers),
            class_weights=self._class_weights,
            steps=steps * self._settings.epochs,
            total=self._head.total,
        )
        shift = np.array(state.note.get("shift", 0.0), np.float32)
        last_checkpoint = time.monotonic()
        while state.epoch < self._settings.epochs:
            start, rate, trained = time.monotonic(), problem.learning_rate, np.zeros(3)
            for step, (features, labels) in enumerate(_batches(self._rows.train.epoch(state.epoch), batch, steps)):
                trained += problem.step(features, labels)
                observer.on_step(state.epoch, step + 1, steps)
            kernel, bias = problem.state.unfold()
            self._head.set([kernel, bias + shift])
            due = time.monotonic() - last_checkpoint > _CHECKPOINT_EVERY_SECONDS
            checkpoint = bool(self._head.total(np.array([float(due)]))[0]) or state.epoch + 1 == self._settings.epochs
            self._record(state, start=start, trained=trained, steps=steps, learning_rate=rate)
            state.weights, state.optimizer = problem.state.to_arrays()
            observer.on_epoch(state, checkpoint=checkpoint)
            if checkpoint:
                last_checkpoint = time.monotonic()

    def _read(self, limit: int) -> HeadRows:
        features, labels, photos = self._rows.train.read_every_view(limit=limit)
        views = self._rows.train.every_view_rows / self._rows.train.rows
        return HeadRows(
            features=features,
            labels=labels,
            weights=(self._class_weights[labels] / views).astype(np.float32),
            folds=photos % FOLDS,
        )

    def _solve(self, share: HeadRows) -> LogisticHead:
        given = {"candidates": [self._settings.c]} if self._settings.c else {}
        return fit_logistic_head(
            share, classes=self._head.classes, folds=FOLDS, uneven=self._uneven, total=self._head.total, **given
        )

    def _record(
        self, state: StageState, *, start: float, trained: np.ndarray, steps: int, learning_rate: float
    ) -> None:
        sums = self._head.total(np.concatenate([trained, self._head.evaluate(self._rows.validation)]))
        if not np.isfinite(sums).all():
            raise DivergedError("the frozen stage has NaN or infinite features: check --weights and --input-scaling")
        state.epoch += 1
        state.history.append(
            {
                "epoch": state.epoch,
                "steps": steps,
                "seconds": round(time.monotonic() - start, 3),
                "learning_rate": learning_rate,
                **mean_scores(sums[:3], prefix=""),
                **mean_scores(sums[3:6], prefix="val_"),
            }
        )
        # The last epoch is the best: the problem is convex, and the learning rate ends at zero.
        state.best_epoch, state.best_weights = state.epoch, self._head.get()


def _note(head: LogisticHead) -> dict[str, Any]:
    """Return what the report says about `head`."""
    note: dict[str, Any] = {"c": head.c, "losses": {str(c): round(loss, 6) for c, loss in head.losses.items()}}
    if head.shift.any():
        note["shift"] = [round(float(value), 6) for value in head.shift]
    return note


def score_rows(
    features: np.ndarray, labels: np.ndarray, *, kernel: np.ndarray, bias: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the scores and the predictions of a head for a chunk of rows at a time.

    These are [sum of losses, right answers, rows], and float32 (N, 1 + classes) of label and probabilities.
    """
    for start in range(0, len(labels), _ROWS_AT_ONCE):
        truth = labels[start : start + _ROWS_AT_ONCE]
        logits = features[start : start + _ROWS_AT_ONCE].astype(np.float32) @ kernel + bias
        log_probabilities = special.log_softmax(logits, axis=1)
        losses = -log_probabilities[np.arange(len(truth)), truth]
        right = (log_probabilities.argmax(axis=1) == truth).sum()
        labelled = np.column_stack([truth, np.exp(log_probabilities)]).astype(np.float32)
        yield np.array([losses.sum(dtype=np.float64), right, len(truth)]), labelled


def _batches(
    chunks: Iterator[tuple[np.ndarray, np.ndarray]], batch: int, steps: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut each chunk into batches of up to `batch` rows; yield exactly `steps`, the same number on every worker."""
    made = 0
    for features, labels in chunks:
        for start in range(0, len(labels), batch):
            if made < steps:
                yield features[start : start + batch], labels[start : start + batch]
            made += 1
