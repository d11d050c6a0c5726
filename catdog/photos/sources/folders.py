"""Walks over folders, local and on object stores, that find visible files and report what was left out."""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from pyarrow import fs

from catdog.console import say
from catdog.errors import one_line
from catdog.photos.sources.keys import key_of_name
from catdog.photos.sources.opening import version_of
from catdog.storage.ownership import is_ours

# Folders that systems and programs create among photos, in lower case. Names with a leading dot are hidden anyway.
_SYSTEM_FOLDERS = frozenset({
    "__macosx", "@eadir", "#recycle", "@recycle", "@recently-snapshot", "#snapshot", "lost+found", "lost.dir",
    "$recycle.bin", "recycler", "recycled", "system volume information", "found.000", "$extend", "__pycache__",
})  # fmt: skip

_FOLDERS_AT_ONCE = 32  # listed at the same time on an object store


class Found(NamedTuple):
    """A file below a folder: `relative` is its path below it, `version` changes when its content does."""

    relative: str
    version: str | None


@dataclasses.dataclass
class LeftOut:
    """Folders that a walk skipped or found empty, to be reported in one line per kind."""

    ours: list[str] = dataclasses.field(default_factory=list)
    unreadable: list[str] = dataclasses.field(default_factory=list)
    empty: list[str] = dataclasses.field(default_factory=list)

    def report(self) -> None:
        """Report what was left out, each kind with its count and an example."""
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
    """Return whether a file or folder of this name is hidden or belongs to a system."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


class Scanned(NamedTuple):
    """The content of one folder: its files, and its sub-folders and links to folders as paths below the root.

    `ours` is true for a folder that a catdog job wrote. The lists are empty then.
    """

    files: list[Found]
    folders: list[str]
    linked: list[str]
    ours: bool = False


def scan_local(root: str, below: str) -> Scanned:
    """Return the visible content of the local folder `below`, a path relative to `root`.

    Raises OSError as the system does.
    """
    with os.scandir(Path(root, below)) as scanned:
        entries = list(scanned)
    if below and is_ours({entry.name for entry in entries}):
        return Scanned([], [], [], ours=True)
    found = Scanned([], [], [])
    for entry in entries:
        relative = f"{below}/{entry.name}" if below else entry.name
        if is_hidden(entry.name):
            continue
        if entry.is_symlink():
            target = Path(entry.path)
            if _is_folder(target):
                found.linked.append(relative)
            elif target.is_file() or not target.exists():  # a broken link is listed, and later rejected as missing
                found.files.append(Found(key_of_name(relative), _version(entry)))
        elif entry.is_dir():
            found.folders.append(relative)
        elif entry.is_file():  # no pipes, sockets, devices: reading one may never end
            found.files.append(Found(key_of_name(relative), _version(entry)))
    return found


def scan_remote(system: fs.FileSystem, root: str, below: str) -> Scanned:
    """Return the visible content of the folder `below`, a path relative to `root`, on an object store.

    Raises OSError as the store does.
    """
    entries = system.get_file_info(fs.FileSelector(f"{root.rstrip('/')}/{below}".rstrip("/")))
    if below and is_ours({entry.base_name for entry in entries}):
        return Scanned([], [], [], ours=True)
    found = Scanned([], [], [])
    for entry in entries:
        relative = f"{below}/{entry.base_name}" if below else entry.base_name
        if is_hidden(entry.base_name):
            continue
        if entry.is_file:
            found.files.append(Found(relative, version_of(entry.size, entry.mtime_ns)))
        elif entry.type == fs.FileType.Directory:
            found.folders.append(relative)
    return found


def walk_local(root: str, left_out: LeftOut, *, linked: Sequence[str] | None = None) -> Iterator[Found]:
    """Yield every visible file below the local folder `root`, in any order.

    Each real folder is entered once, and links are followed last. So loops of links end, and a file reachable both ways
    keeps its real path. pyarrow's own selector follows such loops forty levels deep.
    With `linked`, a list of links to folders, only their targets outside the real folders of `root` are walked.
    Raises OSError if `root` itself cannot be read. A folder below it that cannot be read is left out.
    """
    seen: set[tuple[int, int]] = set()
    folders, links = ([""], list[str]()) if linked is None else (list[str](), list(linked))
    entered, filled = set[str](), {""}  # filled: folders with files at any depth, or skipped ones
    while folders or links:
        below = folders.pop() if folders else links.pop(links.index(min(links)))
        try:
            status = Path(root, below).stat()
            if (status.st_dev, status.st_ino) in seen or (linked is not None and _is_real(root, below)):
                continue
            seen.add((status.st_dev, status.st_ino))
            scanned = scan_local(root, below)
        except OSError as error:
            if not below:
                raise
            left_out.unreadable.append(unreadable_text(below, error))
            _fill(filled, below)
            continue
        if scanned.ours:
            left_out.ours.append(key_of_name(below))
            _fill(filled, below)
            continue
        entered.add(below)
        if scanned.files:
            _fill(filled, below)
        folders += scanned.folders
        links += scanned.linked
        yield from scanned.files
    empty = entered - filled
    left_out.empty += sorted(key_of_name(folder) for folder in empty if folder.rpartition("/")[0] not in empty)


def unreadable_text(below: str, error: OSError) -> str:
    """Return the text for a folder that cannot be read: its key and the reason."""
    return f"{key_of_name(below)} ({one_line(error).partition(': ')[0]})"


def _is_real(root: str, below: str) -> bool:
    """Return whether a link leads to `root` itself or to a visible folder below it."""
    real, around = os.path.realpath(Path(root, below)), os.path.realpath(root)
    inside = real == around or real.startswith(f"{around.rstrip('/')}/")
    return inside and not any(map(is_hidden, real[len(around) :].split("/")[1:]))


def _fill(filled: set[str], folder: str) -> None:
    """Add `folder` and its parents to `filled`."""
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
    return version_of(status.st_size, status.st_mtime_ns)


def walk_remote(system: fs.FileSystem, root: str, left_out: LeftOut) -> Iterator[Found]:
    """Yield every visible file below `root` on an object store; many folders are listed at the same time."""
    with ThreadPoolExecutor(_FOLDERS_AT_ONCE) as pool:
        waiting: deque[tuple[str, Future[Scanned]]] = deque([("", pool.submit(scan_remote, system, root, ""))])
        try:
            while waiting:
                below, future = waiting.popleft()
                scanned = future.result()
                left_out.ours += [below] * scanned.ours
                waiting.extend((folder, pool.submit(scan_remote, system, root, folder)) for folder in scanned.folders)
                yield from scanned.files
        finally:
            for _, future in waiting:
                future.cancel()
