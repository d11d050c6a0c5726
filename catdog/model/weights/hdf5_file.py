"""Reads a Keras HDF5 weights file from an untrusted source: only what the file itself holds, within bounds.

An HDF5 file may point to other files, promise more than it holds, or nest without end. So only hard links are
followed, and no dataset is read before the descriptions of all datasets have been checked.
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
_MAX_OBJECTS = 50_000  # efficientnet-l2 with an optimizer has 12,000
# Weights are stored uncompressed. A file that promises more than this many times its size is compressed or forged.
_EXPANSION = 4
_SPARE_BYTES = 2**20

Shape = tuple[int, ...]
Check = Callable[[Mapping[str, Shape]], None]


def read_datasets(content: bytes, *, where: str, check: Check | None = None) -> dict[str, np.ndarray]:
    """Return the weights in an HDF5 file of Keras's layout as float32, by path.

    `check` gets the shapes by path before any dataset is read, and may raise an error to refuse the file.
    Raises UsageError, naming `where`, for a file that is broken, of another layout, or not to be trusted.
    """
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            root = _child(file, "model_weights") or file  # in a whole model, apart from the optimizer's weights
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
    """Return the member `name` if it is a hard link, so in this file; None for other links and missing members."""
    link = group.get(name, getlink=True)
    return group[name] if isinstance(link, h5py.HardLink) else None


def _walk(root: h5py.Group, *, where: str) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield every dataset below `root` with its path. Raises UsageError for too many or too deeply nested objects."""
    waiting, seen = [("", root)], 0
    while waiting:
        prefix, group = waiting.pop()
        for name in group:
            seen += 1
            path = f"{prefix}{name}"
            if seen > _MAX_OBJECTS or path.count("/") > _DEEPEST:
                raise UsageError(f"{where}: holds more groups than any network's weights")
            node = _child(group, name)
            if isinstance(node, h5py.Dataset):
                yield path, node
            elif isinstance(node, h5py.Group):
                waiting.append((f"{path}/", node))


def _check_storage(datasets: Mapping[str, h5py.Dataset], *, size: int, where: str) -> None:
    """Raise UsageError unless all values are numbers, are stored in this file, and are no more than it can hold."""
    promised = 0
    for path, dataset in datasets.items():
        if dataset.external or dataset.is_virtual:
            raise UsageError(f"{where}: {path} stores its values in another file; expected them in this one")
        if dataset.dtype.kind not in "fiu" or dataset.shape is None:
            raise UsageError(f"{where}: {path} holds {dataset.dtype}, expected numbers")
        chunk = math.prod(dataset.chunks) if dataset.chunks else 0
        promised += max(dataset.size, chunk) * dataset.dtype.itemsize
    if promised > _EXPANSION * size + _SPARE_BYTES:
        raise UsageError(
            f"{where}: declares {promised:,} bytes of weights, but has {size:,}: it is damaged or malicious"
        )


def write_tensors(tensors: Mapping[str, Mapping[str, np.ndarray]]) -> bytes:
    """Return the content of a weights.h5 with `tensors`, by layer and variable, in Keras's layout."""
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
