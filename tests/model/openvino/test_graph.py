from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from catdog.errors import FailureError
from catdog.model.backbone_specs import BACKBONES, UNIT_SCALING, Scaling
from catdog.model.engines import EngineSpec, read_model
from catdog.model.openvino import graph as openvino_graph
from catdog.model.saved_model import ClassifierSpec, spec_to_card


def save_normalized(directory: Path, *, backbone: str, size: int, pooling: str, images: np.ndarray) -> np.ndarray:
    """Save random weights whose batch normalizations hold the statistics of `images`; return the network's outputs.

    With other statistics the network would be chaotic: its outputs in float32 and float64 would differ.
    """
    import tf_keras

    from catdog.model import classifier as model

    tf_keras.utils.set_random_seed(5)
    spec = ClassifierSpec(
        backbone=backbone, image_size=size, classes=("a", "b", "c"), pooling=pooling, dropout=0.0,
        scaling=Scaling((1 / 58, 1 / 57, 1 / 56), (-2.1, -2.0, -1.8)),
    )  # fmt: skip
    network, random = model.build_classifier(spec), np.random.default_rng(5)
    for layer in network.layers:
        if layer.name.endswith("bn"):
            layer.momentum = 0.0
            layer.gamma.assign(random.uniform(0.8, 1.2, layer.gamma.shape))
            layer.beta.assign(random.normal(0, 0.2, layer.beta.shape))
    network(images, training=True)
    model.save_model(directory, network, spec_to_card(spec))
    return np.asarray(network(images, training=False))


@pytest.mark.parametrize(
    ("backbone", "size", "pooling"), [("efficientnet-b0", 65, "avg"), ("efficientnet-lite2", 64, "max")]
)
def test_the_graph_is_the_network_at_any_size_and_pooling(
    backbone: str, size: int, pooling: str, tmp_path: Path
) -> None:
    images = np.random.default_rng(1).integers(0, 256, (16, size, size, 3), np.uint8)
    images[8:] //= np.arange(2, 10, dtype=np.uint8).reshape(8, 1, 1, 1)  # each image darker than the one before
    wanted = save_normalized(tmp_path, backbone=backbone, size=size, pooling=pooling, images=images)
    model = read_model(str(tmp_path))
    assert np.ptp(wanted, axis=0).max() > 0.01  # the output depends on the image
    found = EngineSpec(model=model, engine="openvino").load(batch_size=16, threads=2)(images)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "efficientnet-l2"])  # L2 has 2 GB of weights
def test_the_trunk_of_every_backbone_is_built_and_has_the_cuts_of_the_table(name: str) -> None:
    backbone = BACKBONES[name]
    ones = {
        layer: {variable: np.ones(shape, np.float32) for variable, shape in shapes.items()}
        for layer, shapes in backbone.tensor_shapes().items()
    }
    spec = ClassifierSpec(
        backbone=name, image_size=64, classes=("a", "b"), pooling="avg", dropout=0.0, scaling=UNIT_SCALING
    )
    shapes = {cut: shape for cut, shape in backbone.cut_shapes(64).items() if openvino_graph.can_cut(cut)}
    graph = openvino_graph.build_trunk(spec, ones, list(shapes))
    found = [tuple(side.get_length() for side in list(output.partial_shape)[1:]) for output in graph.outputs]
    assert found == list(shapes.values())


def add_layer(file: Any) -> None:
    file["block4d_bn/block4d_bn/gamma:0"] = np.ones(8, np.float32)


def drop_layer(file: Any) -> None:
    del file["block4b_dwconv"]


def reshape_layer(file: Any) -> None:
    del file["stem_bn/stem_bn/gamma:0"]
    file["stem_bn/stem_bn/gamma:0"] = np.ones(33, np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [(add_layer, "1 extra: block4d_bn/gamma"), (drop_layer, "1 missing: block4b_dwconv"), (reshape_layer, "33")],
)
def test_weights_of_another_network_are_refused(
    change: Callable[[Any], None], message: str, model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "weights.h5").write_bytes((model_dir / "weights.h5").read_bytes())
    with h5py.File(tmp_path / "weights.h5", "r+") as file:
        change(file)
    with pytest.raises(FailureError, match=rf"weights\.h5 cannot be used: .*{message}") as caught:
        openvino_graph.build_graph(read_model(str(model_dir)).spec, (tmp_path / "weights.h5").read_bytes())
    assert "\n" not in str(caught.value)


def test_what_is_no_weights_file_is_refused_in_one_line(model_dir: Path) -> None:
    with pytest.raises(FailureError, match=r"weights\.h5 cannot be used") as caught:
        openvino_graph.build_graph(read_model(str(model_dir)).spec, b"not hdf5")
    assert "\n" not in str(caught.value)
