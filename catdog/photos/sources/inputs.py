"""What a predict job labels: a folder, a photo, a zip, a glob, a .txt of paths, or a .parquet of bytes.

Every input has a key, its `path`, as in photos.py; a photo inside a Parquet file is `FILE.parquet!NAME`.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catdog.errors import CatdogError, ImageError, UsageError, one_line
from catdog.photos.sources.files import (
    RETRY_PAUSES_SECONDS,
    Photo,
    list_photos,
    permanent_error,
    read_photo,
    source_exists,
)
from catdog.storage import files

INPUTS = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # unique
        pa.field("relative", pa.string(), nullable=False),  # its place below the source, parts joined by "/"
        pa.field("table", pa.string()),  # the Parquet file that holds the bytes, null for a file by itself
        pa.field("row_group", pa.int32()),  # of that Parquet file
        pa.field("row", pa.int32()),  # of that row group
    ]
)
# A column of names in a Parquet file, in the order of preference.
_NAME_COLUMNS = ("path", "file_name", "filename", "file", "name", "id")
_ROW = re.compile(r"\.parquet!", re.IGNORECASE)

Retry = Callable[[], None]


def list_inputs(source: str, *, exclude: Sequence[str] = ()) -> pa.Table:
    """Return the photos of `source` as a table of the schema INPUTS, in the order in which they are labelled.

    - a folder, a zip or a photo, as photos.list_photos lists them, by path;
    - a glob, where nothing stands at the literal path: `*` and `?` within a name, `**` any folders (`?` not in URIs);
    - a .txt file with a path or URI a line, relative ones from the file's own folder; `#` begins a comment;
    - a .parquet file, or a glob of them, with a column of bytes (or the Hugging Face struct of bytes and path).

    What lies below one of `exclude` (absolute paths or URIs) is left out. Raises UsageError when nothing is found.
    """
    absolute = files.absolute(source)
    if absolute.lower().endswith(".txt") and source_exists(absolute):
        photos = _read_list(absolute)
    elif absolute.lower().endswith(".parquet") and source_exists(absolute):
        return _list_tables([absolute])
    elif _is_glob(absolute) and not source_exists(absolute):
        photos = _match(absolute)
        if all(photo.path.lower().endswith(".parquet") for photo in photos):
            return _list_tables([photo.path for photo in photos])
    else:
        photos = list_photos(source)
    below = tuple(f"{folder.rstrip('/')}/" for folder in exclude)
    photos = [photo for photo in photos if not photo.path.startswith(below)] if below else photos
    if not photos:
        raise UsageError(f"expected photos in {source}, found only what earlier jobs wrote there: check the path")
    nothing = pa.nulls(len(photos), pa.string())
    numbers = pa.nulls(len(photos), pa.int32())
    columns = [pa.array([photo[column] for photo in photos], pa.string()) for column in (0, 1)]
    return pa.table([*columns, nothing, numbers, numbers], schema=INPUTS)


def find_inputs(paths: Sequence[str]) -> pa.Table:
    """Return rows of the schema INPUTS for `paths`, keys as `list_inputs` gives them, in their order.

    A key inside a Parquet file is left out when the file cannot be read or has no such row any more.
    """
    tables = {path: _split_table(path) for path in paths}
    listed: dict[str, dict[str, Any]] = {}
    for table in sorted({table for table in tables.values() if table}):
        with contextlib.suppress(CatdogError):
            rows = _list_table(table)
            listed |= {row["path"]: row for row in rows.filter(pc.is_in(rows["path"], pa.array(paths))).to_pylist()}
    alone = dict.fromkeys(("table", "row_group", "row"))
    found = [listed.get(path) if tables[path] else {"path": path, "relative": path, **alone} for path in paths]
    return pa.Table.from_pylist([row for row in found if row], schema=INPUTS)


def _split_table(path: str) -> str | None:
    """Return the Parquet file in the key of one of its rows; None for a photo by itself."""
    candidates = (path[: mark.end() - 1] for mark in _ROW.finditer(path))
    return next((table for table in candidates if source_exists(table)), None)


def part_bounds(inputs: pa.Table, *, photos_a_part: int) -> list[tuple[int, int]]:
    """Return [start, stop) ranges of at most `photos_a_part` inputs, none of them across two Parquet row groups."""
    count = inputs.num_rows
    groups = inputs["row_group"].fill_null(-1).to_numpy()
    tables = inputs["table"].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.r_[True, (groups[1:] != groups[:-1]) | (tables[1:] != tables[:-1])])
    stops = np.r_[starts[1:], count]
    return [
        (first, min(first + photos_a_part, int(stop)))
        for start, stop in zip(starts, stops, strict=True)
        for first in range(int(start), int(stop), photos_a_part)
    ]


def read_inputs(block: pa.Table, *, on_retry: Retry | None = None) -> Iterator[tuple[str, bytes | ImageError]]:
    """Yield (path, content, or the error in its place) for each row of `block`, in order, one at a time.

    `on_retry` is called before each retry of a passing fault.
    """
    for row in block.select(INPUTS.names).to_pylist():
        try:
            if row["table"] is None:
                yield row["path"], read_photo(row["path"], on_retry=on_retry)
            else:
                yield row["path"], _read_cell(row["table"], row["row_group"], row["row"], on_retry)
        except ImageError as error:
            yield row["path"], error


# Globs


def _is_glob(path: str) -> bool:
    return any(mark in path for mark in ("*[" if files.is_uri(path) else "*?["))


def _match(pattern: str) -> list[Photo]:
    """Return the files that match `pattern`, by path; `relative` counts from the last folder without a wildcard."""
    parts = pattern.split("/")
    first = next(index for index, part in enumerate(parts) if _is_glob(part))
    folder, matches = "/".join(parts[:first]) or "/", _glob_regex(parts[first:])
    found = [photo for photo in list_photos(folder) if matches.fullmatch(photo.relative)]
    if not found:
        raise UsageError(
            f"expected photos at {pattern}, found no file of such a name: check the pattern and its quotes"
        )
    return found


def _glob_regex(parts: Sequence[str]) -> re.Pattern[str]:
    """Translate the parts of a glob; fnmatch's own translation lets `*` cross folders."""
    text = ""
    for index, part in enumerate(parts):
        last = index + 1 == len(parts)
        if part == "**":
            text += ".*" if last else "(?:.*/)?"
            continue
        for piece in re.findall(r"\[!?[^]]+\]|.", part, re.DOTALL):
            if len(piece) > 1:
                inside = piece[1:-1].replace("\\", "\\\\").replace("[", "\\[").replace("^", "\\^")
                text += f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"
            else:
                text += {"*": "[^/]*", "?": "[^/]"}.get(piece, re.escape(piece))
        text += "" if last else "/"
    return re.compile(text, re.DOTALL)


