"""Prediction rows: how they are built, stored part by part, committed, read back and proved complete.

Under `OUT/parts` stand Parquet parts, each whole, in the order of the inputs; they are what a killed job goes on from.
A commit turns them into a few files of the format asked for under `OUT/predictions`, with a manifest that has the
checksum of each, and `_SUCCESS` last. What has no `_SUCCESS` beside it is not finished.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
from pyarrow import fs

from catdog.errors import FailureError, one_line
from catdog.storage import files
from catdog.storage.schemas import UNSURE, check_schema, prediction_schema

FORMATS = {"parquet": "parquet", "csv": "csv", "json": "jsonl"}
MANIFEST_FILE = "_MANIFEST.json"
SUCCESS_FILE = "_SUCCESS"
_CELLS_A_FILE = 1_500_000  # about 250,000 rows of two classes: a spreadsheet opens it, a task holds it in memory
# A spreadsheet runs a cell that begins like this as a formula (OWASP, "CSV injection"); an apostrophe makes it text.
_FORMULA = r"^['=+\-@\t\r]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelRule:
    """How probabilities become a row: the class names, the threshold, and how many ranks are written."""

    classes: tuple[str, ...]
    threshold: float
    top_k: int
    models: int

    @property
    def schema(self) -> pa.Schema:
        """The columns of the rows."""
        return prediction_schema(self.classes, top_k=self.top_k, models=self.models)


def build_rows(
    paths: Sequence[str], errors: Sequence[str], probabilities: Sequence[np.ndarray], rule: LabelRule
) -> pa.Table:
    """Return prediction rows for `paths`.

    `errors` has "" for a photo that could be read; each of `probabilities`, one for each model, is float32
    (photos that could be read, classes), in their order. A photo with an error has null in every other column.
    """
    good = np.array([not error for error in errors], bool)
    columns: list[pa.Array] = [pa.array(paths, pa.string())]
    names = np.array(rule.classes, object)
    for found in probabilities:
        ranks = np.argsort(-found, axis=1, kind="stable")[:, : rule.top_k]
        tops = np.take_along_axis(found, ranks, axis=1)
        labels = names[ranks]
        if rule.threshold > 0 and len(found):
            labels[tops[:, 0] < rule.threshold, 0] = UNSURE
        columns += [_spread(labels[:, 0], good, pa.string()), _spread(tops[:, 0], good, pa.float32())]
        columns += [_spread(found[:, label], good, pa.float32()) for label in range(len(names))]
        for rank in range(1, rule.top_k):
            columns += [_spread(labels[:, rank], good, pa.string()), _spread(tops[:, rank], good, pa.float32())]
    columns.append(pa.array([error or None for error in errors], pa.string()))
    return pa.table(columns, schema=rule.schema)


def _spread(values: np.ndarray, good: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Return `values` at the places where `good` holds, null elsewhere."""
    places = np.cumsum(good) - 1
    return pa.array(values, kind).take(pa.array(places, pa.int64(), mask=~good))


# Parts


def parts_directory(out: str) -> str:
    """Return where the parts of an unfinished job stand."""
    return files.join(out, "parts")


def part_path(out: str, part: int) -> str:
    """Return the place of part number `part`."""
    return files.join(parts_directory(out), f"part-{part:07d}.parquet")


