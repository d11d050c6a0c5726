"""The backbones: built flat into a model that is under construction, filled with pretrained weights by layer name.

The architecture comes from the `efficientnet` package, which keeps Keras's modules in globals of its own and has
not followed Keras since 2020. All dealings with it are in `_record_layers`; what leaves this module consists of
tf-keras's own layers only.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from catdog.cluster.environment import set_keras_environment

set_keras_environment()

import tf_keras
from efficientnet import model as efficientnet

from catdog.model.backbone_specs import BackboneSpec, Shapes, backbone_spec
from catdog.model.weights.pretrained import Pretrained
from catdog.model.weights.weights_file import Tensors, check_tensors

# Every layer of a backbone, and its 1000-class top where somebody built it; never a layer of our own head.
_BACKBONE_LAYER = re.compile(r"(stem|block\d+[a-z]|top)_\w+|probs")


def build_backbone(name: str, inputs: Any) -> Any:
    """Apply the backbone `name`, with random weights, to a Keras tensor and return its last feature map.

    (B, S, S, 3) float, already scaled, to (B, S/32, S/32, top_filters), rounded up; 224 pixels give 7 x 7. The layers
    stand directly in the model that is built from the result, under the names of the `efficientnet` package,
    `stem_conv` to `top_activation`.
    Raises UsageError for a backbone that the table does not have.
    """
    tensors = [inputs]
    for layer in layers_of(name):
        feeds = [tensors[feed] for feed in layer.feeds]
        tensors.append(layer.kind.from_config(dict(layer.config))(feeds[0] if len(feeds) == 1 else feeds))
    return tensors[-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedLayer:
    """A layer to be made: one of tf-keras's own classes, its configuration, and what feeds it.

    `feeds` counts the tensors before it: 0 is the input, N is what the layer number N - 1 returns.
    """

    kind: Any
    config: Mapping[str, Any]
    feeds: tuple[int, ...]


@functools.cache
def layers_of(name: str) -> tuple[PlannedLayer, ...]:
    """Return the layers of the backbone `name`, in an order in which they can be made; the last one is its output.

    Raises UsageError for a backbone that the table does not have.
    """
    spec = backbone_spec(name)
    found = []
    for layer, feeds in _record_layers(spec):
        kind, config = _standard_form(layer, spec=spec)
        found.append(PlannedLayer(kind=kind, config=config, feeds=feeds))
    return tuple(found)


def load_pretrained(model: tf_keras.Model, pretrained: Pretrained) -> None:
    """Set every weight of the backbone's layers in `model` to the tensors of `pretrained`.

    Layers of other names, such as a new head, are left alone; so is a 1000-class top that `model` does not have.
    Raises UsageError, listing what is missing, extra or of another shape, before any weight is set.
    """
    layers = [layer for layer in model.layers if layer.weights and _BACKBONE_LAYER.fullmatch(layer.name)]
    check_tensors(pretrained.tensors, shapes=tensor_shapes(layers), where=pretrained.source)
    set_tensors(layers, pretrained.tensors)


def tensor_shapes(layers: Sequence[Any]) -> Shapes:
    """Return the shapes of the weights of Keras `layers`, by layer and variable name."""
    return {
        layer.name: {_short_name(weight): tuple(weight.shape) for weight in layer.weights}
        for layer in layers
        if layer.weights
    }


def set_tensors(layers: Sequence[Any], tensors: Tensors) -> None:
    """Set all weights of Keras `layers`; `tensors` have the shapes of `tensor_shapes`."""
    for layer in layers:
        if layer.weights:
            layer.set_weights([tensors[layer.name][_short_name(weight)] for weight in layer.weights])


def _short_name(weight: Any) -> str:
    """Return `kernel` of `stem_conv/kernel:0`."""
    return str(weight.name).rsplit("/", 1)[-1].split(":")[0]


class _Recorder:
    """Stands in for Keras's modules of layers and models: it builds nothing, and keeps what was asked for.

    A tensor is its number, as PlannedLayer counts them. Building the network to look at it would take seconds, and with
    several workers each of its variables would be sent around.
    """

    def __init__(self) -> None:
        self.made: list[tuple[Any, tuple[int, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        """Return a class of layers like Keras's `name`, whose layers are kept when they are called."""
        plain = getattr(tf_keras.layers, name)

        def record(layer: Any, inputs: int | list[int]) -> int:
            self.made.append((layer, tuple(inputs) if isinstance(inputs, list) else (inputs,)))
            return len(self.made)

        return type(name, (plain,), {"__call__": record, "standard": plain})

    def Input(self, **_: Any) -> int:  # noqa: N802 - Keras's name
        """Return the number of the input."""
        return 0

    def Model(self, *_: Any, **__: Any) -> None:  # noqa: N802 - Keras's name
        """Make no model."""

    def multiply(self, inputs: list[int], *, name: str) -> Any:
        """Record the product of two tensors."""
        return self.Multiply(name=name)(inputs)

    def add(self, inputs: list[int], *, name: str) -> Any:
        """Record the sum of two tensors."""
        return self.Add(name=name)(inputs)


def _record_layers(spec: BackboneSpec) -> list[tuple[Any, tuple[int, ...]]]:
    """Return the layers of which the `efficientnet` package makes the backbone, none of them built, and their feeds.

    Its `input_tensor=` imports a module that TensorFlow no longer has, and its `tfkeras` module would replace
    Keras's own "swish" for the whole process; so neither is used.
    """
    # The package counts the blocks before it repeats them, so it is given the repeats: with the depth, the last blocks
    # of a deep network would be dropped with a probability of up to 1.1.
    blocks = [
        block._replace(num_repeat=repeats, **_fixed_arguments(spec, block))
        for block, repeats in zip(efficientnet.DEFAULT_BLOCKS_ARGS, spec.stage_repeats(), strict=True)
    ]
    recorder = _Recorder()
    efficientnet.EfficientNet(
        width_coefficient=1.0 if spec.lite else spec.width,
        depth_coefficient=1.0,
        default_resolution=spec.image_size,
        blocks_args=blocks,
        include_top=False,
        weights=None,
        input_shape=(spec.image_size, spec.image_size, 3),
        backend=tf_keras.backend,
        layers=recorder,
        models=recorder,
        utils=tf_keras.utils,
    )
    return recorder.made


def _fixed_arguments(spec: BackboneSpec, block: Any) -> dict[str, Any]:
    """Return what a Lite stage has of its own: filters scaled here, because the stem and the top are not scaled."""
    if not spec.lite:
        return {}
    scaled = {
        name: efficientnet.round_filters(getattr(block, name), spec.width, 8)
        for name in ("input_filters", "output_filters")
    }
    return {**scaled, "se_ratio": None}


def _standard_form(layer: Any, *, spec: BackboneSpec) -> tuple[Any, dict[str, Any]]:
    """Return class and configuration of a layer like the recorded `layer`, free of the `efficientnet` package's own."""
    config = layer.get_config()
    del config["dtype"]  # that of the policy under which the layer is made
    if isinstance(layer, tf_keras.layers.Activation):
        if spec.lite:
            return tf_keras.layers.ReLU, {"max_value": 6.0, "name": layer.name}
        return tf_keras.layers.Activation, {"activation": "swish", "name": layer.name}
    if isinstance(layer, tf_keras.layers.Dropout):
        # FixedDropout works around a defect that Dropout has not had since TensorFlow 2.1.
        return tf_keras.layers.Dropout, config
    if layer.name.endswith("se_reduce"):
        config["activation"] = "swish"
    return layer.standard, config
