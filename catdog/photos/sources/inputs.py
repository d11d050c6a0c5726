"""What a job accepts as photos: a folder, a photo, an archive, a glob, a list of paths, or Parquet files.

Every input has a key, its `path`, as keys.py defines it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import fs

from catdog.errors import ImageError, UsageError
from catdog.photos.sources.containers import tables
from catdog.photos.sources.containers.archives import archive_kind
from catdog.photos.sources.containers.cells import read_cell
from catdog.photos.sources.containers.packed import MorePackedError, Packed, are_more_rows, list_archives
from catdog.photos.sources.containers.tables import TableColumns
from catdog.photos.sources.files import list_files, list_photos, read_photo, retry_read
from catdog.photos.sources.keys import Photo, as_key, below, last_name
from catdog.photos.sources.listing.lists import SUFFIXES as LIST_SUFFIXES
from catdog.photos.sources.listing.lists import read_list
from catdog.photos.sources.listing.shards import SHARD_ROWS
from catdog.photos.sources.opening import look_at_source
from catdog.storage import files

INPUTS = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # unique
        pa.field("relative", pa.string(), nullable=False),  # path below the source, parts joined by "/"
        pa.field("table", pa.string()),  # the Parquet file that holds the bytes; null for other photos
        pa.field("column", pa.string()),  # of bytes in that Parquet file; null for the only one
        pa.field("row_group", pa.int32()),  # of that Parquet file
        pa.field("row", pa.int32()),  # of that row group
        pa.field("version", pa.string()),  # changes with the content; null if that cannot be detected
    ]
)

Retry = Callable[[], None]


def list_inputs(
    source: str,
    *,
    exclude: Sequence[str] = (),
    columns: TableColumns | None = None,
    at_most: int | None = None,
) -> pa.Table:
    """Return the photos of `source` as a table of the schema INPUTS, in the order in which they are labelled.

    - a folder, an archive or a photo, as files.list_photos lists them, by path;
    - a glob, if nothing exists at the literal path: `*` and `?` match within a name, `**` matches any folders (`?` has
      no special meaning in URIs);
    - a .txt file with one path or URI per line, or a .csv or .tsv file with a column `path`;
    - a .parquet file, or a glob or folder of only such files, with a column of bytes (or the Hugging Face struct of
      bytes and path). `columns` chooses the column if there are several.

    Everything below one of `exclude` (absolute paths or URIs) is left out. Raises UsageError when nothing is found.
    If there are more photos than `at_most`, raises MoreFilesError for a folder, MorePackedError for Parquet files or
    archives, and MoreLinesError for a list.
    """
    columns = columns or TableColumns()
    path = as_key(files.absolute(source))
    (kind, version), name = look_at_source(path), files.split_query(path)[0].lower()
    if kind == fs.FileType.File and name.endswith(LIST_SUFFIXES):
        photos = read_list(path, at_most=at_most)
    elif kind == fs.FileType.File and tables.is_table(name):
        photos = [Photo(path, last_name(files.split_query(path)[0]), version)]
    elif kind == fs.FileType.NotFound and is_glob(path):
        photos = _expand_archives(source, _match(path), at_most=at_most)
    else:
        photos = list_photos(source, at_most=at_most)
    left_out = below(exclude)
    photos = [photo for photo in photos if not photo.path.startswith(left_out)] if left_out else photos
    if not photos:
        raise nothing_left(source)
    if all(tables.is_table(photo.relative) for photo in photos):
        if at_most is not None and are_more_rows([one.path for one in photos], at_most=at_most):
            raise MorePackedError(Packed(source=source, files=tuple(photos), columns=columns))
        return pa.concat_tables([rows for photo in photos for rows in list_table(photo, columns)])
    return photo_table(photos)


def nothing_left(source: str) -> UsageError:
    """Return the error for a source of which everything is left out."""
    return UsageError(f"expected photos in {source}, found only what earlier jobs wrote there: check the path")


def photo_table(photos: Sequence[Photo]) -> pa.Table:
    """Return rows of the schema INPUTS for `photos`, each a file or a member of an archive."""
    nothing, numbers = pa.nulls(len(photos), pa.string()), pa.nulls(len(photos), pa.int32())
    paths, relatives, versions = (pa.array([photo[place] for photo in photos], pa.string()) for place in range(3))
    return pa.table([paths, relatives, nothing, nothing, numbers, numbers, versions], schema=INPUTS)


def find_inputs(paths: Sequence[str]) -> pa.Table:
    """Return rows of the schema INPUTS for `paths`, keys as `list_inputs` returns them, in their order."""
    return pa.Table.from_pylist([{"path": path, "relative": path} for path in paths], schema=INPUTS)


def part_bounds(inputs: pa.Table, *, photos_per_part: int) -> list[tuple[int, int]]:
    """Return [start, stop) ranges of at most `photos_per_part` inputs; none spans two Parquet row groups."""
    count = inputs.num_rows
    groups = inputs["row_group"].fill_null(-1).to_numpy()
    tables = inputs["table"].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.r_[True, (groups[1:] != groups[:-1]) | (tables[1:] != tables[:-1])])
    stops = np.r_[starts[1:], count]
    return [
        (first, min(first + photos_per_part, int(stop)))
        for start, stop in zip(starts, stops, strict=True)
        for first in range(int(start), int(stop), photos_per_part)
    ]


def read_inputs(block: pa.Table, *, on_retry: Retry | None = None) -> Iterator[tuple[str, bytes | ImageError]]:
    """Yield (path, content or error) for each row of `block`, in order, one at a time.

    `on_retry` is called before each retry after a transient error.
    """
    return ((row["path"], read_input(row, on_retry=on_retry)) for row in input_rows(block))


def input_rows(block: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of `block` as `read_input` takes them."""
    rows: list[dict[str, Any]] = block.select(["path", "table", "column", "row_group", "row"]).to_pylist()
    return rows


