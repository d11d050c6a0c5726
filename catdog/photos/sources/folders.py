"""Walks over folders, local and on object stores: every visible file, and a line on what was left out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pyarrow import fs

from catdog.console import say
from catdog.errors import one_line
from catdog.photos.sources.keys import key_of_name
from catdog.storage.ownership import is_ours

# Folders that systems and programs make among people's photos, in lower case; a leading dot hides a name anyway.
_SYSTEM_FOLDERS = frozenset({
    "__macosx", "@eadir", "#recycle", "@recycle", "@recently-snapshot", "#snapshot", "lost+found", "lost.dir",
    "$recycle.bin", "recycler", "recycled", "system volume information", "found.000", "$extend", "__pycache__",
})  # fmt: skip


class Found(NamedTuple):
    """A file below a folder: `relative` is its place, `version` changes when its content does."""

    relative: str
    version: str | None


@dataclasses.dataclass
class LeftOut:
    """What a walk did not enter, to be said in a line of each kind."""

    ours: list[str] = dataclasses.field(default_factory=list)
    unreadable: list[str] = dataclasses.field(default_factory=list)
    empty: list[str] = dataclasses.field(default_factory=list)

    def report(self) -> None:
        """Say what was left out, each kind with its number and an example."""
        for paths, one, many in (
            (self.ours, "folder that catdog wrote", "folders that catdog wrote"),
            (self.unreadable, "folder that cannot be read", "folders that cannot be read"),
        ):
            if paths:
                count = f"1 {one}" if len(paths) == 1 else f"{len(paths)} {many}"
                say(f"Skipped {count}, such as {paths[0]}.")
        if self.empty:
            count = "1 folder is" if len(self.empty) == 1 else f"{len(self.empty)} folders are"
            say(f"{count} empty, such as {self.empty[0]}.")


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder of this name is hidden or belongs to a system."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


def walk_local(root: str, left_out: LeftOut) -> Iterator[Found]:
    """Yield every visible file below the local folder `root`, in any order.

    Each real folder is entered once, and links are followed last: loops of links end, and a file reachable
    both ways keeps its real path. pyarrow's own selector follows such loops forty levels deep.
    Raises OSError where `root` itself cannot be read; a folder below that cannot is left out.
    """
    seen: set[tuple[int, int]] = set()
    folders, linked = [""], list[str]()
    entered, filled = set[str](), {""}  # folders, and those with files somewhere in them
    while folders or linked:
        below = folders.pop() if folders else linked.pop(linked.index(min(linked)))
        try:
            status = Path(root, below).stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(Path(root, below)) as scanned:
                entries = list(scanned)
        except OSError as error:
            if not below:
                raise
            left_out.unreadable.append(f"{key_of_name(below)} ({one_line(error).partition(': ')[0]})")
            _fill(filled, below)
            continue
        if below and is_ours({entry.name for entry in entries}):
            left_out.ours.append(key_of_name(below))
            _fill(filled, below)
            continue
        entered.add(below)
        for entry in entries:
            relative = f"{below}/{entry.name}" if below else entry.name
            if is_hidden(entry.name):
                continue
            if entry.is_symlink():
                target = Path(entry.path)
                if _is_folder(target):
                    linked.append(relative)
                elif target.is_file() or not target.exists():  # a broken link is found, and rejected as missing
                    _fill(filled, below)
                    yield Found(key_of_name(relative), _version(entry))
            elif entry.is_dir():
                folders.append(relative)
            elif entry.is_file():  # no pipes, sockets, devices: reading one may never end
                _fill(filled, below)
                yield Found(key_of_name(relative), _version(entry))
    empty = entered - filled
    left_out.empty += sorted(key_of_name(folder) for folder in empty if folder.rpartition("/")[0] not in empty)


def _fill(filled: set[str], folder: str) -> None:
    """Add `folder` and those around it."""
    while folder not in filled:
        filled.add(folder)
        folder = folder.rpartition("/")[0]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _version(entry: os.DirEntry[str]) -> str | None:
    try:
        status = entry.stat()
    except OSError:
        return None
    return f"{status.st_size}-{status.st_mtime_ns}"


def walk_remote(system: fs.FileSystem, root: str, left_out: LeftOut) -> Iterator[Found]:
    """Yield every visible file below `root` on an object store."""
    prefix = root.rstrip("/")
    entries = [entry for entry in system.get_file_info(fs.FileSelector(root, recursive=True)) if entry.is_file]
    names: dict[str, set[str]] = {}
    for entry in entries:
        parts = entry.path.removeprefix(prefix).lstrip("/").split("/")
        for end in range(1, len(parts)):  # a folder holds files and folders
            names.setdefault("/".join(parts[:end]), set()).add(parts[end])
    ours = sorted(folder for folder, found in names.items() if is_ours(found))
    left_out.ours += ours
    below = tuple(f"{folder}/" for folder in ours)
    for entry in entries:
        relative = entry.path.removeprefix(prefix).lstrip("/")
        if not relative.startswith(below) and not any(map(is_hidden, relative.split("/"))):
            modified = entry.mtime_ns
            yield Found(relative, f"{entry.size}-{modified}" if modified is not None else str(entry.size))
