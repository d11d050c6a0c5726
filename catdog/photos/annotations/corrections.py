"""Corrections: a person's word on the class of single photos, against what their folders or names say.

A CSV file with the columns `path` and `label`, as the page of a predict job writes it; others are ignored. A path is a
key as in prediction rows and manifests; a label is a class name, or `-` or nothing to leave the photo out.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import unicodedata
from collections.abc import Mapping, Sequence

from catdog.errors import CatdogError, UsageError, one_line
from catdog.storage import files

LEFT_OUT = "left-out: the corrections say so"
_COLUMNS = ("path", "label")
_GUARDED = tuple("'" + mark for mark in "'=+-@\t\r")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corrections:
    """What a file says: for each path the class, in lower case as class names are, or None to leave the photo out."""

    classes: Mapping[str, str | None]
    fingerprint: str  # of the content: the same in another file is the same
    where: str


def read_corrections(path: str) -> Corrections:
    """Read the CSV file at `path`, a local path or URI; commas or semicolons between the columns.

    Raises UsageError when it cannot be read, lacks a column, names no photo, or says two things of one photo.
    """
    flag = f"--corrections {path}"
    try:
        content = files.read_bytes(files.absolute(path))
        text = content.decode("utf-8-sig")
        first = text.partition("\n")[0]
        delimiter = ";" if first.count(";") > first.count(",") else ","
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except UnicodeDecodeError as error:
        raise UsageError(f"{flag}: expected a CSV file in UTF-8, found other bytes: {error.reason}") from error
    except (OSError, csv.Error, CatdogError) as error:
        raise UsageError(f"{flag}: cannot be read: {one_line(error)}") from error
    header = [name.strip().lower() for name in rows[0]] if rows else []
    if any(name not in header for name in _COLUMNS):
        raise UsageError(f"{flag}: expected a header with path,label, found {','.join(header)[:80] or 'nothing'}")
    places = [header.index(name) for name in _COLUMNS]
    found: dict[str, str | None] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(row):
            continue
        if len(row) <= max(places):
            raise UsageError(f"{flag}: row {number}: expected {len(header)} columns, found {len(row)}")
        # A spreadsheet's guard against formulas, as our own CSV files have it, is no part of the text.
        photo, name = (row[place].removeprefix("'") if row[place][:2] in _GUARDED else row[place] for place in places)
        label = None if name.strip() in ("", "-") else unicodedata.normalize("NFC", name.strip()).lower()
        if found.setdefault(photo, label) != label:
            raise UsageError(f"{flag}: row {number}: {photo} has another label in a row before: keep one of them")
    if not found:
        raise UsageError(f"{flag}: expected a photo a row, found no row")
    return Corrections(classes=found, fingerprint=hashlib.sha256(content).hexdigest()[:16], where=flag)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corrected:
    """What corrections make of a listing: the assigned classes, which photos are left out, and a line for people."""

    assigned: list[tuple[str | None, str] | None]
    left_out: frozenset[int]
    line: str


def apply_corrections(
    corrections: Corrections,
    paths: Sequence[str],
    assigned: Sequence[tuple[str | None, str] | None],
    *,
    classes: Sequence[str],
) -> Corrected:
    """Replace the class of each photo of `paths` that the corrections name; its split hint stays.

    `assigned` has (split hint, class) of each photo, None for one without a class, which may get one.
    Raises UsageError for a class that is none of `classes`, and when no path is among the photos.
    """
    unknown = sorted({label for label in corrections.classes.values() if label} - set(classes))
    if unknown:
        raise UsageError(f"{corrections.where}: expected labels of {', '.join(classes)} or -, found {unknown[0]}")
    places = {path: place for place, path in enumerate(paths)}
    found = {path: places.get(path, places.get(files.absolute(path))) for path in corrections.classes}
    strange = [path for path, place in found.items() if place is None]
    if len(strange) == len(found):
        raise UsageError(
            f"{corrections.where}: none of its {len(found)} paths is among the photos, such as {strange[0]}; "
            f"theirs are like {paths[0]}"
        )
    changed, left_out = list(assigned), set()
    moved = 0
    for path, place in found.items():
        label = corrections.classes[path]
        if place is None:
            continue
        if label is None:
            left_out.add(place)
            continue
        before = assigned[place]
        moved += before is None or before[1] != label
        changed[place] = (before[0] if before else None, label)
    line = f"Corrections: {moved} photos have another class, {len(left_out)} are left out"
    if strange:
        line += f"; {len(strange)} paths are not among the photos, such as {strange[0]}"
    return Corrected(assigned=changed, left_out=frozenset(left_out), line=f"{line}.")
