"""The photos of a split sorted by digest: in memory, or in shards of a manifest that are read where they are used.

This order is random but the same everywhere, because digests are as good as random numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catdog.errors import FailureError, one_line
from catdog.storage.tables import read_parquet

_ROWS = pa.schema([("path", pa.string()), ("label", pa.int32()), ("digest", pa.string())])
_COLUMNS = _ROWS.names
_HELD = 2  # shards that a process keeps in memory: a part may span two neighbours


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowShard:
    """Some photos of one split: `rows` of them, in `table`, or in the manifest file `path` next to other splits."""

    rows: int
    table: pa.Table | None = None
    path: str = ""
    split: str = ""

    def read(self) -> pa.Table:
        """Return path, label and digest, sorted by digest. Raises FailureError if the file cannot be read here."""
        return self.table if self.table is not None else _read_split(self.path, self.split)


@functools.lru_cache(maxsize=_HELD)
def _read_split(path: str, split: str) -> pa.Table:
    try:
        table = read_parquet(path, columns=[*_COLUMNS, "split"])
    except (OSError, pa.ArrowException) as error:
        raise FailureError(
            f"{path} cannot be read ({one_line(error)}): --run-dir must be a folder that all machines share, or a URI"
        ) from error
    return table.filter(pc.equal(table["split"], split)).select(_COLUMNS)


class PhotoRows:
    """Photos with path, label and digest, sorted by digest. A process holds only the shards that it reads."""

    def __init__(self, shards: tuple[RowShard, ...]) -> None:
        self.shards = shards
        self._ends = np.cumsum([shard.rows for shard in shards], dtype=np.int64)
        self.count = int(self._ends[-1]) if shards else 0
        self._hashed: Any = None

    @classmethod
    def of(cls, table: pa.Table) -> PhotoRows:
        """Return the photos of `table`, which has the columns path, label and digest, in its order."""
        return cls((RowShard(rows=table.num_rows, table=table.select(_COLUMNS)),))

    def __reduce__(self) -> tuple[Any, ...]:
        return PhotoRows, (self.shards,)

    def read(self, start: int, stop: int) -> pa.Table:
        """Return the rows [start, stop)."""
        if start >= stop:
            return _ROWS.empty_table()
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right").tolist()
        pieces = []
        for place in range(first, last + 1):
            before = int(self._ends[place]) - self.shards[place].rows
            pieces.append(self.shards[place].read().slice(max(0, start - before), stop - max(start, before)))
        return pieces[0] if len(pieces) == 1 else pa.concat_tables(pieces)

    def hashed(self) -> Any:
        """Return a SHA-256 of the digests and labels, which the caller may update. They are read only once for it."""
        if self._hashed is None:
            self._hashed = hashlib.sha256(b'{"rows":"')
            for number, shard in enumerate(shard for shard in self.shards if shard.rows):
                self._hashed.update(_lines(shard.read())[0 if number else 2 :])
        return self._hashed.copy()


def _lines(table: pa.Table) -> memoryview:
    """Return the digest and label of each row as they appear in a JSON string, each row after an escaped newline."""
    labels = pc.cast(table["label"], pa.string())
    joined = pc.binary_join_element_wise(r"\n", table["digest"], " ", labels, "")
    # Without a separator, the values are contiguous in memory, as they are hashed.
    column = joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined
    return memoryview(pa.concat_arrays([column.cast(pa.large_string())]).buffers()[2])
