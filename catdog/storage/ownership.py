"""Ownership of folders: a mark in each folder that a job writes, so that no job ever writes to a foreign folder.

A job writes only into a folder that is new, empty or marked. Folders of earlier versions, which wrote no mark, are
recognized by the JSON file that describes their job.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import catdog
from catdog.errors import FailureError, UsageError
from catdog.storage.files import absolute, join, list_directory, read_json, write_json

MARK_FILE = ".catdog.json"
LEASE_PREFIX = ".catdog-lease-"

Kind = Literal["run", "labels", "sorted", "features", "export"]

# Files that operating systems put into a folder that its owner considers empty.
_NOT_CONTENT = {"lost+found", ".DS_Store", "Thumbs.db", "desktop.ini"}
# By kind: files that versions without marks wrote, at least one of which must exist, and the keys each must have.
_UNMARKED: dict[str, dict[str, set[str]]] = {
    "run": {"config.json": {"photos", "seed", "train_per_class"}, "manifest/_COMPLETE.json": {"inputs", "summary"}},
    "labels": {"predict.json": {"photos", "model"}},
}
_NAMES = {
    "run": "a run directory",
    "labels": "a folder of labels",
    "sorted": "a folder of sorted photos",
    "features": "a folder of features",
    "export": "a folder of exported models",
}


def is_ours(names: Collection[str]) -> bool:
    """Return whether the `names` of a folder's entries show that a job of ours wrote it: photos in it are results."""
    found = set(names)
    return MARK_FILE in found or {"predict.json", "predictions"} <= found or {"config.json", "manifest"} <= found


def check_folder(directory: str, *, kind: Kind, flag: str) -> None:
    """Refuse `directory`, which `flag` names, unless it is new, empty, or a folder of this kind that we made.

    Nothing is written. Raises UsageError for any other folder and for a file, FailureError when it cannot be listed.
    """
    directory = absolute(directory)
    try:
        entries = list_directory(directory)
    except NotADirectoryError as error:
        raise UsageError(
            f"{flag} {directory}: expected a folder, found a file or a name that no folder can have: "
            f"give another {flag}"
        ) from error
    names = {name for name in entries if name not in _NOT_CONTENT and not name.startswith(LEASE_PREFIX)}
    if not names:
        return
    if MARK_FILE in names:
        found = read_json(join(directory, MARK_FILE)).get("kind")
        if found == kind:
            return
        what = _NAMES.get(str(found), f"a folder of kind {found!r}")
    elif _is_unmarked_ours(directory, kind, names):
        return
    else:
        count = "1 entry" if len(names) == 1 else f"{len(names)} entries"
        what = f"{count} that catdog did not write, such as {min(names)}"
    raise UsageError(
        f"{flag} {directory}: expected a new or empty folder or {_NAMES[kind]}, found {what}: give another {flag}"
    )


def mark_folder(directory: str, *, kind: Kind) -> None:
    """Mark `directory` as ours; call this after `check_folder` and before anything else is written there."""
    path = join(absolute(directory), MARK_FILE)
    wanted = {
        "kind": kind,
        "catdog": catdog.__version__,
        "note": "written by catdog, which knows its folders by this file",
    }
    if MARK_FILE not in list_directory(absolute(directory)):
        write_json(path, wanted)


def _is_unmarked_ours(directory: str, kind: str, names: Collection[str]) -> bool:
    for path, keys in _UNMARKED.get(kind, {}).items():
        if path.partition("/")[0] not in names:
            continue
        try:
            if keys <= read_json(join(directory, path)).keys():
                return True
        except FailureError:  # missing, or not JSON: somebody else's file of the same name
            continue
    return False
