"""Builds the classifier as an OpenVINO graph from its weights, by layer name and without TensorFlow."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from catdog.errors import FailureError, UsageError, one_line
from catdog.model.backbone_specs import HEAD_CUT, Block, backbone_spec
from catdog.model.saved_model import CLASS_SUMS, OUTPUT, WEIGHTS_FILE, ClassifierSpec
from catdog.model.weights.weights_file import Tensors, parse_weights

_EPSILON = 1e-3  # of Keras's batch normalization


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which reports over the network unless the user opts out."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def build_graph(spec: ClassifierSpec, weights: bytes) -> Any:
    """Return the openvino.Model of a classifier: (?, S, S, 3) uint8 images to (?, classes) float32 probabilities.

    `weights` is the content of the classifier's weights.h5. Batch normalization is folded into the convolutions.
    Raises FailureError when the weights do not fit `spec`.
    """
    import_openvino()
    try:
        tensors = parse_weights(weights, shapes=spec.tensor_shapes(), where=WEIGHTS_FILE)
        return _Builder(spec, tensors).build()
    except (UsageError, KeyError, IndexError, ValueError, RuntimeError) as error:
        raise FailureError(f"the model: {WEIGHTS_FILE} cannot be used: {one_line(error)}") from error


LAST_MAP = "gap"  # the cut before the pooling


def can_cut(cut: str) -> bool:
    """Return whether `build_trunk` can cut at the layer `cut`: a convolution, or the head."""
    return cut == HEAD_CUT or re.fullmatch(r"(stem_|top_|block\d[a-z]_(expand_|dw|project_))conv", cut) is not None


def build_trunk(spec: ClassifierSpec, tensors: Tensors, cuts: Sequence[str]) -> Any:
    """Return the openvino.Model of a trunk: (?, S, S, 3) uint8 images to the float32 features at each of `cuts`.

    Features are maps, (?, H, W, C), at LAST_MAP too; at the head they are (?, C). The classes and the dropout of `spec`
    do not matter.
    Raises FailureError when `tensors` do not fit the backbone.
    """
    import_openvino()
    try:
        return _Builder(spec, tensors).build_trunk(cuts)
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise FailureError(f"the backbone's weights cannot be used: {one_line(error)}") from error


class _Builder:
    """Builds the network of classifier.build_classifier from OpenVINO's operations, channels first."""

    def __init__(self, spec: ClassifierSpec, tensors: Tensors) -> None:
        self._ops = importlib.import_module("openvino.opset13")
        self._spec, self._tensors = spec, tensors
        self._backbone_spec = backbone_spec(spec.backbone)
        self._inputs: dict[str, Any] = {}  # of each convolution and of the pooling, by layer name

    def build(self) -> Any:
        """Return the classifier. Raises KeyError for a missing layer, RuntimeError if shapes do not fit."""
        ops = self._ops
        image, feature = self._backbone()
        head = self._tensors[OUTPUT]
        kernel, bias = self._constant(head["kernel"]), self._constant(head["bias"])
        logits = ops.add(ops.matmul(feature, kernel, False, False), bias)
        probabilities = ops.softmax(logits, 1)
        if self._spec.output_units:
            sums = self._constant(self._tensors[CLASS_SUMS]["kernel"])
            probabilities = ops.matmul(probabilities, sums, False, False)
        return import_openvino().Model([probabilities], [image], "classifier")

    def build_trunk(self, cuts: Sequence[str]) -> Any:
        """Return the trunk with an output for each of `cuts`. Raises as `build` does."""
        image, feature = self._backbone()
        last = self._ops.constant([0, 2, 3, 1])
        outputs = [feature if cut == HEAD_CUT else self._ops.transpose(self._inputs[cut], last) for cut in cuts]
        return import_openvino().Model(outputs, [image], "trunk")

    def _backbone(self) -> tuple[Any, Any]:
        """Return the image and the pooled feature."""
        ops, spec = self._ops, self._spec
        image = ops.parameter([-1, spec.image_size, spec.image_size, 3], np.uint8, name="image")
        node = ops.transpose(ops.convert(image, "f32"), ops.constant([0, 3, 1, 2]))
        scale, offset = (self._constant(values, channels=True) for values in spec.scaling)
        node = ops.add(ops.multiply(node, scale), offset)
        node = self._activate(self._convolve(node, "stem_conv", normalization="stem_bn", stride=2))
        for block in self._backbone_spec.blocks():
            node = self._block(node, block)
        node = self._inputs[LAST_MAP] = self._activate(self._convolve(node, "top_conv", normalization="top_bn"))
        pool = {"max": ops.reduce_max, "avg": ops.reduce_mean}[spec.pooling]
        return image, pool(node, ops.constant([2, 3]), keep_dims=False)

    def _block(self, node: Any, block: Block) -> Any:
        """Apply one inverted residual block."""
        ops, start, prefix = self._ops, node, f"{block.name}_"
        if block.expansion > 1:
            node = self._activate(self._convolve(node, f"{prefix}expand_conv", normalization=f"{prefix}expand_bn"))
        node = self._convolve(node, f"{prefix}dwconv", normalization=f"{prefix}bn", stride=block.stride)
        node = self._activate(node)
        if not self._backbone_spec.lite:
            squeezed = ops.reduce_mean(node, ops.constant([2, 3]), keep_dims=True)
            reduced = self._activate(self._convolve(squeezed, f"{prefix}se_reduce"))
            node = ops.multiply(node, ops.sigmoid(self._convolve(reduced, f"{prefix}se_expand")))
        node = self._convolve(node, f"{prefix}project_conv", normalization=f"{prefix}project_bn")
        return ops.add(node, start) if block.skip else node

    def _convolve(self, node: Any, name: str, *, normalization: str = "", stride: int = 1) -> Any:
        """Apply the convolution `name` with "same" padding and its batch normalization folded into kernel and bias."""
        layer, self._inputs[name] = self._tensors[name], node
        if depthwise := "depthwise_kernel" in layer:
            # (H, W, C, 1) to (C, 1, 1, H, W): a group for each channel.
            kernel = layer["depthwise_kernel"].transpose(2, 3, 0, 1)[:, np.newaxis]
        else:
            kernel = layer["kernel"].transpose(3, 2, 0, 1)
        bias = layer.get("bias")
        if normalization:
            values = {key: array.astype(np.float64) for key, array in self._tensors[normalization].items()}
            factor = values["gamma"] / np.sqrt(values["moving_variance"] + _EPSILON)
            kernel = kernel * factor.reshape(-1, *[1] * (kernel.ndim - 1))
            bias = values["beta"] - values["moving_mean"] * factor
        apply = self._ops.group_convolution if depthwise else self._ops.convolution
        node = apply(node, self._constant(kernel), [stride, stride], [0, 0], [0, 0], [1, 1], auto_pad="same_upper")
        return node if bias is None else self._ops.add(node, self._constant(bias, channels=True))

    def _activate(self, node: Any) -> Any:
        return self._ops.clamp(node, 0.0, 6.0) if self._backbone_spec.lite else self._ops.swish(node)

    def _constant(self, values: Any, *, channels: bool = False) -> Any:
        array = np.ascontiguousarray(values, np.float32)
        return self._ops.constant(array.reshape(1, -1, 1, 1) if channels else array)
