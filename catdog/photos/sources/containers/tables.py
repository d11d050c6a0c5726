"""Photos in Parquet files and their labels: a column of bytes, or Hugging Face's struct of bytes and path.

A photo's key is `FILE.parquet!NAME`, or `FILE.parquet!ROW` if no column has names. If the user says which columns hold
bytes or names, it is `FILE.parquet!COLUMN[ROW]!NAME`, so that the key alone is enough to read the photo.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catdog.errors import ImageError, UsageError
from catdog.photos.sources.keys import escape_uri
from catdog.photos.sources.opening import describe_stranger, open_file
from catdog.storage.files import is_uri, split_query

SUFFIX = ".parquet"
# Columns that name a photo, in order of preference.
_NAME_COLUMNS = ("path", "file_name", "filename", "file", "image_path", "name", "id", "__key__")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableColumns:
    """Which columns hold the bytes and the names; empty ones are found by type and name."""

    content: str = ""
    name: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableRows:
    """Photos of a Parquet file in row order: the name, the row group and the row within the group of each."""

    names: list[str]
    column: str  # the column of bytes
    groups: np.ndarray
    rows: np.ndarray
    first: int = 0  # row number, in the whole file, of the first photo

    def pieces(self, most: int) -> Iterator[TableRows]:
        """Yield the photos in pieces of at most `most`."""
        for start in range(0, len(self.names), most):
            place = slice(start, start + most)
            names, groups, rows = self.names[place], self.groups[place], self.rows[place]
            yield TableRows(names=names, column=self.column, groups=groups, rows=rows, first=self.first + start)


def is_table(path: str) -> bool:
    """Return whether `path` is the path or URI of a Parquet file, judged by its name."""
    return split_query(path)[0].lower().endswith(SUFFIX)


def count_rows(path: str) -> int:
    """Return the number of rows of the Parquet file at `path`, from its footer; 0 if it cannot be read."""
    try:
        with open_table(path) as file:
            return int(file.metadata.num_rows)
    except (OSError, ImageError, pa.ArrowException):
        return 0


def list_rows(path: str, columns: TableColumns) -> TableRows:
    """Return the rows of the Parquet file at `path`, in their order.

    Raises UsageError for a file that cannot be read, has no rows, or has no column of bytes or several to choose from.
    """
    try:
        with open_table(path) as file:
            column = find_content_column(file.schema_arrow, path, columns)
            counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            names = _read_names(file, path, columns)
    except (OSError, ImageError, pa.ArrowException) as error:
        raise UsageError(f"expected a Parquet file at {path}, found {describe_stranger(path, error)}") from error
    total = sum(counts)
    if not total:
        raise UsageError(f"expected photos in {path}, found a table without rows")
    return TableRows(
        names=names or [str(row) for row in range(total)],
        column=column,
        groups=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        rows=np.concatenate([np.arange(count, dtype=np.int32) for count in counts]),
    )


def _read_names(file: pq.ParquetFile, path: str, columns: TableColumns) -> list[str] | None:
    """Return a name for each row, all different, or None if no column has names."""
    schema = file.schema_arrow
    if columns.name and columns.name not in schema.names:
        raise UsageError(f"--name-column {columns.name}: found no such column in {path}, but {_shown(schema)}")
    named = [columns.name] if columns.name else [name for name in _NAME_COLUMNS if name in schema.names]
    column = next((name for name in named if columns.name or _is_text(schema.field(name).type)), None)
    if column is None:
        structs = [field for field in schema if _is_image(field.type) and field.type.get_field_index("path") >= 0]
        column = next((f"{field.name}.path" for field in structs), None)
    if column is None:
        return None
    values: Any = file.read(columns=[column]).column(0)
    if pa.types.is_struct(values.type):
        values = pa.chunked_array([chunk.field("path") for chunk in values.chunks])
    found = values.to_pylist()
    if not any(value is not None for value in found):
        return None
    counts = Counter(str(value) for value in found)
    # A missing or repeated name gets the row number, which makes it unique.
    return [
        f"{'' if value is None else value}#{row}" if value is None or counts[str(value)] > 1 else str(value)
        for row, value in enumerate(found)
    ]


def find_content_column(schema: pa.Schema, path: str, columns: TableColumns) -> str:
    """Return the name of the column that holds the photos' bytes, either binary or a struct with a field `bytes`."""
    found = [field.name for field in schema if _is_bytes(field.type) or _is_image(field.type)]
    if columns.content:
        if columns.content not in found:
            raise UsageError(
                f"--bytes-column {columns.content}: expected a column of bytes, found {_shown(schema)} in {path}"
            )
        return columns.content
    if not found:
        raise UsageError(f"expected a column of bytes in {path}, found {_shown(schema)}")
    if len(found) > 1:
        raise UsageError(
            f"{path} has several columns of bytes ({', '.join(found)}): choose one by --bytes-column {found[0]}"
        )
    return str(found[0])


def _shown(schema: pa.Schema) -> str:
    shown = [f"{field.name} {field.type}" for field in schema]
    return ", ".join(shown[:10]) + (", …" if len(shown) > 10 else "")


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    kind = _plain(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    kind = _plain(kind)
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def _is_image(kind: pa.DataType) -> bool:
    """Return whether `kind` is Hugging Face's Image feature, a struct of bytes and path."""
    return bool(pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def open_table(path: str) -> pq.ParquetFile:
    """Open the Parquet file at `path` and read its footer; raises what the file system and pyarrow raise."""
    return pq.ParquetFile(open_file(path))


def keys_of_rows(path: str, listed: TableRows, columns: TableColumns) -> list[str]:
    """Return the key of each photo of a table that was listed with `columns`."""
    base, query = split_query(path)
    names = [escape_uri(name) for name in listed.names] if is_uri(path) else listed.names
    if columns == TableColumns():
        return [f"{base}!{name}{query}" for name in names]
    return [f"{base}!{listed.column}[{row}]!{name}{query}" for row, name in enumerate(names, listed.first)]


def read_labels(path: str, column: str) -> list[str] | None:
    """Return the label of each row as text, or None if `column` is "" and no column has a common name for labels.

    Numbers of Hugging Face's ClassLabel are replaced by their names. -1 and other numbers out of range mean no label.
    Raises UsageError for a column that does not exist, and for one that holds neither text nor numbers.
    """
    with open_table(path) as file:
        schema = file.schema_arrow
        named = column or next((name for name in ("label", "labels", "class", "category") if name in schema.names), "")
        if not named:
            return None
        if named not in schema.names:
            raise UsageError(f"--label-column {column}: found no such column in {path}, but {_shown(schema)}")
        kind = _plain(schema.field(named).type)
        if not (_is_text(kind) or pa.types.is_primitive(kind)):
            raise UsageError(f"expected texts or numbers in the column {named} of {path}, found {kind}")
        values = file.read(columns=[named]).column(0).to_pylist()
    names = _class_names(schema, named)
    return [_label_text(value, names) for value in values]


def _class_names(schema: pa.Schema, column: str) -> list[str]:
    """Return the names of the numbers in `column` from the table's Hugging Face metadata; none without it."""
    try:
        names = json.loads(schema.metadata[b"huggingface"])["info"]["features"][column]["names"]
    except (TypeError, KeyError, ValueError, RecursionError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _label_text(value: Any, names: Sequence[str]) -> str:
    if isinstance(value, float) and value.is_integer():  # pandas turns integers into floats if one is missing
        value = int(value)
    if not names or isinstance(value, str):
        return "" if value is None else str(value)
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else ""