def write_part(out: str, part: int, rows: pa.Table, *, retried: int) -> None:
    """Write one part, whole or not at all; `retried` photos of it were read at a second try or later."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows.replace_schema_metadata({"retried": str(retried)}), sink)
    files.write_bytes(part_path(out, part), sink.getvalue())


def present_parts(out: str) -> set[int]:
    """Return the numbers of the parts that stand."""
    system, inside = files.open_filesystem(parts_directory(out))
    found = system.get_file_info(fs.FileSelector(inside, allow_not_found=True))
    names = (entry.base_name for entry in found)
    return {int(name[5:-8]) for name in names if name.startswith("part-") and name.endswith(".parquet")}


# Committing


def is_committed(out: str) -> bool:
    """Tell whether the predictions of `out` are finished."""
    return files.exists(files.join(out, "predictions", SUCCESS_FILE))


def plan_files(part_rows: Sequence[int], *, columns: int) -> list[range]:
    """Return for each file of the result the run of parts that it is made of."""
    limit, runs, start, rows = max(1, _CELLS_A_FILE // columns), [], 0, 0
    for part, count in enumerate(part_rows):
        if rows and rows + count > limit:
            runs.append(range(start, part))
            start, rows = part, 0
        rows += count
    return [*runs, range(start, len(part_rows))]


def write_file(out: str, staging: str, number: int, parts: range, *, format: str) -> dict[str, Any]:
    """Join `parts` into one file of the result below `staging`; return its entry in the manifest.

    Raises FailureError when a part cannot be read here.
    """
    tables, retried = [], 0
    for part in parts:
        try:
            table = pq.read_table(pa.BufferReader(files.read_bytes(part_path(out, part))))
        except (OSError, pa.ArrowException) as error:
            raise FailureError(
                f"{part_path(out, part)} cannot be read ({one_line(error)}): --out must be a folder that all "
                "machines share, or a URI; give one, or delete the part and run the command again"
            ) from error
        retried += int(table.schema.metadata[b"retried"])
        tables.append(table.replace_schema_metadata())
    rows = pa.concat_tables(tables)
    content = encode(rows, format=format)
    name = f"predictions-{number:05d}.{FORMATS[format]}"
    files.write_bytes(files.join(staging, name), content)
    codes = pc.list_element(pc.split_pattern(rows["error"].drop_null(), ":", max_splits=1), 0)
    return {
        "name": name,
        "rows": rows.num_rows,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "labels": dict(Counter(rows["label"].drop_null().to_pylist())),
        "errors": dict(Counter(codes.to_pylist())),
        "retried": retried,
    }


def staging_directory(out: str) -> str:
    """Return where a commit writes: beside the result, or, on an object store, which cannot rename, in its place."""
    return files.join(out, "predictions" if files.is_uri(out) else "predictions.part")


def finish_commit(out: str, manifest: Mapping[str, Any]) -> None:
    """Declare what stands in the staging directory to be the result, `_SUCCESS` last, and drop the parts."""
    staging = staging_directory(out)
    files.write_json(files.join(staging, MANIFEST_FILE), manifest)
    files.write_bytes(files.join(staging, SUCCESS_FILE), b"")
    if not files.is_uri(out):
        system, inside = files.open_filesystem(staging)
        system.move(inside, files.join(out, "predictions"))
    files.delete(parts_directory(out))


def read_manifest(out: str) -> dict[str, Any]:
    """Return the manifest of committed predictions."""
    return files.read_json(files.join(out, "predictions", MANIFEST_FILE))


def read_rows(out: str, *, rule: LabelRule) -> Iterator[pa.Table]:
    """Yield the committed rows of `out`, a table for each file, in the order of the inputs."""
    manifest = read_manifest(out)
    for entry in manifest["files"]:
        content = files.read_bytes(files.join(out, "predictions", entry["name"]))
        yield decode(content, format=manifest["format"], schema=rule.schema, where=entry["name"])


# Formats


def encode(rows: pa.Table, *, format: str) -> bytes:
    """Return `rows` as the content of a file: parquet, csv (RFC 4180, UTF-8) or json (an object a line).

    In CSV a text that a spreadsheet would take for a formula gets an apostrophe in front, and so does one that has
    an apostrophe in front already: taking one away gives back what was.
    """
    if format == "parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink, row_group_size=1 << 16)
        return bytes(sink.getvalue())
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

    Raises FailureError, naming `where`, when they are none.
    """
    source = pa.BufferReader(content)
    try:
        if format == "parquet":
            return check_schema(pq.read_table(source), schema, where=where)
        if format == "json":
            if not content:  # pyarrow calls a file of no lines damaged
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
    """Return `rows` with float32 columns as the float64 of the shortest text that names the same float32."""
    for index, field in enumerate(rows.schema):
        if pa.types.is_float32(field.type):
            texts = rows.column(index).cast(pa.string())
            rows = rows.set_column(index, field.name, texts.cast(pa.float64()))
    return rows


# Proof


def check_files(out: str) -> dict[str, Any]:
    """Check that the files of `out` are those of the manifest, byte for byte; return the manifest.

    Raises FailureError for the first that is missing, additional or changed, and where nothing was committed.
    """
    directory = files.join(out, "predictions")
    if not is_committed(out):
        raise FailureError(f"{directory} has no {SUCCESS_FILE}: the job is not finished; run its command again")
    manifest = read_manifest(out)
    system, inside = files.open_filesystem(directory)
    found = {entry.base_name for entry in system.get_file_info(fs.FileSelector(inside))}
    wanted = {entry["name"] for entry in manifest["files"]}
    for name in sorted((found ^ wanted) - {MANIFEST_FILE, SUCCESS_FILE}):
        state = "is missing" if name in wanted else "does not belong there"
        raise FailureError(f"{files.join(directory, name)} {state}: label the photos again with --overwrite")
    for entry in manifest["files"]:
        path = files.join(directory, entry["name"])
        if hashlib.sha256(files.read_bytes(path)).hexdigest() != entry["sha256"]:
            raise FailureError(f"{path} was changed after it was written: label the photos again with --overwrite")
    return manifest
