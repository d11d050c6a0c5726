"""Tables as Parquet files, which are read and written as a whole."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from catdog.storage import files


def parquet_bytes(rows: pa.Table, *, compression: str = "snappy", row_group_size: int | None = None) -> pa.Buffer:
    """Return `rows` as the content of a Parquet file; `row_group_size` is in rows, by default pyarrow's own."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression=compression, row_group_size=row_group_size)
    return sink.getvalue()


def write_parquet(path: str, rows: pa.Table, *, compression: str = "snappy", row_group_size: int | None = None) -> None:
    """Write `rows` atomically as a Parquet file to `path`, a local path or URI.

    Raises FailureError when the place cannot be written.
    """
    files.write_bytes(path, parquet_bytes(rows, compression=compression, row_group_size=row_group_size))


def read_parquet(path: str, *, columns: Sequence[str] | None = None, schema: pa.Schema | None = None) -> pa.Table:
    """Return the rows of the Parquet file at `path`, a local path or URI: only `columns`, with the types of `schema`.

    Raises OSError as the file system does, and pa.ArrowException for a file that is not Parquet.
    """
    return pq.read_table(pa.BufferReader(files.read_bytes(path)), columns=columns, schema=schema)
