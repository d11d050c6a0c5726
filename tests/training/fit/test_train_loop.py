import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from catdog.config import StageConfig, UnfrozenStageConfig
from catdog.model import classifier as model
from catdog.model.backbone_specs import HEAD_CUT, UNIT_SCALING
from catdog.model.saved_model import ClassifierSpec
from catdog.training.fit.checkpoint import StageState
from catdog.training.fit.networks import Networks
from catdog.training.fit.train_loop import DivergedError, StageRows, fit_stage, mean_scores, score_splits
from catdog.training.fit.train_step import Tail
from catdog.training.fit.workers import Workers


class ArrayRows:
    """Rows in memory, in the same order in every epoch, in chunks whose size does not divide the batch size."""

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
            image_size=64,
            classes=("cat", "dog"),
            pooling="avg",
            dropout=0.0,
            scaling=UNIT_SCALING,
        )
    )


@pytest.fixture
def fresh(classifier):  # type: ignore[no-untyped-def]
    """Return the shared classifier, reset to its first weights, because building a new one takes seconds."""
    if not hasattr(classifier, "first_weights"):
        classifier.first_weights = classifier.get_weights()
    classifier.set_weights(classifier.first_weights)
    return classifier


def rows(count: int, *, seed: int = 0, shape: tuple[int, ...] = (1280,)) -> ArrayRows:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, count).astype(np.int32)
    features = random.normal(size=(count, *shape)) + labels.reshape(-1, *[1] * len(shape)) * 0.1
    return ArrayRows(features.astype(np.float32), labels)


class Follower:
    """An observer that only knows where to resume."""

    def __init__(self, state: StageState | None = None) -> None:
        self._state = state

    def resume(self) -> StageState | None:
        return self._state

    def on_step(self, epoch: int, step: int, steps: int) -> None: ...

    def on_epoch(self, state: StageState, *, checkpoint: bool) -> None: ...

    def on_end(self) -> None: ...


def networks(classifier):  # type: ignore[no-untyped-def]
    return Networks(trained=classifier, float32=classifier)


def fit(classifier, settings, *, cut: str = HEAD_CUT, train=None, validation=None, state=None, **more):  # type: ignore[no-untyped-def]
    stage = StageRows(train=train or rows(48), validation=validation or rows(20, seed=1))
    return fit_stage(networks(classifier), settings, stage, Follower(state), cut=cut, **more)


def evaluate(classifier, made: ArrayRows) -> dict[str, float]:  # type: ignore[no-untyped-def]
    tail = Tail(classifier, Workers(), cut=HEAD_CUT)
    return mean_scores(tail.evaluate(made), prefix="")


def fit_unfrozen(classifier, settings):  # type: ignore[no-untyped-def]
    shape = (2, 2, 1152)
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


