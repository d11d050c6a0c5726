import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from catdog.evaluation.label_errors import find_label_errors, fit_logistic, held_out_probabilities


def drawn(photos: int, *, classes: int = 2, apart: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of 64 numbers around a centre for each class, and the labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, photos)
    return (random.normal(size=(photos, 64)) + apart * random.normal(size=(classes, 64))[labels]), labels


@pytest.mark.parametrize("classes", [2, 4])
def test_the_regression_is_scikit_learn_s(classes: int) -> None:
    features, labels = drawn(400, classes=classes, apart=0.3)
    features = (features / 8).astype(np.float32)
    weights, bias = fit_logistic(features, labels, classes=classes, steps=2_000)
    # Of two classes scikit-learn has one column of weights where we have two: half of the penalty.
    penalty = 1e-3 * len(labels) / (2 if classes == 2 else 1)
    oracle = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=5_000).fit(features, labels)
    logits = features @ weights + bias
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(chances, oracle.predict_proba(features), atol=2e-3)


def test_labels_that_were_swapped_are_found_first_and_few_others_with_them() -> None:
    features, labels = drawn(600, apart=0.5)
    swapped = np.arange(10)
    given = labels.copy()
    given[swapped] = 1 - labels[swapped]
    found = find_label_errors(features, given, classes=2, limit=24)
    assert len(set(found.positions.tolist()) & set(swapped.tolist())) >= 8
    assert len(found.positions) <= 12
    assert found.labels.tolist() == (1 - given[found.positions]).tolist()
    assert found.probabilities.tolist() == sorted(found.probabilities.tolist(), reverse=True)
    assert len(find_label_errors(features, given, classes=2, limit=3).positions) == 3


def test_clean_labels_and_features_that_tell_nothing_make_few_suspects() -> None:
    assert len(find_label_errors(*drawn(600, apart=0.8), classes=2, limit=24).positions) == 0
    random = np.random.default_rng(0)
    noise = random.normal(size=(600, 64))
    chances = held_out_probabilities(noise, random.integers(0, 2, 600), classes=2)
    assert 0.35 < (chances.argmax(axis=1) == 0).mean() < 0.65


def test_a_class_of_fewer_photos_than_folds_says_nothing() -> None:
    features, labels = drawn(40)
    labels[:] = 0
    labels[:4] = 1
    assert len(find_label_errors(features, labels, classes=2, limit=24).positions) == 0
