from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from catdog.config import StageConfig, UnfrozenStageConfig
from catdog.model import classifier as model
from catdog.model.backbone_specs import HEAD_CUT, UNIT_SCALING
from catdog.model.saved_model import ClassifierSpec
from catdog.training.fit import train_loop as stages
from catdog.training.fit.checkpoint import StageState
from catdog.training.fit.train_loop import DivergedError, fit_stage


class ArrayRows:
    """Rows in memory, every epoch in the same order, in chunks that do not fit the batch."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, *, chunk: int = 7) -> None:
        self.rows, self._features, self._labels, self._chunk = len(labels), features, labels, chunk

    def epoch(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, self.rows, self._chunk):
            stop = start + self._chunk
            yield self._features[start:stop], self._labels[start:stop]


@pytest.fixture(scope="module")
def classifier():  # type: ignore[no-untyped-def]
    return model.build_classifier(
        ClassifierSpec(
            backbone="efficientnet-lite0",
            image_size=224,
            classes=("cat", "dog"),
            pooling="avg",
            dropout=0.0,
            scaling=UNIT_SCALING,
        )
    )


@pytest.fixture
def fresh(classifier):  # type: ignore[no-untyped-def]
    """The classifier with its first weights; building one takes seconds."""
    if not hasattr(classifier, "first_weights"):
        classifier.first_weights = classifier.get_weights()
    classifier.set_weights(classifier.first_weights)
    return classifier


def strategy():  # type: ignore[no-untyped-def]
    import tensorflow as tf

    return tf.distribute.get_strategy()


def rows(count: int, *, seed: int = 0, shape: tuple[int, ...] = (1280,)) -> ArrayRows:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, count).astype(np.int32)
    features = random.normal(size=(count, *shape)) + labels.reshape(-1, *[1] * len(shape)) * 0.1
    return ArrayRows(features.astype(np.float32), labels)


def fit(classifier, settings, *, cut: str = HEAD_CUT, train=None, validation=None, **more):  # type: ignore[no-untyped-def]
    return fit_stage(
        classifier, settings, cut=cut, train=train or rows(48), validation=validation or rows(20, seed=1),
        strategy=strategy(), seed=0, **more,
    )  # fmt: skip


def fit_unfrozen(classifier, settings):  # type: ignore[no-untyped-def]
    shape = (7, 7, 1152)
    return fit(
        classifier, settings, cut="block7a_project_conv", train=rows(8, shape=shape), validation=rows(4, shape=shape)
    )


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd"])
def test_a_stage_does_what_keras_s_own_fit_does(fresh, optimizer: str) -> None:  # type: ignore[no-untyped-def]
    import tf_keras

    train, validation = rows(48), rows(20, seed=1)
    _, tail = model.split_at(fresh, HEAD_CUT)
    first = tail.get_weights()
    kind = {"adam": "Adam", "rmsprop": "RMSprop", "sgd": "SGD"}[optimizer]
    tail.compile(getattr(tf_keras.optimizers, kind)(1e-3), "sparse_categorical_crossentropy", ["accuracy"])
    theirs = tail.fit(
        train._features, train._labels, batch_size=16, epochs=3, shuffle=False, verbose=0,
        validation_data=(validation._features, validation._labels),
    )  # fmt: skip
    expected = tail.get_weights()
    tail.set_weights(first)
    settings = StageConfig(epochs=3, learning_rate=1e-3, optimizer=optimizer, global_batch_size=16)
    state = fit(fresh, settings, train=train, validation=validation)
    for ours, keras in zip(state.weights, expected, strict=True):
        np.testing.assert_allclose(ours, keras, atol=1e-5)
    for name, keras_name in (
        ("loss", "loss"),
        ("acc", "accuracy"),
        ("val_loss", "val_loss"),
        ("val_acc", "val_accuracy"),
    ):
        assert [row[name] for row in state.history] == pytest.approx(theirs.history[keras_name], abs=1e-5)


def test_the_unfrozen_stage_trains_from_its_cut_on_and_nothing_before(fresh) -> None:  # type: ignore[no-untyped-def]
    before = {layer.name: layer.get_weights() for layer in fresh.layers if layer.weights}
    fit_unfrozen(fresh, UnfrozenStageConfig(epochs=1, learning_rate=1e-2))
    changed = {
        layer.name for layer in fresh.layers if layer.weights
        and not all(np.array_equal(a, b) for a, b in zip(before[layer.name], layer.get_weights(), strict=True))
    }  # fmt: skip
    assert changed == {"block7a_project_conv", "top_conv", "fc_out"}


def test_batch_norm_of_the_tail_is_trained_on_request(fresh) -> None:  # type: ignore[no-untyped-def]
    before = fresh.get_layer("top_bn").get_weights()
    settings = UnfrozenStageConfig(epochs=1, learning_rate=1e-2, train_batch_norm=True)
    fit_unfrozen(fresh, settings)
    after = fresh.get_layer("top_bn").get_weights()
    assert not any(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_early_stopping_keeps_the_best_epoch(fresh) -> None:  # type: ignore[no-untyped-def]
    # A step so large that the validation loss soon rises.
    settings = StageConfig(epochs=50, learning_rate=0.3, patience=2, global_batch_size=16)
    state = fit(fresh, settings)
    losses = [row["val_loss"] for row in state.history]
    assert len(losses) < 50
    assert state.best_epoch == int(np.argmin(losses)) + 1 == len(losses) - 2
    _, tail = model.split_at(fresh, HEAD_CUT)
    for kept, best in zip(tail.get_weights(), state.best_weights, strict=True):
        np.testing.assert_array_equal(kept, best)
    scores = stages.evaluate(fresh, cut=HEAD_CUT, rows=rows(20, seed=1), strategy=strategy())
    assert scores["loss"] == pytest.approx(min(losses), abs=1e-5)


def test_a_stage_that_was_stopped_ends_like_one_that_was_not(fresh, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    whole = fit(fresh, StageConfig(epochs=6, global_batch_size=16))
    fresh.set_weights(fresh.first_weights)
    half = fit(fresh, StageConfig(epochs=3, global_batch_size=16))
    fresh.set_weights(fresh.first_weights)
    resumed = fit(fresh, StageConfig(epochs=6, global_batch_size=16), state=StageState.from_bytes(half.to_bytes()))
    assert [row["epoch"] for row in resumed.history] == [1, 2, 3, 4, 5, 6]
    assert [row["val_loss"] for row in resumed.history] == pytest.approx([row["val_loss"] for row in whole.history])
    for ours, theirs in zip(resumed.weights, whole.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_loss_that_is_not_a_number_ends_the_stage_with_advice(fresh) -> None:  # type: ignore[no-untyped-def]
    broken = rows(48)
    broken._features[5] = np.nan
    with pytest.raises(DivergedError, match=r"not a number after epoch 1 .* try a smaller learning rate"):
        fit(fresh, StageConfig(epochs=2), train=broken)


def test_a_batch_larger_than_the_photos_takes_them_all(fresh) -> None:  # type: ignore[no-untyped-def]
    state = fit(fresh, StageConfig(epochs=1, global_batch_size=512), train=rows(10))
    assert state.history[0]["steps"] == 1


class ShareOfRows(ArrayRows):
    """All rows, as the one worker of a run has them."""

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        super().__init__(features, labels)
        self.first, self.total = 0, self.rows


def test_the_probabilities_of_a_split_are_the_model_s_own_in_the_order_of_its_rows(fresh) -> None:  # type: ignore[no-untyped-def]
    made = rows(20, seed=1)
    split = ShareOfRows(made._features, made._labels)
    found = stages.score_splits(fresh, cut=HEAD_CUT, splits={"validation": split}, strategy=strategy())["validation"]  # type: ignore[dict-item]
    _, tail = model.split_at(fresh, HEAD_CUT)
    np.testing.assert_allclose(found.probabilities, tail.predict(made._features, verbose=0), atol=1e-6)
    assert found.labels.tolist() == made._labels.tolist()
    assert found.scores == pytest.approx(stages.evaluate(fresh, cut=HEAD_CUT, rows=made, strategy=strategy()))
    assert found.scores["accuracy"] == (found.probabilities.argmax(axis=1) == made._labels).mean()