def test_a_step_leaves_no_file_among_the_temporary_ones(  # type: ignore[no-untyped-def]
    fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fit(fresh, StageConfig(epochs=1))
    assert list(tmp_path.iterdir()) == []


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
    # The learning rate is so large that the validation loss soon rises.
    settings = StageConfig(epochs=50, learning_rate=0.3, patience=2, global_batch_size=16)
    state = fit(fresh, settings)
    losses = [row["val_loss"] for row in state.history]
    assert len(losses) < 50
    assert state.best_epoch == int(np.argmin(losses)) + 1 == len(losses) - 2
    _, tail = model.split_at(fresh, HEAD_CUT)
    for kept, best in zip(tail.get_weights(), state.best_weights, strict=True):
        np.testing.assert_array_equal(kept, best)
    assert evaluate(fresh, rows(20, seed=1))["loss"] == pytest.approx(min(losses), abs=1e-5)


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
    with pytest.raises(DivergedError, match=r"NaN or infinite after epoch 1 .* try a smaller learning rate"):
        fit(fresh, StageConfig(epochs=2), train=broken)


def test_a_batch_larger_than_the_photos_takes_them_all(fresh) -> None:  # type: ignore[no-untyped-def]
    state = fit(fresh, StageConfig(epochs=1, global_batch_size=512), train=rows(10))
    assert state.history[0]["steps"] == 1


class ShareOfRows(ArrayRows):
    """All rows, as the share of a single worker."""

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        super().__init__(features, labels)
        self.first, self.total = 0, self.rows


def test_the_probabilities_of_a_split_are_the_model_s_own_in_the_order_of_its_rows(fresh) -> None:  # type: ignore[no-untyped-def]
    made = rows(20, seed=1)
    split = ShareOfRows(made._features, made._labels)
    found = score_splits(networks(fresh), cut=HEAD_CUT, splits={"validation": split})["validation"]  # type: ignore[dict-item]
    _, tail = model.split_at(fresh, HEAD_CUT)
    np.testing.assert_allclose(found.probabilities, tail.predict(made._features, verbose=0), atol=1e-6)
    assert found.labels.tolist() == made._labels.tolist()
    scores = evaluate(fresh, made)
    assert found.scores["loss"] == pytest.approx(scores["loss"])
    assert found.scores["accuracy"] == pytest.approx(scores["acc"])
    assert found.scores["accuracy"] == (found.probabilities.argmax(axis=1) == made._labels).mean()


def test_balanced_accuracy_is_the_mean_over_the_classes(fresh) -> None:  # type: ignore[no-untyped-def]
    made = rows(20, seed=1)
    made._labels[:] = [0] * 16 + [1] * 4
    split = ShareOfRows(made._features, made._labels)
    found = score_splits(networks(fresh), cut=HEAD_CUT, splits={"validation": split})["validation"]  # type: ignore[dict-item]
    right = found.probabilities.argmax(axis=1) == made._labels
    assert found.scores["balanced_accuracy"] == pytest.approx((right[:16].mean() + right[16:].mean()) / 2)


def test_the_weight_of_a_class_multiplies_its_part_of_the_loss(fresh) -> None:  # type: ignore[no-untyped-def]
    def kernel(rate: float, class_weights: tuple[float, ...], train: ArrayRows | None = None) -> np.ndarray:
        fresh.set_weights(fresh.first_weights)
        settings = StageConfig(epochs=2, learning_rate=rate, optimizer="sgd", global_batch_size=16)
        return np.asarray(fit(fresh, settings, class_weights=class_weights, train=train).weights[0])

    np.testing.assert_allclose(kernel(0.01, (2.0, 2.0)), kernel(0.02, ()), atol=1e-6)
    # The photos of a class with weight 0 have no influence.
    other = rows(48)
    other._features[other._labels == 0] *= -3.0
    np.testing.assert_allclose(kernel(0.01, (0.0, 1.0)), kernel(0.01, (0.0, 1.0), other), atol=1e-6)


def test_the_cosine_schedule_takes_the_learning_rate_to_nothing(fresh) -> None:  # type: ignore[no-untyped-def]
    state = fit(fresh, StageConfig(epochs=4, learning_rate=1e-3, schedule="cosine", global_batch_size=16))
    rates = [row["learning_rate"] for row in state.history]
    assert rates == pytest.approx([1e-3, 8.5355e-4, 5e-4, 1.4645e-4], rel=1e-4)


def test_the_average_of_the_weights_is_what_is_measured_and_kept(fresh) -> None:  # type: ignore[no-untyped-def]
    settings = StageConfig(epochs=3, learning_rate=1e-2, average_decay=0.9, global_batch_size=16)
    state = fit(fresh, settings)
    assert not np.allclose(state.best_weights[0], state.weights[0])
    least = min(row["val_loss"] for row in state.history)
    assert evaluate(fresh, rows(20, seed=1))["loss"] == pytest.approx(least, abs=1e-5)


@pytest.mark.parametrize(
    "changes", [{"schedule": "cosine", "weight_decay": 0.01}, {"average_decay": 0.9, "label_smoothing": 0.1}]
)
def test_every_kind_of_stage_resumes_exactly(fresh, changes: dict) -> None:  # type: ignore[no-untyped-def]
    kept: list[bytes] = []

    class Keeper(Follower):
        def on_epoch(self, state: StageState, *, checkpoint: bool) -> None:
            kept.append(state.to_bytes())

    settings = StageConfig(epochs=4, global_batch_size=16, **changes)
    stage = StageRows(train=rows(48), validation=rows(20, seed=1))  # type: ignore[arg-type]
    whole = fit_stage(networks(fresh), settings, stage, Keeper(), cut=HEAD_CUT)
    fresh.set_weights(fresh.first_weights)
    resumed = fit(fresh, settings, state=StageState.from_bytes(kept[1]))
    for ours, theirs in zip(resumed.best_weights, whole.best_weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_weight_decay_shrinks_kernels(fresh) -> None:  # type: ignore[no-untyped-def]
    norms = []
    for weight_decay in (0.0, 0.9):
        fresh.set_weights(fresh.first_weights)
        state = fit(fresh, StageConfig(epochs=5, learning_rate=0.1, weight_decay=weight_decay, optimizer="sgd"))
        norms.append(np.linalg.norm(state.weights[0]))
    assert norms[1] < 0.8 * norms[0]
