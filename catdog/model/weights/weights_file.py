"""Reads the tensors of a backbone from a weights file of any origin, by layer name, then variable name.

The names and layouts are those of the `efficientnet` package: "stem_conv", "kernel". The input scaling that a file
expects comes with the tensors. A file of Keras's own EfficientNet holds a normalization layer; all others expect the
backbone's usual scaling.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from catdog.errors import UsageError
from catdog.model.backbone_specs import IMAGENET_STDDEV, BackboneSpec, Scaling, Shapes, backbone_spec, standardize
from catdog.model.weights.hdf5_file import SIGNATURE, read_datasets
from catdog.model.weights.torch_file import parse_state_dict

Tensors = dict[str, dict[str, np.ndarray]]

_TOP = "probs"
_TOP_NAMES = (_TOP, "predictions", "fc")
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LISTED = 6  # names in an error, before "and 12 more"


def parse_tensors(content: bytes, *, backbone: str, where: str) -> tuple[Tensors, Scaling]:
    """Return the tensors in the bytes of a Keras HDF5 or a torch file, and the input scaling that they expect.

    Raises UsageError, naming `where`, when the file is neither or is broken.
    """
    spec = backbone_spec(backbone)
    _refuse_pointer(content, where=where)
    if not content.startswith(SIGNATURE):
        return _from_torch(parse_state_dict(content, where=where), spec), spec.scaling
    tensors = _parse_h5(content, shapes=None, where=where)
    normalizations = [layer for layer in tensors if re.fullmatch(r"normalization(_\d+)?", layer)]
    if len(normalizations) != 1:
        return tensors, spec.scaling
    return tensors, _scaling_of(tensors.pop(normalizations[0]), where=where)


def parse_weights(content: bytes, *, shapes: Shapes, where: str) -> Tensors:
    """Return the tensors in the bytes of one of our own weights.h5 files, which must be exactly those of `shapes`.

    If they do not fit, raises UsageError, naming `where`, before any tensor is read.
    """
    _refuse_pointer(content, where=where)
    return _parse_h5(content, shapes=shapes, where=where)


def _refuse_pointer(content: bytes, *, where: str) -> None:
    if content.startswith(LFS_POINTER):
        raise UsageError(f"{where}: is a pointer of Git LFS, not the weights themselves: fetch them with git lfs pull")


def check_tensors(tensors: Tensors, *, shapes: Shapes, where: str) -> None:
    """Raise UsageError, naming `where`, unless `tensors` are exactly those of `shapes`.

    A 1000-class top that is not in `shapes` is allowed.
    """
    check_shapes(_shapes_of(tensors), shapes=shapes, where=where)


def check_shapes(found_shapes: Shapes, *, shapes: Shapes, where: str) -> None:
    """Check shapes as `check_tensors` does. Raises UsageError, listing what is missing, extra or of another shape."""
    wanted = {f"{layer}/{name}": shape for layer, variables in shapes.items() for name, shape in variables.items()}
    found = {
        f"{layer}/{name}": shape
        for layer, variables in found_shapes.items()
        if layer != _TOP or _TOP in shapes
        for name, shape in variables.items()
    }
    misshaped = {
        f"{name} {found[name]} instead of {wanted[name]}"
        for name in wanted.keys() & found.keys()
        if found[name] != wanted[name]
    }
    lists = {"missing": wanted.keys() - found.keys(), "extra": found.keys() - wanted.keys(), "mis-shaped": misshaped}
    faults = [f"{len(names)} {fault}: {_listing(names)}" for fault, names in lists.items() if names]
    if faults:
        raise UsageError(f"{where}: its tensors do not fit the backbone: {'; '.join(faults)}")


def _shapes_of(tensors: Tensors) -> Shapes:
    return {layer: {name: array.shape for name, array in variables.items()} for layer, variables in tensors.items()}


def _listing(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = len(ordered) - _LISTED
    return ", ".join(ordered[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _parse_h5(content: bytes, *, shapes: Shapes | None, where: str) -> Tensors:
    """Return the tensors of a weights file or whole model in Keras's HDF5 layout. Raises UsageError, naming `where`."""

    def check(found: Mapping[str, tuple[int, ...]]) -> None:
        named: Shapes = {}
        for path, shape in found.items():
            layer, name = _layer_and_name(path)
            if name in named.setdefault(layer, {}):
                raise UsageError(f"{where}: holds {layer}/{name} twice; expected the weights of one backbone")
            named[layer][name] = shape
        if shapes is not None:
            check_shapes(named, shapes=shapes, where=where)

    tensors: Tensors = {}
    for path, array in read_datasets(content, where=where, check=check).items():
        layer, name = _layer_and_name(path)
        tensors.setdefault(layer, {})[name] = array
    return tensors


