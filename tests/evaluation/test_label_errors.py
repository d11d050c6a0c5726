import numpy as np

from catdog.evaluation.label_errors import find_label_errors, held_out_probabilities


def drawn(photos: int, *, classes: int = 2, apart: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features of 64 numbers, drawn around a centre for each class, and the labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, photos)
    return (random.normal(size=(photos, 64)) + apart * random.normal(size=(classes, 64))[labels]), labels


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


def test_clean_labels_and_features_that_tell_nothing_make_hardly_any_errors() -> None:
    assert len(find_label_errors(*drawn(600, apart=0.8), classes=2, limit=24).positions) == 0
    random = np.random.default_rng(0)
    noise = random.normal(size=(600, 64))
    probabilities = held_out_probabilities(noise, random.integers(0, 2, 600))
    assert 0.35 < (probabilities.argmax(axis=1) == 0).mean() < 0.65


def test_a_class_of_fewer_photos_than_folds_says_nothing() -> None:
    features, labels = drawn(40)
    labels[:] = 0
    labels[:4] = 1
    assert len(find_label_errors(features, labels, classes=2, limit=24).positions) == 0


def test_many_features_are_reduced_and_the_same_errors_are_found() -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, 3, 600)
    features = random.normal(size=(600, 300)) + random.normal(size=(3, 300))[labels]
    given = labels.copy()
    given[:6] = (labels[:6] + 1) % 3
    found = find_label_errors(features.astype(np.float16), given, classes=3, limit=6)
    assert sorted(found.positions.tolist()) == [0, 1, 2, 3, 4, 5]
    assert found.labels.tolist() == labels[found.positions].tolist()
