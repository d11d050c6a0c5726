"""Corrections: classes that a person gives to single photos. They override folders and names.

The file is CSV with the columns `path` and `label`, as the page of a predict job writes it. Other columns are ignored.
A path is a key as in prediction rows and manifests. A label is a class name, or `-` or empty to leave the photo out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from catdog.errors import UsageError
from catdog.photos.annotations.csv_table import read_csv_table
from catdog.photos.annotations.label_table import fold_label
from catdog.storage import files

_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
LEFT_OUT = "left-out: the corrections say so"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corrections:
    """The content of a corrections file: the class of each path in lower case, or None to leave the photo out."""

    classes: Mapping[str, str | None]
    fingerprint: str  # of the content, whatever the path of the file
    where: str


def read_corrections(path: str) -> Corrections:
    """Read the CSV file at `path`, a local path or URI, with commas, semicolons or tabs between columns.

    Raises UsageError if it cannot be read, lacks a column, names no photo, or gives one photo two labels.
    """
    if _FINGERPRINT.fullmatch(path.rpartition("/")[2]) and not files.exists(path):
        raise UsageError(
            f"--corrections {path}: expected a CSV file, found the fingerprint that an earlier version recorded in "
            "config.json: give --corrections FILE too"
        )
    table = read_csv_table(path, flag="--corrections", columns={"path": ("path",), "label": ("label",)})
    found: dict[str, str | None] = {}
    for number, row in table.rows:
        label = None if row["label"].strip() in ("", "-") else fold_label(row["label"])
        if found.setdefault(row["path"], label) != label:
            raise UsageError(
                f"{table.where}: row {number}: {row['path']} has another label in an earlier row: keep one of them"
            )
    return Corrections(classes=found, fingerprint=table.fingerprint, where=table.where)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corrected:
    """A listing after the corrections: the assigned classes, which photos are left out, and a console line."""

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

    `assigned` has (split hint, class) of each photo, None for one without a class. A correction may give it one.
    Raises UsageError for a class that is not in `classes`, and if no corrected path is among the photos.
    """
    unknown = sorted({label for label in corrections.classes.values() if label} - set(classes))
    if unknown:
        raise UsageError(f"{corrections.where}: expected labels of {', '.join(classes)} or -, found {unknown[0]}")
    places = {path: place for place, path in enumerate(paths)}
    found = {path: places.get(path, places.get(files.absolute(path))) for path in corrections.classes}
    strange = [path for path, place in found.items() if place is None]
    if len(strange) == len(found):
        raise UsageError(
            f"{corrections.where}: none of its {len(found)} paths matches a photo, such as {strange[0]}; "
            f"paths of photos look like {paths[0]}"
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
    line = f"Corrections: {_photos_have(moved)} another class now, {len(left_out)} left out"
    if strange:
        line += f"; {_paths_are(len(strange))} not among the photos, such as {strange[0]}"
    return Corrected(assigned=changed, left_out=frozenset(left_out), line=f"{line}.")


def _photos_have(count: int) -> str:
    return "1 photo has" if count == 1 else f"{count} photos have"


def _paths_are(count: int) -> str:
    return "1 path is" if count == 1 else f"{count} paths are"
