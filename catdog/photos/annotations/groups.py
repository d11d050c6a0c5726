"""Groups: photos of one animal or one shoot, which look alike and must never be in two splits.

A CSV or TSV file with the columns `path` and `group`; photos that it does not name are groups by themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from catdog.errors import UsageError
from catdog.photos.annotations.csv_table import find_photos, read_csv_table
from catdog.photos.annotations.label_table import NAME_COLUMNS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups:
    """What a file says: the group of each photo that it names."""

    groups: dict[str, str]
    fingerprint: str
    where: str
    folder: str


def read_groups(path: str) -> Groups:
    """Read the file at `path`, a local path or URI.

    Raises UsageError when it cannot be read, lacks a column, or puts one photo into two groups.
    """
    columns = {"path": NAME_COLUMNS, "group": ("group", "group_id", "animal", "shoot", "session")}
    table = read_csv_table(path, flag="--groups", columns=columns)
    groups: dict[str, str] = {}
    for number, row in table.rows:
        group = row["group"].strip()
        if group and groups.setdefault(row["path"], group) != group:
            raise UsageError(f"{table.where}: row {number}: {row['path']} is in another group in a row before")
    folder = path.replace("\\", "/").rpartition("/")[0] or "."
    return Groups(groups=groups, fingerprint=table.fingerprint, where=table.where, folder=folder)


def apply_groups(groups: Groups, photos: Sequence[tuple[str, str]]) -> tuple[list[str | None], str]:
    """Return the group of each of `photos`, pairs of key and relative path, and a console line.

    Raises UsageError where no photo is in a group.
    """
    names = list(groups.groups)
    found: list[str | None] = [None] * len(photos)
    for name, place in zip(names, find_photos(names, photos, folders=[groups.folder]), strict=True):
        if place is not None:
            found[place] = groups.groups[name]
    named = len(photos) - found.count(None)
    if not named:
        raise UsageError(
            f"{groups.where}: none of its {len(names)} paths is among the photos, such as {next(iter(names), '')}; "
            f"theirs are like {photos[0][1]}"
        )
    return found, f"Groups: {named} of {len(photos)} photos are in {len({*found} - {None})} groups."
