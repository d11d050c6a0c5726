"""Groups: photos of one animal or one shoot, which look alike and must never be in two splits.

They come from a CSV or TSV file with the columns `path` and `group`. A photo that it does not name is a group of one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from catdog.console import counted
from catdog.errors import UsageError
from catdog.photos.annotations.csv_table import find_photos, read_csv_table
from catdog.photos.annotations.label_table import NAME_COLUMNS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups:
    """The content of a groups file: the group of each photo that it names."""

    groups: dict[str, str]
    fingerprint: str
    where: str
    folder: str


def read_groups(path: str) -> Groups:
    """Read the file at `path`, a local path or URI.

    Raises UsageError if it cannot be read, lacks a column, has no group, or puts one photo into two groups.
    """
    columns = {"path": NAME_COLUMNS, "group": ("group", "group_id", "animal", "shoot", "session")}
    table = read_csv_table(path, flag="--groups", columns=columns)
    groups: dict[str, str] = {}
    for number, row in table.rows:
        group = row["group"].strip()
        if group and groups.setdefault(row["path"], group) != group:
            raise UsageError(f"{table.where}: row {number}: {row['path']} is in another group in an earlier row")
    if not groups:
        raise UsageError(f"{table.where}: expected a group of one photo at least, found none in {len(table.rows)} rows")
    folder = path.replace("\\", "/").rpartition("/")[0] or "."
    return Groups(groups=groups, fingerprint=table.fingerprint, where=table.where, folder=folder)


def apply_groups(groups: Groups, photos: Sequence[tuple[str, str]]) -> tuple[list[str | None], str]:
    """Return the group of each of `photos`, pairs of key and relative path, and a console line.

    Raises UsageError if no photo is in a group, or if two names put one photo into two groups.
    """
    names = list(groups.groups)
    found: list[str | None] = [None] * len(photos)
    for name, place in zip(names, find_photos(names, photos, folders=[groups.folder]), strict=True):
        if place is None:
            continue
        if found[place] not in (None, groups.groups[name]):
            raise UsageError(f"{groups.where}: {photos[place][1]} is in two groups, in one as {name}: keep one of them")
        found[place] = groups.groups[name]
    named = len(photos) - found.count(None)
    if not named:
        raise UsageError(
            f"{groups.where}: none of its {len(names)} paths matches a photo, such as {next(iter(names), '')}; "
            f"paths of photos look like {photos[0][1]}"
        )
    return found, f"Groups: {named} of {len(photos)} photos are in {counted(len({*found} - {None}), 'group')}."


def contradiction(groups: Sequence[str | None], hints: Sequence[str | None]) -> str:
    """Return a console line about groups whose photos are in several split folders, "" if there are none.

    `hints` has the split of each photo's folder. Photos outside split folders are drawn with those of train.
    """
    splits: dict[str, set[str]] = {}
    for group, hint in zip(groups, hints, strict=True):
        if group:
            splits.setdefault(group, set()).add(hint or "train")
    torn = {group: found for group, found in splits.items() if len(found) > 1}
    if not torn:
        return ""
    first = min(torn)
    return (
        f"Groups: {counted(len(torn), 'group')} in several split folders, such as {first} "
        f"({', '.join(sorted(torn[first]))}): the folders decide."
    )