def _layer_and_name(path: str) -> tuple[str, str]:
    """Return the layer and the variable of a dataset.

    Nested models and old versions put further groups around a layer's group; the layer's own name is always the last.
    """
    *_, layer, name = ["", *path.split("/")]
    layer, name = _TOP if layer in _TOP_NAMES else layer, name.split(":")[0]
    if layer.endswith("dwconv") and name == "kernel":
        name = "depthwise_kernel"  # Keras 3 calls it `kernel`
    return layer, name


def _scaling_of(normalization: Mapping[str, np.ndarray], *, where: str) -> Scaling:
    """Return the scaling that Keras's EfficientNet computes with the weights of its normalization layer.

    It is (image / 255 - mean) / sqrt(variance). The published file holds standard deviations in place of variances.
    Only for `weights="imagenet"` Keras divides by their root once more, which corrects this. So a variance equal to
    ImageNet's standard deviation identifies the published file, or one saved from a model built with it. Any other
    variance is used as it is. A model that was never normalized holds 0 and 1: image / 255.
    Source: tf_keras/src/applications/efficientnet.py; github.com/tensorflow/tensorflow/issues/49930.
    """
    mean, variance = (normalization.get(name, np.empty(0)).ravel() for name in ("mean", "variance"))
    if mean.size != 3 or variance.size != 3 or not (variance > 0).all():
        raise UsageError(f"{where}: its normalization layer holds no mean and variance of three channels")
    published = np.allclose(variance, IMAGENET_STDDEV, rtol=0, atol=1e-4)
    return standardize(mean, variance if published else np.sqrt(variance))


_TORCH_ENDS = {"_conv_stem": "stem_conv", "_bn0": "stem_bn", "_conv_head": "top_conv", "_bn1": "top_bn", "_fc": _TOP}
_TORCH_BLOCK = {
    "_expand_conv": "expand_conv",
    "_bn0": "expand_bn",
    "_depthwise_conv": "dwconv",
    "_bn1": "bn",
    "_se_reduce": "se_reduce",
    "_se_expand": "se_expand",
    "_project_conv": "project_conv",
    "_bn2": "project_bn",
}
_TORCH_BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def _from_torch(state: Mapping[str, np.ndarray], spec: BackboneSpec) -> Tensors:
    """Return the tensors of `efficientnet_pytorch` or its Lite variant under Keras's names and in Keras's layouts.

    An unknown name is kept, to be reported as extra.
    """
    tensors: Tensors = {}
    blocks = [block.name for block in spec.blocks()]
    for path, array in state.items():
        module, _, name = path.rpartition(".")
        layer = _torch_layer(module, blocks)
        if name == "num_batches_tracked":
            continue  # only torch's training uses it
        if layer.endswith("dwconv") and array.ndim == 4:
            name, array = "depthwise_kernel", array.transpose(2, 3, 0, 1)  # (C, 1, H, W) to (H, W, C, 1)
        elif array.ndim == 4:
            name, array = "kernel", array.transpose(2, 3, 1, 0)  # (O, I, H, W) to (H, W, I, O)
        elif array.ndim == 2:
            name, array = "kernel", array.T
        elif layer.endswith("bn"):
            name = _TORCH_BATCH_NORM.get(name, name)
        tensors.setdefault(layer, {})[name] = np.ascontiguousarray(array, np.float32)
    return tensors


def _torch_layer(module: str, blocks: Sequence[str]) -> str:
    """Return the Keras name of a torch module, or `module` itself if it has none.

    Torch numbers the blocks consecutively, Keras names them by stage and letter.
    """
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)", module)
    if block and int(block[1]) < len(blocks) and block[2] in _TORCH_BLOCK:
        return f"{blocks[int(block[1])]}_{_TORCH_BLOCK[block[2]]}"
    return _TORCH_ENDS.get(module, module)
