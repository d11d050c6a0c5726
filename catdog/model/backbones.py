"""Builds backbones flat into a model under construction, and fills them with pretrained weights by layer name.

The architecture comes from the `efficientnet` package, which keeps Keras's modules in its own globals and has not
followed Keras since 2020. Only `_record_layers` and its helper use the package. All layers that this module returns
are tf-keras's own.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from catdog.cluster.environment import import_tensorflow

import_tensorflow()

import tf_keras
from efficientnet import model as efficientnet

from catdog.model.backbone_specs import BackboneSpec, Shapes, backbone_spec
from catdog.model.weights.pretrained import Pretrained
from catdog.model.weights.weights_file import Tensors, check_tensors

# Matches every layer of a backbone and its 1000-class top, if a model has one, but no layer of our own head.
_BACKBONE_LAYER = re.compile(r"(stem|block\d+[a-z]|top)_\w+|probs")


def build_backbone(name: str, inputs: Any) -> Any:
    """Apply the backbone `name`, with random weights, to a Keras tensor and return its last feature map.

    The input is (B, S, S, 3) float, already scaled. The result is (B, S/32, S/32, top_filters), the sides rounded up;
    224 pixels give 7 x 7. A model built from the result holds the layers directly, not in a nested model. They have
    the names of the `efficientnet` package, `stem_conv` to `top_activation`.
    Raises UsageError for a backbone that is not in the table.
    """
    tensors = [inputs]
    for layer in layers_of(name):
        feeds = [tensors[feed] for feed in layer.feeds]
        tensors.append(layer.kind.from_config(dict(layer.config))(feeds[0] if len(feeds) == 1 else feeds))
    return tensors[-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedLayer:
    """A layer to be created: one of tf-keras's own classes, its configuration, and the tensors that feed it.

    `feeds` holds indices of tensors: 0 is the input, N is the output of layer N - 1, counted from 0.
    """

    kind: Any
    config: Mapping[str, Any]
    feeds: tuple[int, ...]


@functools.cache
def layers_of(name: str) -> tuple[PlannedLayer, ...]:
    """Return the layers of the backbone `name`, in an order in which they can be created; the last one is its output.

    Raises UsageError for a backbone that is not in the table.
    """
    spec = backbone_spec(name)
    found = []
    for layer, feeds in _record_layers(spec):
        kind, config = _standard_form(layer, spec=spec)
        found.append(PlannedLayer(kind=kind, config=config, feeds=feeds))
    return tuple(found)


def load_pretrained(model: tf_keras.Model, pretrained: Pretrained) -> None:
    """Set every weight of the backbone's layers in `model` to the tensors of `pretrained`.

    Layers with other names, such as a new head, are left alone. A 1000-class top in `pretrained` is ignored if `model`
    has none.
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
    """Set all weights of Keras `layers`; `tensors` must have the shapes that `tensor_shapes` returns."""
    for layer in layers:
        if layer.weights:
            layer.set_weights([tensors[layer.name][_short_name(weight)] for weight in layer.weights])


def _short_name(weight: Any) -> str:
    """Return `kernel` of `stem_conv/kernel:0`."""
    return str(weight.name).rsplit("/", 1)[-1].split(":")[0]


class _Recorder:
    """Replaces Keras's modules of layers and models: it builds nothing and records the layers that are called.

    A tensor is represented by its index, as in PlannedLayer. Building the network only to inspect it would take
    seconds, and with several workers every variable would be sent between them.
    """

    def __init__(self) -> None:
        self.made: list[tuple[Any, tuple[int, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        """Return a subclass of Keras's layer class `name` that records its layers when they are called."""
        plain = getattr(tf_keras.layers, name)

        def record(layer: Any, inputs: int | list[int]) -> int:
            self.made.append((layer, tuple(inputs) if isinstance(inputs, list) else (inputs,)))
            return len(self.made)

        return type(name, (plain,), {"__call__": record, "standard": plain})

    def Input(self, **_: Any) -> int:  # noqa: N802 - Keras's name
        """Return the index of the input."""
        return 0

    def Model(self, *_: Any, **__: Any) -> None:  # noqa: N802 - Keras's name
        """Do nothing: no model is needed."""

    def multiply(self, inputs: list[int], *, name: str) -> Any:
        """Record the product of two tensors."""
        return self.Multiply(name=name)(inputs)

    def add(self, inputs: list[int], *, name: str) -> Any:
        """Record the sum of two tensors."""
        return self.Add(name=name)(inputs)


def _record_layers(spec: BackboneSpec) -> list[tuple[Any, tuple[int, ...]]]:
    """Return the unbuilt layers that the `efficientnet` package makes the backbone from, each with its feeds.

    The package's `input_tensor=` imports a module that TensorFlow no longer has, and its `tfkeras` module would replace
    Keras's own "swish" for the whole process. So neither is used.
    """
    # The package derives drop probabilities from a count of blocks that it takes before it scales the repeats by the
    # depth. With the depth, the last blocks of a deep network would be dropped with a probability of up to 1.1. So the
    # package is given the scaled repeats instead.
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
    """Return the arguments in which a Lite stage differs; none for other backbones.

    Filters are scaled here, because the stem and the top of a Lite backbone must not be scaled.
    """
    if not spec.lite:
        return {}
    scaled = {
        name: efficientnet.round_filters(getattr(block, name), spec.width, 8)
        for name in ("input_filters", "output_filters")
    }
    return {**scaled, "se_ratio": None}


def _standard_form(layer: Any, *, spec: BackboneSpec) -> tuple[Any, dict[str, Any]]:
    """Return the tf-keras class and configuration that replace `layer`, free of the `efficientnet` package's own."""
    config = layer.get_config()
    del config["dtype"]  # decided by the policy under which the layer is created
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
