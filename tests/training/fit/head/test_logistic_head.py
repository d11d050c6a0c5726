import threading
from collections.abc import Callable

import numpy as np
import pytest
from scipy import optimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, recall_score
from sklearn.preprocessing import StandardScaler

from catdog.training.fit.head.logistic_head import HeadRows, LogisticHead, fit_logistic_head


def make_rows(*, classes: int, photos: int = 150, width: int = 40, views: int = 1, seed: int = 0) -> HeadRows:
    """Return rows of overlapping classes, with features of very different scales."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, photos)
    labels[:classes] = np.arange(classes)
    centres = random.normal(0, 0.5, (classes, width))
    scales, shifts = np.exp(random.normal(0, 2, width)), random.normal(0, 10, width)
    features = np.concatenate([centres[labels] + random.normal(0, 1, (photos, width)) for _ in range(views)])
    return HeadRows(
        features=(features * scales + shifts).astype(np.float32),
        labels=np.tile(labels, views),
        weights=np.full(photos * views, 1 / views, np.float32),
        folds=np.tile(np.arange(photos) % 5, views),
    )


def probabilities(head: LogisticHead, features: np.ndarray) -> np.ndarray:
    logits = features.astype(np.float64) @ head.kernel + head.bias
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("c", [0.003, 0.1])
def test_the_head_of_three_classes_is_that_of_scikit_learn(c: float) -> None:
    rows = make_rows(classes=3)
    head = fit_logistic_head(rows, classes=3, candidates=[c])
    standard = StandardScaler().fit(rows.features.astype(np.float64))
    oracle = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(
        standard.transform(rows.features.astype(np.float64)), rows.labels
    )
    expected = oracle.predict_proba(standard.transform(rows.features.astype(np.float64)))
    np.testing.assert_allclose(probabilities(head, rows.features), expected, atol=2e-4)


def test_weights_count_as_scikit_learn_counts_them() -> None:
    rows = make_rows(classes=2)
    balanced = np.where(rows.labels == 0, 3.0, 0.5).astype(np.float32)
    rows = HeadRows(features=rows.features, labels=rows.labels, weights=balanced, folds=rows.folds)
    head = fit_logistic_head(rows, classes=2, candidates=[0.01])
    standard = StandardScaler().fit(rows.features, sample_weight=balanced)
    scaled = standard.transform(rows.features)
    # For two classes, scikit-learn penalizes half the square of one vector, the difference of our two kernels. Our
    # penalty amounts to a quarter of it, so scikit-learn's C is twice ours.
    oracle = LogisticRegression(C=0.02, tol=1e-8, max_iter=5000).fit(scaled, rows.labels, sample_weight=balanced)
    np.testing.assert_allclose(probabilities(head, rows.features), oracle.predict_proba(scaled), atol=2e-4)


def test_the_penalty_with_the_least_loss_on_left_out_photos_is_taken() -> None:
    rows = make_rows(classes=2, views=2)
    head = fit_logistic_head(rows, classes=2)
    assert head.c == min(head.losses, key=head.losses.__getitem__)
    # By hand for one penalty: predict each fold with a head fitted to the other four, standardized with all rows.
    standard = StandardScaler().fit(rows.features)
    scaled = standard.transform(rows.features)
    losses = []
    for fold in range(5):
        kept = rows.folds != fold
        model = LogisticRegression(C=0.02, tol=1e-8, max_iter=5000)
        model.fit(scaled[kept], rows.labels[kept], sample_weight=rows.weights[kept])
        found = model.predict_proba(scaled[~kept])
        losses += list(-np.log(found[np.arange(len(found)), rows.labels[~kept]]))
    assert head.losses[0.01] == pytest.approx(np.mean(losses), rel=2e-3)


def uneven_rows() -> HeadRows:
    """Return 20 photos of one class and 380 of another, with weights that give both the same total."""
    rows = make_rows(classes=2, photos=4000)
    few, many = (np.flatnonzero(rows.labels == label)[:count] for label, count in ((1, 20), (0, 380)))
    chosen = np.sort(np.concatenate([few, many]))
    labels = rows.labels[chosen]
    return HeadRows(
        features=rows.features[chosen], labels=labels, folds=rows.folds[chosen],
        weights=np.where(labels == 1, 10.0, 400 / 760).astype(np.float32),
    )  # fmt: skip


def test_the_biases_of_uneven_classes_are_shifted_to_the_least_loss_on_left_out_photos() -> None:
    rows = uneven_rows()
    plain, shifted = (fit_logistic_head(rows, classes=2, candidates=[0.01], uneven=uneven) for uneven in (False, True))
    assert plain.shift.tolist() == [0.0, 0.0]
    np.testing.assert_array_equal(shifted.kernel, plain.kernel)
    np.testing.assert_allclose(shifted.bias, plain.bias + shifted.shift, atol=1e-6)
    # By hand: get each fold's logits from a head fitted to the other four, then find the best step for all logits.
    scaled = StandardScaler().fit(rows.features, sample_weight=rows.weights).transform(rows.features)
    logits = np.zeros(len(scaled))
    for fold in range(5):
        kept = rows.folds != fold
        model = LogisticRegression(C=0.02, tol=1e-8, max_iter=5000)
        model.fit(scaled[kept], rows.labels[kept], sample_weight=rows.weights[kept])
        logits[~kept] = model.decision_function(scaled[~kept])
    signs = np.where(rows.labels == 1, 1.0, -1.0)
    by_hand = optimize.minimize_scalar(
        lambda step: rows.weights @ np.logaddexp(0, -signs * (logits + step)) + step**2 / 4
    ).x
    assert shifted.shift[1] - shifted.shift[0] == pytest.approx(by_hand, rel=0.02)
    # The training rows were all chosen from earlier rows, so these are unseen.
    unseen = make_rows(classes=2, photos=4000)
    features, labels = unseen.features[2000:], unseen.labels[2000:]
    found = [probabilities(head, features).argmax(axis=1) for head in (plain, shifted)]
    assert balanced_accuracy_score(labels, found[1]) > balanced_accuracy_score(labels, found[0])
    assert recall_score(labels, found[1]) > recall_score(labels, found[0]) + 0.01


def test_the_search_for_a_penalty_ends_where_weaker_ones_only_get_worse() -> None:
    rows = make_rows(classes=2)
    chance = np.random.default_rng(1).integers(0, 2, len(rows.labels))  # nothing can be learned
    rows = HeadRows(features=rows.features, labels=chance, weights=rows.weights, folds=rows.folds)
    losses = fit_logistic_head(rows, classes=2, candidates=[10.0**power for power in range(-6, 5)]).losses
    assert len(losses) < 11
    assert list(losses)[-3] == min(losses, key=losses.__getitem__)


class Sum:
    """Sums vectors over two threads, as workers do over the network."""

    def __init__(self) -> None:
        self._barrier, self._parts = threading.Barrier(2), [np.zeros(0), np.zeros(0)]

    def of(self, rank: int) -> Callable[[np.ndarray], np.ndarray]:
        def total(values: np.ndarray) -> np.ndarray:
            self._parts[rank] = values
            self._barrier.wait(60)
            found = self._parts[0] + self._parts[1]
            self._barrier.wait(60)
            return found

        return total


@pytest.mark.parametrize("uneven", [False, True])
def test_two_workers_with_half_of_the_rows_each_find_the_head_of_one(uneven: bool) -> None:
    rows = uneven_rows() if uneven else make_rows(classes=2)
    alone = fit_logistic_head(rows, classes=2, uneven=uneven)
    halves = [
        HeadRows(**{name: getattr(rows, name)[rank::2] for name in ("features", "labels", "weights", "folds")})
        for rank in range(2)
    ]
    both, found = Sum(), [alone, alone]

    def work(rank: int) -> None:
        found[rank] = fit_logistic_head(halves[rank], classes=2, uneven=uneven, total=both.of(rank))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name))  # bit for bit
    assert found[0].c == alone.c
    np.testing.assert_allclose(probabilities(found[0], rows.features), probabilities(alone, rows.features), atol=5e-4)


def test_a_feature_that_never_varies_changes_nothing() -> None:
    rows = make_rows(classes=2)
    features = np.concatenate([rows.features, np.full((150, 1), 7.0, np.float32)], axis=1)
    wider = HeadRows(features=features, labels=rows.labels, weights=rows.weights, folds=rows.folds)
    head = fit_logistic_head(wider, classes=2, candidates=[0.01])
    expected = fit_logistic_head(rows, classes=2, candidates=[0.01])
    assert np.isfinite(head.bias).all()
    np.testing.assert_allclose(probabilities(head, features), probabilities(expected, rows.features), atol=1e-4)
