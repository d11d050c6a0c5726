import json
from pathlib import Path

import numpy as np
import pytest

from catdog import load_classifier
from catdog.errors import FailureError, UsageError
from catdog.model import classifier as model
from catdog.model.backbone_specs import HEAD_CUT, INPUT_CUT, UNIT_SCALING
from catdog.model.saved_model import ClassifierSpec, spec_to_card


def spec_of(backbone: str, **changes: object) -> ClassifierSpec:
    values: dict[str, object] = {
        "backbone": backbone,
        "image_size": 224,
        "classes": ("cat", "dog"),
        "pooling": "max",
        "dropout": 0.2,
        "scaling": UNIT_SCALING,
    }
    return ClassifierSpec(**{**values, **changes})  # type: ignore[arg-type]


PLAIN = spec_of("efficientnet-lite0", dropout=0.0, pooling="avg")


@pytest.fixture(scope="module", params=["efficientnet-b0", "efficientnet-lite0"])
def classifier(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    return model.build_classifier(spec_of(request.param))


@pytest.fixture(scope="module")
def plain():  # type: ignore[no-untyped-def]
    """Return Lite0 with average pooling and without dropout."""
    return model.build_classifier(PLAIN)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype(np.uint8)


def test_the_head_is_the_article_s(classifier) -> None:  # type: ignore[no-untyped-def]
    assert [layer.name for layer in classifier.layers[-3:]] == ["gap", "dropout_out", "fc_out"]
    assert type(classifier.get_layer("gap")).__name__ == "GlobalMaxPooling2D"
    assert classifier.get_layer("dropout_out").rate == 0.2
    assert classifier.get_layer("fc_out").count_params() == 2562
    assert classifier.input.dtype.name == "uint8"
    assert classifier.output.shape[1:] == (2,)


@pytest.mark.parametrize("cut", ["block7a_project_conv", "block6b_expand_conv", "block7a_bn", HEAD_CUT, INPUT_CUT])
def test_tail_after_trunk_is_the_classifier(classifier, images: np.ndarray, cut: str) -> None:  # type: ignore[no-untyped-def]
    trunk, tail = model.split_at(classifier, cut)
    np.testing.assert_allclose(tail(trunk(images)), classifier(images), atol=1e-6)


def test_the_two_cuts_of_training_have_the_shapes_of_the_design(classifier) -> None:  # type: ignore[no-untyped-def]
    trunk = model.trunk_with_outputs(classifier, [HEAD_CUT, "block7a_project_conv"])
    assert [tuple(output.shape[1:]) for output in trunk.outputs] == [(1280,), (7, 7, 1152)]


def test_a_cut_inside_a_skip_connection_is_refused_with_the_valid_ones(classifier) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError) as caught:
        model.split_at(classifier, "block6b_dwconv")
    text = str(caught.value)
    assert text.startswith("--unfrozen.unfreeze-from: 'block6b_dwconv' is a layer inside a skip connection; expected")
    assert "block7a_project_conv" in text
    assert "block6c_dwconv" not in text
    with pytest.raises(UsageError, match="'block9a' is no layer"):
        model.split_at(classifier, "block9a")


def test_every_valid_cut_can_be_cut(classifier) -> None:  # type: ignore[no-untyped-def]
    cuts = model.valid_cuts(classifier)
    assert {"stem_conv", "block2b_expand_conv", "block7a_project_conv", "top_conv"} <= set(cuts)
    for cut in cuts[::7]:
        trunk, tail = model.split_at(classifier, cut)
        assert trunk.output.shape[1:] == tail.input.shape[1:]


def test_a_classifier_without_dropout_or_with_average_pooling_is_built(plain) -> None:  # type: ignore[no-untyped-def]
    assert [layer.name for layer in plain.layers[-2:]] == ["gap", "fc_out"]
    assert type(plain.get_layer("gap")).__name__ == "GlobalAveragePooling2D"


