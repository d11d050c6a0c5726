"""Tables that people write about photos: CSV or TSV files with a header and one photo per row."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import itertools
import posixpath
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO

from catdog.errors import CatdogError, UsageError, one_line
from catdog.storage import files

_GUARDED = tuple("'" + mark for mark in "'=+-@\t\r")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_DELIMITERS = ",;\t"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CsvTable:
    """The rows of a file: the number of each, as an editor counts rows, and its text by column."""

    rows: tuple[tuple[int, dict[str, str]], ...]
    fingerprint: str  # of the content, whatever the path of the file
    where: str  # flag and file, for messages


def read_csv_table(
    path: str, *, flag: str, columns: Mapping[str, Sequence[str]], optional: Sequence[str] = ()
) -> CsvTable:
    """Read the file at `path`, a local path or URI, as `csv_rows` does.

    `flag` is the option that names the file. Raises UsageError if the file cannot be read or has no row, and as
    `csv_rows` does.
    """
    where = f"{flag} {path}"
    try:
        content = files.read_bytes(files.absolute(path))
    except (OSError, CatdogError) as error:
        raise UsageError(f"{where}: cannot be read: {one_line(error)}") from error
    rows = tuple(csv_rows(io.BytesIO(content), where=where, columns=columns, optional=optional))
    if not rows:
        raise UsageError(f"{where}: expected one photo per row, found no row")
    return CsvTable(rows=rows, fingerprint=hashlib.sha256(content).hexdigest()[:16], where=where)


def csv_rows(
    stream: IO[bytes], *, where: str, columns: Mapping[str, Sequence[str]], optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of CsvTable in `stream`, with commas, semicolons or tabs between columns, as they are read.

    `where` is for messages. `columns` has the names that the header may use for each column. Columns in `optional` may
    be missing. Raises UsageError if the stream cannot be read, lacks a column, or has too short a row.
    """
    lines = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    try:
        yield from _rows(lines, where=where, columns=columns, optional=optional)
    except UnicodeDecodeError as error:
        found = "UTF-16: save it as CSV UTF-8" if error.object[:2] in _UTF_16 else f"other bytes: {error.reason}"
        raise UsageError(f"{where}: expected a CSV file in UTF-8, found {found}") from error
    except (OSError, csv.Error) as error:
        raise UsageError(f"{where}: cannot be read: {one_line(error)}") from error


def _rows(
    lines: Iterable[str], *, where: str, columns: Mapping[str, Sequence[str]], optional: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    waiting = iter(lines)
    first = next(waiting, "")
    reader = csv.reader(itertools.chain([first], waiting), delimiter=max(_DELIMITERS, key=first.count))
    header = [name.strip().lower() for name in next(reader, [])]
    places = {
        column: next((header.index(name) for name in names if name in header), None)
        for column, names in columns.items()
    }
    if any(place is None and column not in optional for column, place in places.items()):
        wanted = ",".join(column for column in columns if column not in optional)
        raise UsageError(f"{where}: expected a header with {wanted}, found {','.join(header)[:80] or 'nothing'}")
    known = {column: place for column, place in places.items() if place is not None}
    last = max(known.values())
    for number, line in enumerate(reader, start=2):
        if not any(line):
            continue
        if len(line) <= last:
            raise UsageError(f"{where}: row {number}: expected {len(header)} columns, found {len(line)}")
        yield number, {column: _unguarded(line[place]) for column, place in known.items()}


def _unguarded(text: str) -> str:
    """Return `text` without the quote that our own CSV files put before text that looks like a formula."""
    return text.removeprefix("'") if text[:2] in _GUARDED else text


def find_photos(names: Sequence[str], photos: Sequence[tuple[str, str]], *, folders: Sequence[str]) -> list[int | None]:
    """Return the position in `photos`, pairs of key and relative path, of each of `names`; None if there is none.

    A name may be a key, a relative path, or a path relative to one of `folders`. It may also be a file name, with or
    without its suffix, that only one photo has. Surrounding spaces, a leading `./` and the Unicode composition of
    accents make no difference.
    """
    places = {key: place for place, (key, _) in enumerate(photos)}
    for place, (_, relative) in enumerate(photos):
        places.setdefault(relative, place)
        places.setdefault(_composed(relative), place)
    ends: dict[str, int] = {}
    twice: set[str] = set()  # ambiguous names of two photos match neither
    for place, (_, relative) in enumerate(photos):
        name = _composed(relative).rpartition("/")[2]
        for end in {name, name.rpartition(".")[0] or name}:
            if ends.setdefault(end, place) != place:
                twice.add(end)
    found: list[int | None] = []
    for name in names:
        tidy = _tidy(name)
        candidates = [name, tidy, files.absolute(name), *(files.join(folder, tidy) for folder in folders)]
        match = next((places[candidate] for candidate in candidates if candidate in places), None)
        if match is None and "/" not in tidy and tidy not in twice:
            match = ends.get(tidy)
        found.append(match)
    return found


def _composed(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _tidy(name: str) -> str:
    tidy = _composed(name.strip())
    tidy = tidy.replace("\\", "/") if "/" not in tidy else tidy
    return posixpath.normpath(tidy) if tidy.startswith(".") else tidy
