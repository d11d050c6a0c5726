"""A folder of many photos, listed by Ray tasks into shards.

    root --a task lists folders, up to some 100,000 files--> shards, and the remaining folders for further tasks

What a task lists, and so what is in a shard, depends only on the folders. Listing them again gives the same shards.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

from pyarrow import fs

from catdog.cluster.actors import task_errors
from catdog.errors import FailureError, UsageError, one_line
from catdog.photos.sources.files import open_tree
from catdog.photos.sources.folders import Found, LeftOut, Scanned, scan_local, scan_remote, unreadable_text, walk_local
from catdog.photos.sources.inputs import photo_table
from catdog.photos.sources.keys import Photo, below, escape_uri, key_of_name
from catdog.photos.sources.listing.shards import SHARD_ROWS, SetDigest, Shard, write_shard
from catdog.storage.files import is_uri, split_query
from catdog.storage.outages import wait_out

_FILES_PER_TASK = 100_000  # half a second on a local disk
_TASKS_PER_FOLDER = 64  # that share the sub-folders of one, whose sizes are not known yet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tree:
    """A folder to list: its path or URI, the folders to leave out, and the folder for shards ("" for nowhere)."""

    path: str
    exclude: tuple[str, ...] = ()
    shards: str = ""

    def key(self, relative: str) -> str:
        """Return the key of the file or folder at `relative`, a path below the root."""
        base, query = split_query(self.path)
        return f"{base.rstrip('/')}/{escape_uri(relative) if is_uri(base) else relative}{query}"

    def is_excluded(self, folder: str) -> bool:
        """Return whether `folder`, a path below the root, is left out."""
        return split_query(self.key(key_of_name(folder)))[0] in self._excluded

    @functools.cached_property
    def _excluded(self) -> frozenset[str]:
        return frozenset(split_query(path)[0].rstrip("/") for path in self.exclude)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed:
    """What tasks have listed, and what they leave to others: batches of folders, and links to folders."""

    shards: list[Shard] = dataclasses.field(default_factory=list)
    left: list[list[str]] = dataclasses.field(default_factory=list)
    linked: list[str] = dataclasses.field(default_factory=list)
    left_out: LeftOut = dataclasses.field(default_factory=LeftOut)

    @property
    def digest(self) -> SetDigest:
        """The digest of all photos."""
        return SetDigest.total(shard.digest for shard in self.shards)


def list_tree(tree: Tree, *, num_cpus: float) -> Listed:
    """List all photos of `tree` by Ray tasks of `num_cpus` each; the shards are sorted by their first paths.

    Raises UsageError if there are no photos, and FailureError if the folder cannot be read.
    """
    import ray

    task, links = ray.remote(num_cpus=num_cpus)(list_folders), ray.remote(num_cpus=num_cpus)(list_links)
    found, linked = Listed(), list[str]()
    running = [task.remote(tree, [""], files=0)]
    while running:
        done, running = ray.wait(running)
        for reference in done:
            with task_errors():
                listed: Listed = ray.get(reference)
            running += [task.remote(tree, folders, files=_FILES_PER_TASK) for folders in listed.left]
            linked += listed.linked
            found.shards.extend(listed.shards)
            found.left_out.ours.extend(listed.left_out.ours)
            found.left_out.unreadable.extend(listed.left_out.unreadable)
        if not running and linked:
            running, linked = [links.remote(tree, sorted(linked))], []
    found.left_out.report()
    if not found.shards:
        raise UsageError(f"expected photos in {tree.path}, found no files (hidden files are ignored): check the path")
    found.shards.sort(key=lambda shard: shard.first)
    return found


def list_folders(tree: Tree, folders: Sequence[str], *, files: int) -> Listed:
    """List `folders` of `tree` and the folders in them, sorted by name, until `files` files are found.

    Raises FailureError if the root, or any folder on an object store, cannot be read. Another local folder that cannot
    be read is left out.
    """
    system, inside = open_tree(tree.path)
    found, writer = Listed(), _ShardWriter(tree)
    waiting, scans = list(reversed(folders)), 0
    while waiting and (not scans or writer.rows < files):
        below = waiting.pop()
        try:
            scanned = wait_out(functools.partial(_scan, system, inside, below), where=tree.path)
        except OSError as error:
            if not below or system is not None:
                raise FailureError(f"cannot list the photos of {tree.path}: {one_line(error)}") from error
            found.left_out.unreadable.append(unreadable_text(below, error))
            continue
        scans += 1
        found.left_out.ours.extend([key_of_name(below)] * scanned.ours)
        found.linked.extend(scanned.linked)
        writer.add(scanned.files)
        waiting += sorted((one for one in scanned.folders if not tree.is_excluded(one)), reverse=True)
    found.shards.extend(writer.finish())
    waiting.reverse()
    found.left.extend(_batches(waiting, files_a_folder=writer.rows / max(1, scans)))
    return found


def _scan(system: fs.FileSystem | None, root: str, below: str) -> Scanned:
    return scan_local(root, below) if system is None else scan_remote(system, root, below)


def _batches(folders: Sequence[str], *, files_a_folder: float) -> Iterator[list[str]]:
    """Divide `folders` into batches, one per task, by `files_a_folder`, the mean of the folders listed so far."""
    most = _FILES_PER_TASK / max(1.0, files_a_folder)
    size = max(1, math.ceil(min(most, len(folders) / _TASKS_PER_FOLDER)))
    return (list(folders[start : start + size]) for start in range(0, len(folders), size))


def list_links(tree: Tree, linked: Sequence[str]) -> Listed:
    """List the targets of `linked`, links to folders, outside the folders of `tree` itself."""
    _, inside = open_tree(tree.path)
    found, writer = Listed(), _ShardWriter(tree)
    left_out = below(tree.exclude)
    for file in walk_local(inside, found.left_out, linked=linked):
        if not tree.key(file.relative).startswith(left_out):
            writer.add([file])
    found.shards.extend(writer.finish())
    return found


class _ShardWriter:
    """Cuts files into shards as they arrive; each shard is sorted by path."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._photos: list[Photo] = []
        self._shards: list[Shard] = []
        self.rows = 0

    def add(self, files: Sequence[Found]) -> None:
        """Add files, and write each shard that is full."""
        self._photos += [Photo(self._tree.key(file.relative), file.relative, file.version) for file in files]
        self.rows += len(files)
        if len(self._photos) >= SHARD_ROWS:
            self._photos.sort()
            whole = len(self._photos) // SHARD_ROWS * SHARD_ROWS
            for start in range(0, whole, SHARD_ROWS):
                self._write(self._photos[start : start + SHARD_ROWS])
            del self._photos[:whole]

    def finish(self) -> list[Shard]:
        """Write the remaining files, and return all shards."""
        if self._photos:
            self._write(sorted(self._photos))
        return self._shards

    def _write(self, photos: Sequence[Photo]) -> None:
        self._shards.append(write_shard(photo_table(photos), self._tree.shards))
