"""The frozen stage of a trial: a head fitted on cached features.

Ray's object store holds one copy of the features for all trials, and the trials' processes read them there without
copying. Scores are computed from the head alone, in float32.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import special

from catdog.config import FrozenStageConfig
from catdog.features.rows import CachedRows
from catdog.model.backbone_specs import HEAD_CUT
from catdog.training.fit.checkpoint import StageState
from catdog.training.fit.head.frozen_head import FOLDS
from catdog.training.fit.head.logistic_head import C_GRID, HeadRows, fit_logistic_head

_MIN_PROBABILITY = 1e-7  # as in Keras's cross-entropy


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenRows:
    """The pooled features of one feature layout.

    `train` (V, N, D) has the views that epochs use in turn. `validation` is (M, D). Labels are (N,) and (M,). For
    cross-validation, `plain` (N, D) has the unaugmented training photos, on which folds are scored, and `fold_of`
    (N + M,) the fold of each training and validation photo.
    """

    train: np.ndarray
    train_labels: np.ndarray
    validation: np.ndarray
    validation_labels: np.ndarray
    plain: np.ndarray | None = None
    fold_of: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray:
        """Return the labels (N + M,) of all photos."""
        return np.concatenate([self.train_labels, self.validation_labels])


def read_rows(train: Any, validation: Any, plain: Any = None) -> FrozenRows:
    """Read the finished caches of the training views, of validation and, for folds, of the plain training photos."""
    views, labels = _read_cache(train)
    held, held_labels = _read_cache(validation)
    return FrozenRows(
        train=views,
        train_labels=labels,
        validation=held[0],
        validation_labels=held_labels,
        plain=_read_cache(plain)[0][0] if plain is not None else None,
    )


def _read_cache(cache: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the features (views, N, D) and labels (N,) of a whole cache."""
    found = []
    labels = np.zeros(0, np.int32)
    for view in range(len(cache.views)):
        chunks = list(CachedRows(cache, memory_bytes=0).epoch(view))
        found.append(np.concatenate([features for features, _ in chunks]))
        labels = np.concatenate([part for _, part in chunks])
    return np.stack(found), labels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Some photos of one set: features (V, N, D) in V views, labels (N,), and the indices of the chosen rows."""

    features: np.ndarray
    labels: np.ndarray
    rows: np.ndarray


class PartRows:
    """Rows for the train loop, from parts in memory. Each epoch uses the next view and, with a `seed`, a new order."""

    def __init__(self, parts: Sequence[Part], *, seed: int | None) -> None:
        self._parts, self._seed = parts, seed
        self.rows = sum(len(part.rows) for part in parts)

    @property
    def every_view_rows(self) -> int:
        """The number of rows of all parts in all their views."""
        return sum(len(part.rows) * len(part.features) for part in self._parts)

    def read_every_view(self, *, limit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return all rows in all their views: features, labels, and the index of each row's photo."""
        places = np.cumsum([0, *(len(part.rows) for part in self._parts)])
        return (
            np.concatenate([part.features[:, part.rows].reshape(-1, part.features.shape[-1]) for part in self._parts]),
            np.concatenate([np.tile(part.labels[part.rows], len(part.features)) for part in self._parts]),
            np.concatenate(
                [
                    np.tile(first + np.arange(len(part.rows)), len(part.features))
                    for first, part in zip(places, self._parts, strict=False)
                ]
            ),
        )

    def row_weights(self) -> np.ndarray:
        """Return the weight of each row of `read_every_view`. All views of a photo together count as one photo."""
        return np.concatenate(
            [np.full(len(part.rows) * len(part.features), 1 / len(part.features)) for part in self._parts]
        ).astype(np.float32)

    def epoch(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the epoch's rows in one chunk, shuffled if a seed was given."""
        features = np.concatenate([part.features[number % len(part.features)][part.rows] for part in self._parts])
        labels = np.concatenate([part.labels[part.rows] for part in self._parts])
        if self._seed is not None:
            order = np.random.default_rng([self._seed, number]).permutation(len(labels))
            features, labels = features[order], labels[order]
        yield features, labels


@dataclasses.dataclass(frozen=True, kw_only=True)
class FittedHead:
    """The weights [kernel (D, K), bias (K,)] of a head at its best epoch, with its training history.

    `c` is the inverse penalty of a logistic head, and 0 for other heads.
    """

    weights: list[np.ndarray]
    epoch: int
    history: list[dict[str, float]]
    c: float = 0.0


class HeadFitter:
    """Fits the heads of one trial. A head that is trained in epochs needs a `network`, a logistic head does not."""

    def __init__(
        self,
        settings: FrozenStageConfig,
        *,
        classes: int,
        class_weights: tuple[float, ...],
        seed: int,
        network: HeadNetwork | None,
    ) -> None:
        self._settings, self._classes, self._seed = settings, classes, seed
        self._class_weights, self._network = class_weights, network

    def fit(self, train: Sequence[Part], held: Sequence[Part], *, c: float = 0.0) -> FittedHead:
        """Fit a head on `train`. If it is trained in epochs, keep the epoch that is best on `held`.

        A `c` other than 0 overrides the setting.
        """
        if self._network is None:
            return self._fit_logistic(PartRows(train, seed=None), c=c)
        return self._fit_epochs(self._network, train, held)

    def _fit_logistic(self, rows: PartRows, *, c: float) -> FittedHead:
        start = time.monotonic()
        features, labels, photos = rows.read_every_view(limit=rows.every_view_rows)
        weights = rows.row_weights()
        if self._class_weights:
            weights = weights * np.array(self._class_weights, np.float32)[labels]
        c = c or self._settings.c
        head = fit_logistic_head(
            HeadRows(features=features, labels=labels, weights=weights, folds=photos % FOLDS),
            classes=self._classes,
            candidates=(c,) if c else C_GRID,
            folds=FOLDS,
            uneven=bool(self._class_weights),
        )
        losses, correct = _rate([head.kernel, head.bias], features, labels)
        row = {"epoch": 1, "steps": 1, "seconds": round(time.monotonic() - start, 3), "learning_rate": 0.0}
        history = [{**row, "loss": float(losses.mean()), "acc": float(correct.mean())}]
        return FittedHead(weights=[head.kernel, head.bias], epoch=1, history=history, c=head.c)

    def _fit_epochs(self, network: HeadNetwork, train: Sequence[Part], held: Sequence[Part]) -> FittedHead:
        from catdog.model import classifier as model
        from catdog.training.fit.train_loop import StageRows, fit_stage

        _, head = model.split_at(network.networks.trained, HEAD_CUT)
        head.set_weights(network.start)
        held_rows: Any = PartRows(held, seed=None)
        state = fit_stage(
            network.networks,
            self._settings,
            StageRows(train=PartRows(train, seed=self._seed), validation=held_rows),
            SilentObserver(),
            cut=HEAD_CUT,
            class_weights=self._class_weights,
        )
        return FittedHead(weights=state.best_weights, epoch=state.best_epoch, history=state.history)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadNetwork:
    """What the train loop needs from a process: its classifier, and the initial weights of every head."""

    networks: Any
    start: list[np.ndarray]


class SilentObserver:
    """An observer that reports nothing. A stage that was interrupted starts from the beginning."""

    def resume(self) -> StageState | None:
        """Return None: the stage starts from the beginning."""
        return None

    def on_step(self, epoch: int, step: int, steps: int) -> None:
        """Report nothing for a step."""

    def on_epoch(self, state: StageState, *, checkpoint: bool) -> None:
        """Report nothing for an epoch."""

    def on_end(self) -> None:
        """Report nothing at the end."""


def whole(features: np.ndarray, labels: np.ndarray) -> Part:
    """Return all photos of a set as one part. `features` is (V, N, D), or (N, D) for a single view."""
    views = features if features.ndim == 3 else features[np.newaxis]
    return Part(features=views, labels=labels, rows=np.arange(len(labels)))


def rate_head(weights: Sequence[np.ndarray], held: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss (N,) of each held-out photo and whether it is correct (N,), in its first view."""
    rated = [_rate(weights, part.features[0][part.rows], part.labels[part.rows]) for part in held]
    losses, correct = zip(*rated, strict=True)
    return np.concatenate(losses), np.concatenate(correct)


def _rate(weights: Sequence[np.ndarray], features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kernel, bias = weights
    logits = features.astype(np.float32) @ kernel + bias
    chosen = special.log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
    losses = -np.maximum(chosen, np.log(_MIN_PROBABILITY))
    return losses.astype(np.float32), logits.argmax(axis=1) == labels


def scores_of(losses: np.ndarray, correct: np.ndarray) -> dict[str, float]:
    """Return the accuracy and the mean loss over photos."""
    return {"accuracy": float(correct.mean()), "loss": float(losses.mean(dtype=np.float64))}
