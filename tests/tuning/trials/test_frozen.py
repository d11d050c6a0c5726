"""The frozen stage on features in memory: heads, folds, scores."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from catdog.config import FrozenStageConfig
from catdog.tuning.trials.checkpoint import TrialCheckpoint
from catdog.tuning.trials.cross_validation import assign_folds, cross_validate
from catdog.tuning.trials.frozen import (
    FrozenRows,
    HeadFitter,
    Part,
    PartRows,
    rate_head,
    scores_of,
    whole,
)


def make_rows(train: int = 120, validation: int = 60, width: int = 8) -> FrozenRows:
    random = np.random.default_rng(0)

    def features(labels: np.ndarray) -> np.ndarray:
        return (random.normal(size=(len(labels), width)) + 0.7 * (2 * labels[:, None] - 1)).astype(np.float16)

    labels, held = (random.integers(0, 2, count).astype(np.int32) for count in (train, validation))
    return FrozenRows(
        train=np.stack([features(labels), features(labels)]),
        train_labels=labels,
        validation=features(held),
        validation_labels=held,
        plain=features(labels),
    )


def fitter(c: float = 0.01) -> HeadFitter:
    return HeadFitter(FrozenStageConfig(c=c), classes=2, class_weights=(), seed=0, network=None)


def test_a_logistic_head_is_that_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = make_rows()
    head = fitter().fit([whole(rows.plain, rows.train_labels)], [])
    features = rows.plain.astype(np.float64)
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=0.02, tol=1e-9)).fit(features, rows.train_labels)
    # For two classes, our penalty is half of scikit-learn's, so our C of 0.01 is its 0.02.
    held = rows.validation.astype(np.float64)
    expected = oracle.decision_function(held)
    logits = held @ head.weights[0] + head.weights[1]
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], expected, atol=2e-2)


def test_scores_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, log_loss

    rows = make_rows()
    weights = [np.random.default_rng(1).normal(size=(8, 2)).astype(np.float32), np.zeros(2, np.float32)]
    losses, correct = rate_head(weights, [whole(rows.validation, rows.validation_labels)])
    logits = rows.validation.astype(np.float64) @ weights[0]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = scores_of(losses, correct)
    assert found["loss"] == pytest.approx(log_loss(rows.validation_labels, probabilities), rel=1e-5)
    assert found["accuracy"] == accuracy_score(rows.validation_labels, logits.argmax(axis=1))


def test_every_photo_is_left_out_once_and_classes_are_spread_evenly() -> None:
    labels = np.array([0] * 40 + [1] * 20)
    folds = assign_folds(labels, folds=5, seed=3)
    assert np.bincount(folds).tolist() == [12] * 5
    assert np.bincount(folds[labels == 1]).tolist() == [4] * 5
    assert (folds == assign_folds(labels, folds=5, seed=3)).all()


def test_cross_validation_rates_photos_that_were_left_out_in_their_plain_view() -> None:
    rows = make_rows()
    rows = dataclasses.replace(rows, fold_of=assign_folds(rows.labels, folds=5, seed=0))
    summary, losses, correct = cross_validate(rows, fitter())
    assert len(losses) == len(correct) == 180
    assert len(summary["scores"]) == 5
    assert summary["loss"] == pytest.approx(losses.mean(), rel=1e-6)
    assert summary["accuracy"] == correct.mean()
    means = [one["loss"] for one in summary["scores"]]
    assert summary["loss_error"] == pytest.approx(np.std(means, ddof=1) / np.sqrt(5))
    # A head that was trained on the photos has a lower loss on them, so the held-out photos were really unseen.
    seen = fitter(c=100.0).fit([whole(rows.plain, rows.train_labels)], [])
    assert scores_of(*rate_head(seen.weights, [whole(rows.plain, rows.train_labels)]))["loss"] < summary["loss"]


def test_epochs_take_the_views_in_turn_in_another_order() -> None:
    features = np.arange(12).reshape(2, 6, 1)
    rows = PartRows([Part(features=features, labels=np.arange(6), rows=np.array([0, 2, 4]))], seed=0)
    epochs = [next(iter(rows.epoch(number))) for number in range(3)]
    assert [sorted(found.ravel().tolist()) for found, _ in epochs] == [[0, 2, 4], [6, 8, 10], [0, 2, 4]]
    assert all((found.ravel() % 6 == labels).all() for found, labels in epochs)
    assert rows.every_view_rows == 6
    every, labels, photos = rows.read_every_view(limit=100)
    assert (every.ravel().tolist(), labels.tolist(), photos.tolist()) == (
        [0, 2, 4, 6, 8, 10], [0, 2, 4, 0, 2, 4], [0, 1, 2, 0, 1, 2],
    )  # fmt: skip


def test_a_checkpoint_is_read_as_it_was_written_and_nothing_is_pickled() -> None:
    weights = [np.ones((3, 2), np.float32), np.zeros(2, np.float32)]
    written = TrialCheckpoint(stage="frozen", cut="head", epoch=2, weights=weights, correct=np.array([True]))
    read = TrialCheckpoint.from_bytes(written.to_bytes())
    assert (read.stage, read.cut, read.epoch, read.correct.tolist()) == ("frozen", "head", 2, [True])
    assert all((a == b).all() for a, b in zip(read.weights, weights, strict=True))