# Lists


def _read_list(path: str) -> list[Photo]:
    """Return the photos that the lines of the file at `path` name, each once, by path."""
    try:
        lines = files.read_bytes(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"expected a list of paths in UTF-8 at {path}, found other bytes: {error.reason}") from error
    folder = path.rpartition("/")[0]
    names = [line.strip() for line in lines]
    names = [name for name in names if name and not name.startswith("#")]
    # Not Path.resolve: a link is another file than its target.
    keys = {name if files.is_uri(name) else os.path.normpath(os.path.join(folder, name)) for name in names}  # noqa: PTH118
    if not keys:
        raise UsageError(f"expected a path a line in {path}, found none")
    common = os.path.commonprefix(sorted(keys)).rpartition("/")[0]  # noqa: RUF071 - URIs are among them
    return [Photo(key, key[len(common) + 1 :] if common else key) for key in sorted(keys)]


# Parquet


def _list_tables(paths: Sequence[str]) -> pa.Table:
    return pa.concat_tables([_list_table(path) for path in paths])


def _list_table(path: str) -> pa.Table:
    """Return the rows of the Parquet file at `path`, in their order."""
    try:
        with _open_table(path) as file:
            _bytes_column(file.schema_arrow, path)
            counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            names = _read_names(file)
    except (OSError, pa.ArrowException) as error:
        raise UsageError(
            f"expected a Parquet file at {path}, found one that cannot be read: {one_line(error)}"
        ) from error
    total = sum(counts)
    if not total:
        raise UsageError(f"expected photos in {path}, found a table of no rows")
    names = names or [str(row) for row in range(total)]
    return pa.table(
        [
            pa.array([f"{path}!{name}" for name in names], pa.string()),
            pa.array(names, pa.string()),
            pa.array([path] * total, pa.string()),
            pa.array(np.repeat(np.arange(len(counts), dtype=np.int32), counts)),
            pa.array(np.concatenate([np.arange(count, dtype=np.int32) for count in counts])),
        ],
        schema=INPUTS,
    )


def _read_names(file: pq.ParquetFile) -> list[str] | None:
    """Return the name of each row, or None where no column has one for each, all different."""
    schema = file.schema_arrow
    column = next((name for name in _NAME_COLUMNS if name in schema.names and _is_text(schema.field(name).type)), None)
    if column is None:
        structs = [field for field in schema if pa.types.is_struct(field.type)]
        column = next((f"{field.name}.path" for field in structs if field.type.get_field_index("path") >= 0), None)
    if column is None:
        return None
    values: Any = file.read(columns=[column]).column(0)
    if pa.types.is_struct(values.type):
        values = pa.chunked_array([chunk.field("path") for chunk in values.chunks])
    names = values.to_pylist()
    return names if None not in names and len(set(names)) == len(names) else None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _bytes_column(schema: pa.Schema, path: str) -> str:
    """Return the name of the column that holds the photos' bytes, `column.bytes` inside a struct."""
    for field in schema:
        if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            return str(field.name)
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return f"{field.name}.bytes"
    raise UsageError(f"expected a column of bytes in {path}, found {', '.join(schema.names)}")


def _open_table(path: str) -> pq.ParquetFile:
    system, inside = files.open_filesystem(path)
    return pq.ParquetFile(system.open_input_file(inside))


def _read_cell(path: str, row_group: int, row: int, on_retry: Retry | None) -> bytes:
    pauses_seconds = iter(RETRY_PAUSES_SECONDS)
    while True:
        try:
            content = _read_group(path, row_group)[row].as_py()
        except pa.ArrowInvalid as error:  # no Parquet any more
            raise ImageError("io", one_line(error)) from error
        except OSError as error:
            failure, pause_seconds = permanent_error(error), next(pauses_seconds, None)
            if failure or pause_seconds is None:
                raise failure or ImageError("io", one_line(error)) from error
            if on_retry:
                on_retry()
            time.sleep(pause_seconds)
            continue
        if content is None:
            raise ImageError("missing", "the row has no bytes")
        return bytes(content)


@lru_cache(maxsize=1)
def _read_group(path: str, row_group: int) -> pa.ChunkedArray:
    """Return the bytes of one row group: the rows of a part are one after the other in it."""
    with _open_table(path) as file:
        name = _bytes_column(file.schema_arrow, path)
        values = file.read_row_group(row_group, columns=[name]).column(0)
    if pa.types.is_struct(values.type):
        return pa.chunked_array([chunk.field("bytes") for chunk in values.chunks])
    return values
