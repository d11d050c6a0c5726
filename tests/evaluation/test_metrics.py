import dataclasses

import numpy as np
import pytest
from sklearn import metrics

from catdog.errors import UsageError
from catdog.evaluation.metrics import (
    evaluate,
    evaluate_sums,
    expected_calibration_error,
    reliability_bins,
    wilson_interval,
)
from catdog.evaluation.sums import bin_sums, count_pairs, losses, score_sums

TWO = ("cat", "dog")


def made_predictions(photos: int, classes: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return true labels, and probabilities that are right more often than not."""
    random = np.random.default_rng(seed)
    true = random.integers(0, classes, photos)
    scores = random.normal(size=(photos, classes)) + 1.5 * np.eye(classes)[true]
    exponentials = np.exp(scores)
    return true, (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_scores_are_scikit_learn_s(classes: int) -> None:
    true, probabilities = made_predictions(2_000, classes)
    predicted, exact = probabilities.argmax(axis=1), probabilities.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)  # scikit-learn warns about float32's rounding
    found = evaluate(true, probabilities, classes=[str(label) for label in range(classes)])
    assert found.accuracy == pytest.approx(metrics.accuracy_score(true, predicted))
    assert found.log_loss == pytest.approx(metrics.log_loss(true, exact), rel=1e-6)
    np.testing.assert_array_equal(np.array(found.confusion)[:, :-1], metrics.confusion_matrix(true, predicted))
    scores = metrics.precision_recall_fscore_support(true, predicted)
    for column, name in enumerate(("precision", "recall", "f1", "photos")):
        np.testing.assert_allclose([getattr(one, name) for one in found.by_class], scores[column])


def test_a_certain_mistake_has_the_loss_that_scikit_learn_gives_it() -> None:
    true, probabilities = np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]])
    assert losses(true, probabilities).mean() == pytest.approx(metrics.log_loss(true, probabilities))


def test_sums_of_parts_give_the_scores_of_the_whole() -> None:
    true, probabilities = made_predictions(1_000, 3)
    whole = evaluate(true, probabilities, classes=("ant", "bee", "cat"), threshold=0.6)
    cuts = [slice(0, 1), slice(1, 1), slice(1, 700), slice(700, 1_000)]
    first, *others = [score_sums(true[cut], probabilities[cut], threshold=0.6) for cut in cuts]
    found = evaluate_sums(sum(others, first), classes=("ant", "bee", "cat"))
    assert found.sure < 1_000
    assert dataclasses.replace(found, log_loss=0.0, calibration_error=0.0) == dataclasses.replace(
        whole, log_loss=0.0, calibration_error=0.0
    )
    assert (found.log_loss, found.calibration_error) == pytest.approx((whole.log_loss, whole.calibration_error))


def test_an_unsure_photo_is_not_correct_and_not_among_the_sure() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.95, 0.05]])
    found = evaluate(np.array([0, 0, 1, 1]), probabilities, classes=TWO, threshold=0.7)
    assert (found.photos, found.correct, found.sure) == (4, 2, 3)
    assert (found.accuracy, found.accuracy_of_sure) == (0.5, pytest.approx(2 / 3))
    assert found.confusion == ((1, 0, 1), (1, 1, 0))


def test_balanced_accuracy_is_the_mean_recall_whatever_the_sizes_of_the_classes() -> None:
    true = np.array([0] * 8 + [1] * 2)
    always_the_first = np.tile([0.9, 0.1], (10, 1))
    found = evaluate(true, always_the_first, classes=TWO)
    assert (found.accuracy, found.balanced_accuracy) == (0.8, 0.5)
    assert evaluate(true[:8], always_the_first[:8], classes=TWO).balanced_accuracy == 1.0


def test_a_class_without_photos_or_predictions_has_no_score() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]])
    found = evaluate(np.array([0, 1]), probabilities, classes=("ant", "bee", "cat"))
    assert [(one.precision, one.recall, one.f1) for one in found.by_class] == [
        (0.5, 1.0, pytest.approx(2 / 3)), (None, 0.0, 0.0), (None, None, None),
    ]  # fmt: skip


def test_all_unsure_and_no_photo_at_all() -> None:
    found = evaluate(np.array([0]), np.array([[0.5, 0.5]]), classes=TWO, threshold=0.9)
    assert (found.accuracy, found.accuracy_of_sure, found.confusion) == (0.0, None, ((0, 0, 1), (0, 0, 0)))
    with pytest.raises(UsageError, match="nothing to evaluate"):
        evaluate(np.zeros(0, int), np.zeros((0, 2)), classes=TWO)


def test_the_console_shows_the_unsure_column_only_where_there_is_one() -> None:
    true, probabilities = np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    assert evaluate(true, probabilities, classes=TWO).lines() == [
        "Accuracy 0.6667 (95 % interval 0.2077 to 0.9385), balanced accuracy 0.7500, log loss 0.4149, "
        "calibration error 0.3000",
        "true \\ predicted  cat  dog",
        "----------------  ---  ---",
        "cat                 1    0",
        "dog                 1    1",
        "class  photos  precision  recall      F1",
        "-----  ------  ---------  ------  ------",
        "cat         1     0.5000  1.0000  0.6667",
        "dog         2     1.0000  0.5000  0.6667",
    ]
    lines = evaluate(true, probabilities, classes=TWO, threshold=0.7).lines()
    assert lines[0].startswith("Accuracy 0.6667 (95 % interval 0.2077 to 0.9385), 1.0000 on the 2 sure photos")
    assert lines[1] == "true \\ predicted  cat  dog  unsure"


def test_of_many_classes_the_console_shows_the_worst() -> None:
    names = [f"class {label:03d}" for label in range(200)]
    true = np.repeat(np.arange(150), 2)
    found = evaluate(true, np.eye(200)[np.where(true == 7, 12, true)], classes=names)
    lines = found.lines()
    assert lines[0].endswith("; the most frequent confusions and the worst of 200 classes:")
    assert lines[1:4] == [
        "true       predicted  photos",
        "---------  ---------  ------",
        "class 007  class 012       2",
    ]
    assert lines[4:7] == [
        "class      photos  precision  recall      F1",
        "---------  ------  ---------  ------  ------",
        "class 007       2          -  0.0000  0.0000",
    ]
    assert len(lines) == 18


# From table I of R. G. Newcombe, Statistics in Medicine 17 (1998): Wilson's score method.
@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_wilson_s_as_published(correct: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=5e-5)


def test_bins_hold_what_they_say() -> None:
    probabilities = np.array([[0.95, 0.05], [0.85, 0.15], [0.15, 0.85], [0.5, 0.5], [1.0, 0.0]])
    correct = np.array([True, True, False, False, True])
    bins = bin_sums(probabilities.max(axis=1), correct, bins=10)
    assert [(one["low"], one["photos"], one["accuracy"]) for one in reliability_bins(bins)] == [
        (0.4, 1, 0.0),
        (0.8, 2, 0.5),
        (0.9, 2, 1.0),
    ]
    wanted = (1 * 0.5 + 2 * 0.35 + 2 * 0.025) / 5
    assert expected_calibration_error(bins) == pytest.approx(wanted)


def test_a_calibrated_model_has_hardly_any_calibration_error() -> None:
    random = np.random.default_rng(1)
    top = random.uniform(0.5, 1.0, 200_000)
    assert expected_calibration_error(bin_sums(top, random.random(200_000) < top)) < 0.01


def test_unsure_is_the_last_column_of_the_confusion_matrix() -> None:
    found = count_pairs(np.array([0, 1, 1]), np.array([1, 2, 1]), classes=2)
    assert found.tolist() == [[0, 1, 0], [0, 1, 1]]
