import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.metrics import log_loss

from catdog.evaluation.calibration import apply_temperature, choose_temperature, fit_temperature


def drawn(photos: int, *, temperature: float, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels drawn from softmax(logits), and the probabilities of logits `temperature` times as large."""
    random = np.random.default_rng(seed)
    logits = 3.0 * random.normal(size=(photos, classes))
    chances = softmax(logits, axis=1).cumsum(axis=1)
    true = (random.random((photos, 1)) > chances).sum(axis=1)
    return true, softmax(temperature * logits, axis=1).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_spoilt_the_probabilities_is_found(temperature: float) -> None:
    true, probabilities = drawn(20_000, temperature=temperature)
    found = fit_temperature(true, probabilities)
    assert found == pytest.approx(temperature, rel=0.05)
    exact = probabilities.astype(np.float64)
    oracle = minimize_scalar(
        lambda value: log_loss(true, softmax(np.log(exact) / value, axis=1)), bounds=(0.1, 10), method="bounded"
    )
    assert found == pytest.approx(oracle.x, rel=1e-3)


def test_the_most_probable_class_stays_and_rows_sum_to_one() -> None:
    _, probabilities = drawn(100, temperature=2.0)
    soft = apply_temperature(probabilities, 2.0)
    np.testing.assert_array_equal(soft.argmax(axis=1), probabilities.argmax(axis=1))
    np.testing.assert_allclose(soft.sum(axis=1), 1.0)
    np.testing.assert_allclose(apply_temperature(probabilities, 1.0), probabilities, atol=1e-6)


def test_an_overconfident_model_gets_a_temperature_and_a_calibrated_one_does_not() -> None:
    assert choose_temperature(*drawn(1_000, temperature=2.5)).value == pytest.approx(2.5, rel=0.15)
    assert [choose_temperature(*drawn(400, temperature=1.0, seed=seed)).value for seed in range(20)].count(1.0) >= 18


def test_a_perfect_validation_set_or_one_of_few_mistakes_leaves_the_temperature_at_one() -> None:
    true = np.arange(500) % 2
    sure = np.where(true[:, np.newaxis] == np.arange(2), 0.9999, 0.0001)
    assert choose_temperature(true, sure).value == 1.0
    sure[:9] = sure[:9, ::-1]
    few = choose_temperature(true, sure)
    assert (few.value, few.reason) == (1.0, "9 wrong photos are too few to fit a temperature")
    certain = np.where(true[:, np.newaxis] == np.arange(2), 1.0, 0.0)  # rounded: a wrong photo has probability 0
    certain[:30] = certain[:30, ::-1]
    assert 1.0 < choose_temperature(true, certain).value <= 20.0
