"""The bytes in single rows of Parquet files, of which the smallest readable unit is a row group.

For sequential reads, the last few row groups stay in memory. Training reads photos in random order, by their keys.
Then a row group that is large, or that a process returns to, is kept as an Arrow file in the cache of this machine,
which all its processes memory-map.
"""

from __future__ import annotations

import bisect
import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catdog.errors import ImageError, UsageError, one_line
from catdog.photos.sources.containers.tables import TableColumns, find_content_column, list_rows, open_table
from catdog.photos.sources.keys import escape_uri
from catdog.photos.sources.opening import look_at
from catdog.storage.files import cache_directory, is_uri, split_query, staged_file

_GIVEN = re.compile(r"(.+?)\[(\d+)\]!.*", re.DOTALL)
_HELD = 4  # row groups in memory: a process that labels photos reads at three places
_MAPPED = 64  # memory-mapped row groups
_INDEXED = 256  # tables whose row names are in memory, some 30 bytes per name
_LARGE_BYTES = 2**26  # a larger row group should not be in the memory of every process


class _Group(NamedTuple):
    """A row group and its column of photos; "" means the only column of bytes."""

    path: str
    number: int
    column: str

    def load(self) -> pa.ChunkedArray:
        with open_table(self.path) as file:
            name = find_content_column(file.schema_arrow, self.path, TableColumns(content=self.column))
            return file.read_row_group(self.number, columns=[name]).column(0)

    def is_large(self) -> bool:
        with open_table(self.path) as file:
            group = file.metadata.row_group(self.number)
            columns = map(group.column, range(group.num_columns))
            return bool(sum(column.total_uncompressed_size for column in columns) > _LARGE_BYTES)

    def map(self) -> pa.ChunkedArray:
        """Return its photos, memory-mapped from a file in the cache, which is written if it does not exist."""
        _, version = look_at(self.path)
        name = hashlib.sha256(f"{self.path}\n{version}\n{self.number}\n{self.column}".encode()).hexdigest()[:32]
        cached = cache_directory() / "tables" / f"{name}.arrow"
        if not cached.exists():
            _write_whole(pa.table([self.load()], names=["photo"]), cached)
        with pa.memory_map(str(cached)) as file:
            return pa.ipc.open_file(file).read_all().column(0)


def _write_whole(rows: pa.Table, target: Path) -> None:
    with staged_file(target) as beside, pa.ipc.new_file(str(beside), rows.schema) as writer:
        writer.write_table(rows)


class _Groups:
    """The row groups that a process holds in memory or has memory-mapped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[_Group, pa.ChunkedArray] = OrderedDict()
        self._mapped: OrderedDict[_Group, pa.ChunkedArray] = OrderedDict()
        self._left: set[_Group] = set()  # evicted

    def read(self, group: _Group, *, in_order: bool) -> pa.ChunkedArray:
        """Return the photos of `group`; `in_order` says whether rows are read sequentially or at random."""
        with self._lock:
            for known in (self._held, self._mapped):
                if group in known:
                    known.move_to_end(group)
                    return known[group]
            back = group in self._left
        if not in_order and (back or group.is_large()):
            try:
                return self._keep(group, group.map(), self._mapped, _MAPPED)
            except OSError:
                pass  # the cache cannot be written here, so reading takes longer
        return self._keep(group, group.load(), self._held, _HELD)

    def _keep(
        self, group: _Group, photos: pa.ChunkedArray, known: OrderedDict[_Group, pa.ChunkedArray], most: int
    ) -> pa.ChunkedArray:
        with self._lock:
            known[group] = photos
            while len(known) > most:
                self._left.add(known.popitem(last=False)[0])
        return photos

    def forget(self) -> None:
        """Drop all row groups, so that they are read again."""
        with self._lock:
            self._held.clear()
            self._mapped.clear()
            self._left.clear()


_groups = _Groups()


def read_row(path: str, name: str, *, read_other: Callable[[str], bytes]) -> bytes:
    """Return the bytes of the photo whose key ends with `name`; raises what `read_cell` raises."""
    given = _GIVEN.fullmatch(name)
    if given:
        return _read(path, *_place_of_row(path, int(given[2])), given[1], in_order=False, read_other=read_other)
    try:
        row = _names_of(path).find(name)
    except UsageError as error:
        raise ImageError("io", str(error)) from error
    if row is None:
        raise ImageError("missing", "no such row in the table")
    return _read(path, *_place_of_row(path, row), "", in_order=False, read_other=read_other)


def read_cell(path: str, group: int, row: int, *, column: str, read_other: Callable[[str], bytes]) -> bytes:
    """Return the bytes in one row, for sequential reads.

    `read_other` reads the file that a struct names instead of holding its bytes. If `column` is empty, it is found by
    its type. Raises ImageError of code missing or io, and OSError as the file system does.
    """
    return _read(path, group, row, column, in_order=True, read_other=read_other)


def _read(path: str, group: int, row: int, column: str, *, in_order: bool, read_other: Callable[[str], bytes]) -> bytes:
    try:
        value = _groups.read(_Group(path, group, column), in_order=in_order)[row].as_py()
    except (pa.ArrowException, IndexError) as error:  # the file has changed
        if isinstance(error, OSError):
            raise
        raise ImageError("io", one_line(error)) from error
    if isinstance(value, dict):
        content, other = value.get("bytes"), value.get("path")
        if content is None and other:
            return read_other(_beside(path, other))
        value = content
    if value is None:
        raise ImageError("missing", "the row has no bytes")
    return bytes(value)


def _beside(path: str, other: str) -> str:
    if is_uri(other) or other.startswith("/"):
        return other
    base, query = split_query(path)
    return f"{base.rpartition('/')[0]}/{escape_uri(other) if is_uri(path) else other}{query}"


class _Names:
    """A compact index from the row names of a table, all different, to row numbers."""

    def __init__(self, names: list[str]) -> None:
        unsorted = pa.array(names, pa.large_string())
        order = pc.array_sort_indices(unsorted)
        self._names, self._rows = unsorted.take(order), order.to_numpy().astype(np.int32)

    def find(self, name: str) -> int | None:
        """Return the row of `name`, or None if there is none."""
        place = bisect.bisect_left(self._names, name, key=lambda value: value.as_py())
        found = place < len(self._names) and self._names[place].as_py() == name
        return int(self._rows[place]) if found else None


@lru_cache(maxsize=_INDEXED)
def _names_of(path: str) -> _Names:
    return _Names(list_rows(path, TableColumns()).names)


@lru_cache(maxsize=_INDEXED)
def row_ends(path: str) -> np.ndarray:
    """Return where each row group of the Parquet file at `path` ends, as row numbers of the whole table."""
    with open_table(path) as file:
        counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    return np.cumsum(counts)


def _place_of_row(path: str, row: int) -> tuple[int, int]:
    ends = row_ends(path)
    group = int(np.searchsorted(ends, row, side="right"))
    return group, row - (int(ends[group - 1]) if group else 0)


def forget_tables() -> None:
    """Drop everything cached from tables, because a file may have changed."""
    _groups.forget()
    _names_of.cache_clear()
    row_ends.cache_clear()
