"""Prediction rows: built from probabilities, and encoded as the content of a file in one of three formats."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from catdog.errors import FailureError, one_line
from catdog.storage.schemas import UNSURE, check_schema, prediction_schema
from catdog.storage.tables import parquet_bytes

FORMATS = {"parquet": "parquet", "csv": "csv", "json": "jsonl"}
# A spreadsheet runs a cell that begins like this as a formula (OWASP, "CSV injection"); an apostrophe makes it text.
_FORMULA = r"^['=+\-@\t\r]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelRule:
    """How probabilities become a row: the class names, the threshold, and how many ranks are written.

    With `names_top`, the most probable class has its own columns, because `label` may be UNSURE instead.
    `rest` is the class that is never a label, or "" if there is none.
    """

    classes: tuple[str, ...]
    threshold: float
    top_k: int
    models: int
    names_top: bool = False
    rest: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes that a photo may be labelled with, in their order."""
        return tuple(name for name in self.classes if name != self.rest)

    @property
    def label_columns(self) -> list[int]:
        """The columns of the probabilities that belong to `labels`."""
        return [index for index, name in enumerate(self.classes) if name != self.rest]

    @property
    def schema(self) -> pa.Schema:
        """The columns of the rows."""
        return prediction_schema(
            self.classes, top_k=self.top_k, models=self.models, first_rank=1 if self.names_top else 2
        )


def build_rows(
    paths: Sequence[str], errors: Sequence[str], probabilities: Sequence[np.ndarray], rule: LabelRule
) -> pa.Table:
    """Return prediction rows for `paths`.

    `errors` has "" for each photo that could be read. `probabilities` has one float32 array for each model, of shape
    (photos that could be read, classes), in the same order. A photo with an error has null in every column except
    path and error.
    """
    good = np.array([not error for error in errors], bool)
    columns: list[pa.Array] = [pa.array(paths, pa.string())]
    names = np.array(rule.labels, object)
    for found in probabilities:
        choices = found[:, rule.label_columns]
        ranks = np.argsort(-choices, axis=1, kind="stable")[:, : rule.top_k]
        tops = np.take_along_axis(choices, ranks, axis=1)
        ranked = names[ranks]
        labels = ranked[:, 0].copy()
        if rule.threshold > 0 and len(found):
            labels[tops[:, 0] < rule.threshold] = UNSURE
        columns += [_spread(labels, good, pa.string()), _spread(tops[:, 0], good, pa.float32())]
        columns += [_spread(found[:, label], good, pa.float32()) for label in range(len(rule.classes))]
        for rank in range(0 if rule.names_top else 1, rule.top_k):
            columns += [_spread(ranked[:, rank], good, pa.string()), _spread(tops[:, rank], good, pa.float32())]
    columns.append(pa.array([error or None for error in errors], pa.string()))
    return pa.table(columns, schema=rule.schema)


def _spread(values: np.ndarray, good: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Return `values` spread over the places where `good` is true, with null elsewhere."""
    places = np.cumsum(good) - 1
    return pa.array(values, kind).take(pa.array(places, pa.int64(), mask=~good))


# Formats


def encode(rows: pa.Table, *, format: str) -> bytes:
    """Return `rows` as the content of a file: parquet, csv (RFC 4180, UTF-8) or json (one object per line).

    In CSV, a text that a spreadsheet would take for a formula gets an apostrophe in front. So does a text that already
    starts with an apostrophe, so that removing one always restores the original.
    """
    if format == "parquet":
        return bytes(parquet_bytes(rows, row_group_size=1 << 16))
    if format == "json":
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in _short_floats(rows).to_pylist())
        return "".join(line + "\n" for line in lines).encode()
    sink = io.BytesIO()
    guarded = _map_texts(
        rows, lambda texts: pc.replace_substring_regex(texts, pattern=f"({_FORMULA})", replacement=r"'\1")
    )
    guarded = guarded.rename_columns([_guard(name) for name in guarded.column_names])
    pa.csv.write_csv(guarded, sink)
    return sink.getvalue()


def decode(content: bytes, *, format: str, schema: pa.Schema, where: str) -> pa.Table:
    """Return the rows that `encode` wrote.

    Raises FailureError, naming `where`, if `content` cannot be read as such rows.
    """
    source = pa.BufferReader(content)
    try:
        if format == "parquet":
            return check_schema(pq.read_table(source), schema, where=where)
        if format == "json":
            if not content:  # pyarrow reports a file without lines as damaged
                return schema.empty_table()
            options = pa.json.ParseOptions(explicit_schema=schema, newlines_in_values=False)
            return pa.json.read_json(source, parse_options=options).select(schema.names).cast(schema)
        kinds = {_guard(field.name): field.type for field in schema}
        rows = pa.csv.read_csv(
            source,
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                column_types=kinds, strings_can_be_null=True, quoted_strings_can_be_null=False
            ),
        )
    except (pa.ArrowException, KeyError) as error:
        raise FailureError(f"{where} cannot be read: {one_line(error)}") from error
    rows = rows.select([_guard(name) for name in schema.names]).rename_columns(schema.names)
    return _map_texts(rows, lambda texts: pc.replace_substring_regex(texts, pattern="^'", replacement="")).cast(schema)


def _guard(text: str) -> str:
    return f"'{text}" if text and text[0] in "'=+-@\t\r" else text


def _map_texts(rows: pa.Table, change: Any) -> pa.Table:
    for index, field in enumerate(rows.schema):
        if pa.types.is_string(field.type):
            rows = rows.set_column(index, field.name, change(rows.column(index)))
    return rows


def _short_floats(rows: pa.Table) -> pa.Table:
    """Return `rows` with float32 columns as float64, each value read from the shortest text of that float32."""
    for index, field in enumerate(rows.schema):
        if pa.types.is_float32(field.type):
            texts = rows.column(index).cast(pa.string())
            rows = rows.set_column(index, field.name, texts.cast(pa.float64()))
    return rows
