import numpy as np
import pytest

from catdog.errors import UsageError
from catdog.evaluation.paired import PairedTest, compare_models, compare_sums, pair_sums, paired_test


# Worked out by hand: min(1, 2 * P(X <= min(first, second))) for X from the binomial of n = first + second, p = 1/2.
@pytest.mark.parametrize(
    ("first", "second", "p_value"),
    [(0, 0, 1.0), (1, 0, 1.0), (6, 0, 2 / 64), (3, 9, 2 * (1 + 12 + 66 + 220) / 4096), (10, 10, 1.0)],
)
def test_the_paired_test_is_mcnemar_s_exact_one(first: int, second: int, p_value: float) -> None:
    one = np.array([True] * first + [False] * second + [True, False])
    other = np.array([False] * first + [True] * second + [True, False])
    wanted = PairedTest(only_first_correct=first, only_second_correct=second, p_value=pytest.approx(p_value))
    assert paired_test(one, other) == wanted


def test_the_paired_test_of_thousands_of_photos_is_neither_zero_nor_one() -> None:
    right = np.arange(10_300) < 5_000
    assert paired_test(right, ~right).p_value == pytest.approx(0.00325, abs=5e-5)


def test_two_models_are_compared_with_each_other_and_with_the_truth() -> None:
    first = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    second = np.array([[0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    assert compare_models(first, second).lines() == ["They agree on 2 of 3 photos (66.7%)."]
    found = compare_models(first, second, true=np.array([0, 1, 1]))
    assert found.lines()[1] == (
        "Accuracy 0.6667 and 0.3333: only the first is right on 1, only the second on 0 (McNemar p = 1)."
    )
    parts = [pair_sums(first[cut], second[cut], np.array([0, 1, 1])[cut]) for cut in (slice(0, 1), slice(1, 3))]
    assert compare_sums(parts[0] + parts[1]) == found
    assert compare_sums(pair_sums(first, second, np.array([0, -1, -1]))).photos == 1
    with pytest.raises(UsageError, match="nothing to compare"):
        compare_models(first[:0], second[:0])
