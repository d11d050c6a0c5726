from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import h5py
import numpy as np
import pytest
import skimage.data
import tf_keras
from PIL import Image
from tf_keras.src.applications import efficientnet as keras_efficientnet

from catdog.errors import UsageError
from catdog.model.backbone_specs import BACKBONES, IMAGENET_MEAN, IMAGENET_STDDEV
from catdog.model.backbones import build_backbone, load_pretrained
from catdog.model.weights.pretrained import Pretrained, load_weights

BUILT = ("efficientnet-b0", "efficientnet-lite0", "efficientnet-lite2")
TWO = BUILT[:2]
SHAPE = (224, 224, 3)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (2, *SHAPE)).astype(np.float32)

Model = tf_keras.Model


def build(name: str) -> Model:
    inputs = tf_keras.Input(SHAPE, name="scaled")
    return Model(inputs, build_backbone(name, inputs))


def randomize(model: Model) -> None:
    """Randomize biases and batch normalizations, which start constant: a test then notices a swapped or lost one."""
    for layer in model.layers:
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            layer.set_weights([RNG.uniform(0.5, 1.5, weight.shape) for weight in layer.weights])
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(RNG.uniform(-0.5, 0.5, layer.bias.shape))


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {name: build(name) for name in BUILT}


@pytest.fixture(scope="module")
def keras_b0() -> Model:
    """Return Keras's own B0, which scales its input itself."""
    model = tf_keras.applications.EfficientNetB0(weights=None, include_top=False, input_shape=SHAPE)
    randomize(model)
    return model


@pytest.fixture(scope="module")
def reference_b0() -> Model:
    """Return the `efficientnet` package's own B0, which leaves scaling to the caller."""
    from efficientnet import model as package

    model = package.EfficientNetB0(
        weights=None,
        include_top=False,
        input_shape=SHAPE,
        backend=tf_keras.backend,
        layers=tf_keras.layers,
        models=tf_keras.models,
        utils=tf_keras.utils,
    )
    randomize(model)
    return model


@pytest.fixture
def features(models: dict[str, Model]) -> Callable[[Path], np.ndarray]:
    """Return a function from a weights file to the B0 features of IMAGES, as the project computes them."""

    def features(path: Path) -> np.ndarray:
        pretrained = load(path)
        load_pretrained(models["efficientnet-b0"], pretrained)
        return run(
            models["efficientnet-b0"],
            IMAGES * np.float32(pretrained.scaling.scale) + np.float32(pretrained.scaling.offset),
        )

    return features


def load(path: Path, *, backbone: str = "efficientnet-b0") -> Pretrained:
    pretrained = load_weights(backbone, weights=str(path))
    assert pretrained is not None
    return pretrained


def run(model: Model, images: np.ndarray) -> np.ndarray:
    return np.asarray(model(images, training=False))


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert expected.std() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", BUILT)
def test_the_tensors_are_those_of_the_table(name: str, models: dict[str, Model]) -> None:
    shapes = {
        layer.name: {weight.name.split("/")[-1].split(":")[0]: tuple(weight.shape) for weight in layer.weights}
        for layer in models[name].layers
        if layer.weights
    }
    assert shapes == BACKBONES[name].tensor_shapes()


@pytest.mark.parametrize("name", BUILT)
def test_the_layers_are_flat_and_named_as_ever(name: str, models: dict[str, Model]) -> None:
    names = [layer.name for layer in models[name].layers]
    assert names[:4] == ["scaled", "stem_conv", "stem_bn", "stem_activation"]
    assert names[-3:] == ["top_conv", "top_bn", "top_activation"]
    assert "block7a_project_conv" in names  # the unfrozen stage starts here by default
    assert ("block7a_se_excite" in names) == (name == "efficientnet-b0")
    assert models[name].output_shape == (None, 7, 7, BACKBONES[name].top_filters)


@pytest.mark.parametrize("name", TWO)
def test_a_model_is_rebuilt_from_its_configuration_without_custom_objects(name: str, models: dict[str, Model]) -> None:
    assert not {"swish", "FixedDropout"} & set(tf_keras.utils.get_custom_objects())
    again = Model.from_config(models[name].get_config())
    assert not any(isinstance(layer, tf_keras.layers.Lambda) for layer in again.layers)
    again.set_weights(models[name].get_weights())
    images = IMAGES / 255
    np.testing.assert_array_equal(run(again, images), run(models[name], images))


@pytest.mark.parametrize("name", TWO)
def test_stochastic_depth_drops_whole_photos_in_training_only(name: str, models: dict[str, Model]) -> None:
    layer = models[name].get_layer("block6d_drop")
    ones = np.ones((64, 7, 7, 192), np.float32)
    dropped = np.asarray(layer(ones, training=True)).reshape(64, -1)
    assert (dropped == dropped[:, :1]).all()
    assert 0 < (dropped[:, 0] == 0).sum() < 64
    np.testing.assert_array_equal(layer(ones, training=False), ones)


def test_features_equal_those_of_the_efficientnet_package(
    reference_b0: Model, features: Callable[[Path], np.ndarray], tmp_path: Path
) -> None:
    reference_b0.save_weights(str(tmp_path / "b0.h5"))
    expected = run(reference_b0, (IMAGES / 255 - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STDDEV))
    assert_same(features(tmp_path / "b0.h5"), expected)


