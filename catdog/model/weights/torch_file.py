"""Reads a torch state-dict file without torch, in the old format that torch wrote before version 1.6.

The file starts with five pickles: magic number, protocol version, the writer's system, the state dict with references
in place of its storages, and the storages' keys. Then follow, for each key, an int64 element count and the elements.
A pickle can call anything, so this unpickler resolves seven names and refuses every other name before looking it up.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from catdog.errors import UsageError

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
_SHARED_BYTES = 64 * 2**20
_LONGEST_PICKLE = 16 * 2**20  # bytes; that of efficientnet-lite2 has 55,527
_MAX_DIMENSIONS = 8
_ZIP_SIGNATURE = b"PK\x03\x04"
_STORAGE_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
}


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype[Any]
    element_count: int


@dataclass(frozen=True)
class _TensorView:
    """A tensor as the pickle describes it; offset and strides count elements, and no number is checked yet."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def parse_state_dict(content: bytes, *, where: str) -> dict[str, np.ndarray]:
    """Return the tensors in the bytes of a torch state-dict file, by name, each in torch's own layout.

    Raises UsageError, naming `where`, when the file is of another format, is cut short, or holds anything but tensors.
    Nothing in it is ever executed.
    Source: `torch.serialization._legacy_load`.
    """
    if content.startswith(_ZIP_SIGNATURE):
        raise UsageError(
            f"{where}: is of torch's zip format, expected the older one; "
            "save it again with torch.save(..., _use_new_zipfile_serialization=False)"
        )
    try:
        return _parse(content)
    except Exception as error:  # a broken or hostile pickle can make the unpickler raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{where}: not a torch state-dict file: {reason}") from error


def _parse(content: bytes) -> dict[str, np.ndarray]:
    stream = io.BytesIO(content)
    if _unpickle(stream) != _MAGIC_NUMBER or _unpickle(stream) != _PROTOCOL_VERSION:
        raise ValueError("expected torch's magic number and protocol version 1001 at its start")
    _unpickle(stream)  # the writer's byte order and type sizes: torch itself ignores them
    views = _unpickle(stream)
    if not isinstance(views, dict) or not all(isinstance(view, _TensorView) for view in views.values()):
        raise ValueError("expected a dict of tensors")
    storages = {view.storage.key: view.storage for view in views.values()}
    elements = {}
    for key in _unpickle(stream):
        elements[key] = _read_elements(content, stream=stream, storage=storages[key])
    promised = sum(math.prod(view.shape) * view.storage.dtype.itemsize for view in views.values())
    if promised > len(content) + _SHARED_BYTES:  # views may share a storage, and each becomes a copy
        raise ValueError(f"{promised:,} bytes of tensors in a file of {len(content):,}")
    return {str(name): _materialize(view, elements[view.storage.key]) for name, view in views.items()}


def _read_elements(content: bytes, *, stream: io.BytesIO, storage: _Storage) -> np.ndarray:
    """Return the elements of the storage at the stream's position, and move the stream past them."""
    count = int.from_bytes(stream.read(8), "little", signed=True)
    byte_count = count * storage.dtype.itemsize
    if count != storage.element_count or count < 0 or stream.tell() + byte_count > len(content):
        raise ValueError(f"storage {storage.key} is cut short or of another length than announced")
    elements = np.frombuffer(content, storage.dtype, count, stream.tell())
    stream.seek(byte_count, io.SEEK_CUR)
    return elements


def _materialize(view: _TensorView, elements: np.ndarray) -> np.ndarray:
    """Return a copy of the elements that `view` describes."""
    reach = sum((size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True))
    # NumPy does not check strides: it would read memory beyond the storage.
    if min((view.offset, *view.shape, *view.strides)) < 0 or (
        math.prod(view.shape) > elements.size or view.offset + reach >= max(elements.size, 1)
    ):
        raise ValueError(f"a tensor of shape {view.shape} reaches beyond its storage of {elements.size} elements")
    strides = [stride * elements.itemsize for stride in view.strides]
    return np.lib.stride_tricks.as_strided(elements[view.offset :], view.shape, strides).copy()


def _rebuild_tensor(storage: _Storage, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> _TensorView:
    """Stand in for `torch._utils._rebuild_tensor_v2`; gradients and hooks are dropped."""
    if len(size) > _MAX_DIMENSIONS or len(stride) > _MAX_DIMENSIONS:  # before it is copied
        raise pickle.UnpicklingError(f"it has a tensor of {len(size)} dimensions")
    return _TensorView(storage, offset, tuple(size), tuple(stride))


def _empty_dict() -> OrderedDict[Any, Any]:
    """Stand in for `OrderedDict`, which torch calls without arguments; given any, it would copy them."""
    return OrderedDict()


class _Unpickler(pickle.Unpickler):
    """An unpickler that resolves only the names below."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _empty_dict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGE_DTYPES:
            return name  # a string, which no later opcode of the pickle can call or alter
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not an allowed name")

    def persistent_load(self, reference: Any) -> _Storage:
        kind, dtype, key, _device, element_count, view = reference
        if kind != "storage" or view is not None:
            raise pickle.UnpicklingError("it refers to something that is not a plain storage")
        return _Storage(key, np.dtype(_STORAGE_DTYPES[dtype]), element_count)


# All opcodes that torch writes for a state dict. With others, a few bytes could allocate memory without bound.
_OPCODES = frozenset(
    {
        *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "NONE", "NEWTRUE", "NEWFALSE"),
        *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINSTRING"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"),
        *("EMPTY_DICT", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    }
)


def _unpickle(stream: io.BytesIO) -> Any:
    start = stream.tell()
    _check_opcodes(stream)
    stream.seek(start)
    return _Unpickler(stream, encoding="utf-8").load()


def _check_opcodes(stream: io.BytesIO) -> None:
    """Read one pickle without executing it. Raises ValueError for anything that torch does not write."""
    start, puts, builds = stream.tell(), 0, 0
    for opcode, argument, position in pickletools.genops(stream):
        if opcode.name not in _OPCODES:
            raise ValueError(f"its pickle has the opcode {opcode.name}, which torch does not write")
        if position is not None and position - start > _LONGEST_PICKLE:
            raise ValueError(f"its pickle is longer than {_LONGEST_PICKLE:,} bytes")
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            # The unpickler allocates a memo as long as the largest index.
            if argument is None or argument > puts:
                raise ValueError(f"its pickle gives object {puts + 1} the index {argument}")
            puts += 1
        builds += opcode.name == "BUILD"
    if builds > 1:  # torch writes one, for the state dict; each copies a dict of any size
        raise ValueError("its pickle sets the state of more than one object")