def test_a_saved_model_predicts_the_same_and_alone_is_enough(plain, tmp_path: Path, images: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    from PIL import Image

    network = plain
    model.save_model(tmp_path, network, spec_to_card(PLAIN))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["card.json", "weights.h5"]
    loaded = load_classifier(str(tmp_path))
    assert loaded.classes == ("cat", "dog")
    np.testing.assert_allclose(loaded.predict_images(images), network(images), atol=1e-6)
    photo = tmp_path / "photo.png"
    Image.fromarray(images[0]).save(photo)
    expected = np.asarray(network(images[:1]))[0]
    with photo.open("rb") as file, Image.open(photo) as image:
        for form in (str(photo), photo, file, image, image.convert("CMYK").convert("RGB")):
            label, probability = loaded.predict(form)
            assert label == ("cat", "dog")[int(expected.argmax())]
            assert probability == pytest.approx(float(expected.max()), abs=1e-6)


def test_what_is_no_model_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a model directory: expected card\.json and weights\.h5"):
        load_classifier(str(tmp_path))
    (tmp_path / "card.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(UsageError, match="expected a model card of format 1, found 99"):
        load_classifier(str(tmp_path))


def test_a_damaged_weights_file_is_a_failure_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps(spec_to_card(spec_of("efficientnet-lite0"))))
    (tmp_path / "weights.h5").write_bytes(b"not hdf5")
    with pytest.raises(FailureError, match=r"weights\.h5 cannot be used"):
        load_classifier(str(tmp_path))


@pytest.mark.parametrize(
    ("asked", "capabilities", "precision"),
    [
        ("auto", [], "float32"),
        ("auto", [(7, 5)], "float32"),
        ("auto", [(8, 0)], "bfloat16"),
        ("auto", [(9, 0), (7, 0)], "float32"),
        ("bfloat16", [], "bfloat16"),
        ("float32", [(9, 0)], "float32"),
    ],
)
def test_half_precision_is_for_gpus_that_gain_from_it(
    asked: str, capabilities: list[tuple[int, int]], precision: str
) -> None:
    assert model.choose_precision(asked, capabilities) == precision


def test_a_classifier_in_half_precision_keeps_float32_weights_and_probabilities(plain, images: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    import tf_keras

    half = model.build_classifier(PLAIN, precision="bfloat16")
    assert tf_keras.mixed_precision.global_policy().name == "float32"  # restored for later models
    assert {weight.dtype.name for weight in half.weights} == {"float32"}
    assert half.get_layer("top_conv").compute_dtype == "bfloat16"
    half.set_weights(plain.get_weights())
    found = np.asarray(half(images))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.asarray(plain(images)), atol=0.05)


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_the_class_maps_are_those_that_differentiation_gives(  # type: ignore[no-untyped-def]
    plain, classifier, images: np.ndarray, pooling: str
) -> None:
    import tensorflow as tf
    import tf_keras

    network = plain if pooling == "avg" else classifier
    labels = np.array([1, 0])
    dense = network.get_layer("fc_out")
    both = tf_keras.Model(network.input, [network.get_layer("gap").input, network.get_layer("gap").output])
    with tf.GradientTape() as tape:
        maps = tf.Variable(both(images, training=False)[0])
        pooled = tf.reduce_mean(maps, axis=(1, 2)) if pooling == "avg" else tf.reduce_max(maps, axis=(1, 2))
        score = tf.reduce_sum(tf.gather(pooled @ dense.kernel + dense.bias, labels, axis=1, batch_dims=1))
    weights = tf.reduce_mean(tape.gradient(score, maps), axis=(1, 2), keepdims=True)
    expected = tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1)).numpy()
    expected /= np.maximum(expected.max(axis=(1, 2), keepdims=True), 1e-12)
    found = model.class_maps(network, images, labels)
    assert found.shape == (2, 7, 7)
    np.testing.assert_allclose(found, expected, atol=1e-3)