@pytest.mark.parametrize("form", ["weights", "whole model", "nested"])
def test_features_equal_those_of_an_unnormalized_keras_model(
    form: str, keras_b0: Model, features: Callable[[Path], np.ndarray], tmp_path: Path
) -> None:
    path = str(tmp_path / "b0.h5")
    if form == "weights":
        keras_b0.save_weights(path)
    elif form == "whole model":
        with pytest.warns(UserWarning, match="legacy"):
            keras_b0.save(path)
    else:
        tf_keras.Sequential([tf_keras.Input(SHAPE), keras_b0]).save_weights(path)
    assert_same(features(tmp_path / "b0.h5"), run(keras_b0, IMAGES))


@pytest.mark.parametrize("published", [True, False])
def test_features_equal_those_of_a_normalized_keras_model(
    published: bool,
    keras_b0: Model,
    features: Callable[[Path], np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "b0.h5"
    keras_b0.save_weights(str(path))
    with h5py.File(path, "r+") as file:
        (layer,) = (file[name] for name in file if name.startswith("normalization"))
        mean, variance = (layer[name] for name in layer.attrs["weight_names"][:2])
        mean[...] = IMAGENET_MEAN
        # Keras's published file holds standard deviations here.
        variance[...] = IMAGENET_STDDEV if published else np.square(IMAGENET_STDDEV)
    if published:
        monkeypatch.setattr(keras_efficientnet.data_utils, "get_file", lambda *_, **__: str(path))
    weights = "imagenet" if published else str(path)
    keras = tf_keras.applications.EfficientNetB0(weights=weights, include_top=False, input_shape=SHAPE)
    assert_same(features(path), run(keras, IMAGES))


def test_a_file_with_a_top_is_loaded_without_it(features: Callable[[Path], np.ndarray], tmp_path: Path) -> None:
    model = tf_keras.applications.EfficientNetB0(weights=None, classes=10)
    randomize(model)
    model.save_weights(str(tmp_path / "b0.h5"))
    without_top = Model(model.input, model.get_layer("top_activation").output)
    assert_same(features(tmp_path / "b0.h5"), run(without_top, IMAGES))


def test_a_head_is_left_alone(models: dict[str, Model], reference_b0: Model, tmp_path: Path) -> None:
    reference_b0.save_weights(str(tmp_path / "b0.h5"))
    backbone = models["efficientnet-b0"]
    pooled = tf_keras.layers.GlobalAveragePooling2D(name="gap")(backbone.output)
    classifier = Model(backbone.input, tf_keras.layers.Dense(2, name="fc_out")(pooled))
    before = classifier.get_layer("fc_out").get_weights()
    load_pretrained(classifier, load(tmp_path / "b0.h5"))
    for found, expected in zip(classifier.get_layer("fc_out").get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        backbone.get_layer("top_bn").get_weights(), reference_b0.get_layer("top_bn").get_weights()
    )


def test_a_file_that_does_not_fit_sets_nothing(models: dict[str, Model], reference_b0: Model, tmp_path: Path) -> None:
    path = tmp_path / "b0.h5"
    reference_b0.save_weights(str(path))
    with h5py.File(path, "r+") as file:
        del file["block3a_bn/block3a_bn/beta:0"], file["top_conv/top_conv/kernel:0"]
        file["block8a_bn/beta:0"] = np.zeros(3)
        file["top_conv/top_conv/kernel:0"] = np.zeros((1, 1, 320, 1408))
    model = models["efficientnet-b0"]
    before = model.get_weights()
    with pytest.raises(UsageError) as caught:
        load_pretrained(model, load(path))
    assert str(caught.value) == (
        f"{path}: its tensors do not fit the backbone: 1 missing: block3a_bn/beta; 1 extra: block8a_bn/beta; "
        "1 mis-shaped: top_conv/kernel (1, 1, 320, 1408) instead of (1, 1, 320, 1280)"
    )
    assert all(np.array_equal(found, expected) for found, expected in zip(model.get_weights(), before, strict=True))


def test_weights_of_another_backbone_are_refused(models: dict[str, Model]) -> None:
    lite0 = load_weights("efficientnet-lite0", weights="imagenet")
    assert lite0 is not None
    with pytest.raises(UsageError, match=r"64 missing: block1a_se_expand/bias, .* and 58 more"):
        load_pretrained(models["efficientnet-b0"], lite0)


def test_lite0_knows_a_tabby_cat_when_it_sees_one(models: dict[str, Model]) -> None:
    pretrained = load_weights("efficientnet-lite0", weights="imagenet")
    assert pretrained is not None
    backbone = models["efficientnet-lite0"]
    pooled = tf_keras.layers.GlobalAveragePooling2D()(backbone.output)
    classifier = Model(backbone.input, tf_keras.layers.Dense(1000, activation="softmax", name="probs")(pooled))
    load_pretrained(classifier, pretrained)
    photo = Image.fromarray(skimage.data.chelsea()).resize(SHAPE[:2])
    image = np.asarray(photo, np.float32)[np.newaxis] * pretrained.scaling.scale + pretrained.scaling.offset
    probabilities = run(classifier, image)[0]
    assert set(probabilities.argsort()[-3:]) == {281, 282, 285}  # tabby, tiger cat, Egyptian cat
    assert probabilities[[281, 282, 285]].sum() > 0.9