def read_input(row: dict[str, Any], *, on_retry: Retry | None = None) -> bytes | ImageError:
    """Return the content of the photo in one row, or the error."""
    try:
        return read_photo(row["path"], on_retry=on_retry) if row["table"] is None else _read_cell(row, on_retry)
    except ImageError as error:
        return error


def _read_cell(row: dict[str, Any], on_retry: Retry | None) -> bytes:
    place = (row["table"], row["row_group"], row["row"])

    def read() -> bytes:
        return read_cell(*place, column=row["column"] or "", read_other=read_photo)

    return retry_read(read, where=row["table"], on_retry=on_retry)


def list_table(photo: Photo, columns: TableColumns) -> Iterator[pa.Table]:
    """Yield the rows of a Parquet file, in their order, in tables of the schema INPUTS of at most SHARD_ROWS rows.

    Raises UsageError as tables.list_rows does.
    """
    path = photo.path
    for listed in tables.list_rows(path, columns).pieces(SHARD_ROWS):
        total = len(listed.names)
        yield pa.table(
            [
                pa.array(tables.keys_of_rows(path, listed, columns), pa.string()),
                pa.array(listed.names, pa.string()),
                pa.array([path] * total, pa.string()),
                pa.array([listed.column] * total, pa.string()),
                pa.array(listed.groups),
                pa.array(listed.rows),
                pa.array([photo.version] * total, pa.string()),
            ],
            schema=INPUTS,
        )


# Globs


def is_glob(path: str) -> bool:
    """Return whether `path` contains wildcards."""
    path, _ = files.split_query(path)
    return any(mark in path for mark in ("*[" if files.is_uri(path) else "*?["))


def _match(pattern: str) -> list[Photo]:
    """Return the files that match `pattern`, by path; `relative` counts from the last folder without a wildcard."""
    base, query = files.split_query(pattern)
    parts = base.split("/")
    first = next(index for index, part in enumerate(parts) if is_glob(part))
    folder, matches = "/".join(parts[:first]) or "/", _glob_regex(parts[first:])
    found = [photo for photo in list_files(folder + query) if matches.fullmatch(photo.relative)]
    if not found:
        raise UsageError(f"expected photos at {pattern}, no file matches: check the pattern and its quotes")
    return found


def _glob_regex(parts: Sequence[str]) -> re.Pattern[str]:
    """Translate the parts of a glob into a pattern; fnmatch's own translation lets `*` match across folders."""
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


def _expand_archives(source: str, photos: list[Photo], *, at_most: int | None) -> list[Photo]:
    """Return the photos in the archives that a glob matched, or `photos` as they are if it matched other files."""
    if any(archive_kind(photo.relative) is None for photo in photos):
        return photos
    packed = Packed(source=source, files=tuple(photos), around=True, named=True)
    return list_archives(packed, at_most=at_most)
