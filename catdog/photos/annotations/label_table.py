"""Label tables: a file gives the class of each photo and, optionally, its split.

The file is CSV or TSV with the columns `path` and `label`, and optionally `split`. Other columns are ignored.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Sequence

from catdog.errors import UsageError
from catdog.photos.annotations.csv_table import find_photos, read_csv_table
from catdog.photos.annotations.layouts.split_names import split_of_name

NO_LABEL = "no-class: the table of labels has no label for it"
NAME_COLUMNS = (
    "path", "file_name", "filename", "file", "image_path", "image", "img", "image_name", "image_id", "name", "id",
)  # fmt: skip
LABEL_COLUMNS = ("label", "class", "category", "target", "labels", "class_name", "breed", "species")
SPLIT_COLUMNS = ("split", "fold", "subset", "set")
Assigned = tuple[str | None, str] | None  # split hint, class


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelTable:
    """The content of a label table: (split or None, class) by photo name."""

    labels: dict[str, tuple[str | None, str]]
    fingerprint: str
    where: str
    folder: str  # of the file: paths may be relative to it


def read_label_table(path: str) -> LabelTable:
    """Read the file at `path`, a local path or URI.

    Raises UsageError if it cannot be read, lacks a column, has labels of fewer than two classes, labels one photo in
    two ways, or names an unknown split.
    """
    columns = {"path": NAME_COLUMNS, "label": LABEL_COLUMNS, "split": SPLIT_COLUMNS}
    table = read_csv_table(path, flag="--labels", columns=columns, optional=("split",))
    labels: dict[str, tuple[str | None, str]] = {}
    for number, row in table.rows:
        label, split = fold_label(row["label"]), row.get("split", "").strip()
        hint = split_of_name(split)
        if split and hint is None:
            raise UsageError(
                f"{table.where}: row {number}: expected a split of train, validation or test, found {split}"
            )
        if label and labels.setdefault(row["path"], (hint, label)) != (hint, label):
            raise UsageError(
                f"{table.where}: row {number}: {row['path']} has another label in an earlier row: keep one"
            )
    if len({label for _, label in labels.values()}) < 2:
        raise UsageError(f"{table.where}: expected labels of two classes or more, found fewer in {len(labels)} rows")
    folder = path.replace("\\", "/").rpartition("/")[0] or "."
    return LabelTable(labels=labels, fingerprint=table.fingerprint, where=table.where, folder=folder)


def fold_label(text: str) -> str:
    """Return a class name in the form used for comparison: lower case, composed accents, no surrounding spaces."""
    return unicodedata.normalize("NFC", text.strip()).lower()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled:
    """Photos labelled by a table: sorted classes, (split hint, class) of each photo, and a console line."""

    classes: tuple[str, ...]
    assigned: list[Assigned]
    line: str


def apply_label_table(table: LabelTable, photos: Sequence[tuple[str, str]]) -> Labelled:
    """Assign each of `photos`, pairs of key and relative path, its class, or None if the table has no row for it.

    Raises UsageError if the table labels no photo, labels photos of one class only, or labels one photo in two ways
    under two names.
    """
    names = list(table.labels)
    places = find_photos(names, photos, folders=[table.folder])
    assigned: list[Assigned] = [None] * len(photos)
    missing = []
    for name, place in zip(names, places, strict=True):
        if place is None:
            missing.append(name)
        elif assigned[place] not in (None, table.labels[name]):
            raise UsageError(
                f"{table.where}: {photos[place][1]} has two labels, one under the name {name}: keep one of them"
            )
        else:
            assigned[place] = table.labels[name]
    if len(missing) == len(names):
        raise UsageError(
            f"{table.where}: none of its {len(names)} paths matches a photo, such as {missing[0]}; "
            f"paths of photos look like {photos[0][1]}"
        )
    classes = tuple(sorted({found[1] for found in assigned if found}))
    if len(classes) < 2:
        raise UsageError(f"{table.where}: expected labels of two classes or more, found only {classes[0]} on photos")
    line = f"Labels: {len(names) - len(missing)} of {len(photos)} photos have a label"
    if missing:
        line += f"; {_paths(len(missing))} not among the photos, such as {missing[0]}"
    return Labelled(classes=classes, assigned=assigned, line=f"{line}.")


def _paths(count: int) -> str:
    return "1 path is" if count == 1 else f"{count} paths are"
