"""Reads a Keras HDF5 weights file that anybody may have written: nothing but what stands in the file, within bounds.

An HDF5 file may point to other files, promise more than it holds, or nest without end. So hard links alone are
followed, every dataset is judged by its description, and none is read before all have been.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping

import h5py
import numpy as np

from catdog.errors import UsageError, one_line

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_DEEPEST = 12  # groups around a dataset; whole models in models need five
_MOST_OBJECTS = 50_000  # efficientnet-l2 with an optimizer has 12,000
# Weights are stored as they are; what promises more than this many times the file is compressed, or a lie.
_EXPANSION = 4
_SPARE_BYTES = 2**20

Shape = tuple[int, ...]
Check = Callable[[Mapping[str, Shape]], None]


def read_datasets(content: bytes, *, where: str, check: Check | None = None) -> dict[str, np.ndarray]:
    """Return the weights in an HDF5 file of Keras's layout as float32, by path.

    `check` is given the shapes by path before any of them is read, and raises what it likes.
    Raises UsageError, naming `where`, for a file that is broken, of another layout, or not to be trusted.
    """
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            root = _child(file, "model_weights") or file  # of a whole model, without its optimizer's
            if not any(name.startswith("layer_names") for name in root.attrs):
                raise UsageError(
                    f"{where}: holds no layer_names, so it is not of Keras's HDF5 layout; "
                    'save it again from tf_keras with model.save_weights("NAME.h5")'
                )
            datasets = dict(_walk(root, where=where))
            _check_storage(datasets, size=len(content), where=where)
            if check:
                check({path: dataset.shape for path, dataset in datasets.items()})
            return {path: np.asarray(dataset[()], np.float32) for path, dataset in datasets.items()}
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise UsageError(f"{where}: cannot be read as HDF5: {one_line(error)}") from error


def _child(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """Return a member that stands in the file itself; None for a link to elsewhere and where there is none."""
    link = group.get(name, getlink=True)
    return group[name] if isinstance(link, h5py.HardLink) else None


def _walk(root: h5py.Group, *, where: str) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield every dataset below `root` with its path. Raises UsageError beyond the bounds of depth and number."""
    waiting, seen = [("", root)], 0
    while waiting:
        prefix, group = waiting.pop()
        for name in group:
            seen += 1
            path = f"{prefix}{name}"
            if seen > _MOST_OBJECTS or path.count("/") > _DEEPEST:
                raise UsageError(f"{where}: holds more groups than any network's weights")
            node = _child(group, name)
            if isinstance(node, h5py.Dataset):
                yield path, node
            elif isinstance(node, h5py.Group):
                waiting.append((f"{path}/", node))


def _check_storage(datasets: Mapping[str, h5py.Dataset], *, size: int, where: str) -> None:
    """Raise UsageError unless all values are numbers, stand in this file, and are as many as it can hold."""
    promised = 0
    for path, dataset in datasets.items():
        if dataset.external or dataset.is_virtual:
            raise UsageError(f"{where}: {path} keeps its values in another file; expected them in this one")
        if dataset.dtype.kind not in "fiu" or dataset.shape is None:
            raise UsageError(f"{where}: {path} holds {dataset.dtype}, expected numbers")
        chunk = math.prod(dataset.chunks) if dataset.chunks else 0
        promised += max(dataset.size, chunk) * dataset.dtype.itemsize
    if promised > _EXPANSION * size + _SPARE_BYTES:
        raise UsageError(f"{where}: promises {promised:,} bytes of weights, but has {size:,}: it is broken or a trap")


def write_tensors(tensors: Mapping[str, Mapping[str, np.ndarray]]) -> bytes:
    """Return the content of a weights.h5 of `tensors`, by layer and variable, in Keras's layout."""
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in tensors]
        for layer, variables in tensors.items():
            group = file.create_group(layer)
            names = [f"{layer}/{name}:0" for name in variables]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, array in zip(names, variables.values(), strict=True):
                group.create_dataset(name, data=np.asarray(array, np.float32))
    return stream.getvalue()
