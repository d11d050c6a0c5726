"""Parquet files and archives of many photos, listed by Ray tasks into shards.

    files --groups of consecutive files--> one task lists each group --> shards

The groups, and so the shards, depend only on the files. Listing them again gives the same shards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import pyarrow as pa

from catdog.cluster.actors import map_in_order
from catdog.photos.sources.containers.archives import forget_archives
from catdog.photos.sources.containers.packed import MorePackedError, MorePhotosError, Packed, photos_in
from catdog.photos.sources.inputs import list_table, nothing_left, photo_table
from catdog.photos.sources.keys import Photo, below
from catdog.photos.sources.listing.list_tasks import list_lines
from catdog.photos.sources.listing.lists import MoreLinesError
from catdog.photos.sources.listing.shards import SHARD_ROWS, Shard, write_shard
from catdog.photos.sources.listing.tree import Tree, list_tree
from catdog.photos.sources.opening import size_of

_BYTES_PER_TASK = 2**30
_BYTES_PER_FILE = 2**24  # added to the size of each: opening even a small one takes a while


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListedGroup:
    """What a task has listed: its shards in order, the number of photos in its files, and whether one is in a folder.

    The number of photos includes those that are left out of the shards.
    """

    shards: list[Shard]
    photos: int
    in_folders: bool


def list_many(more: MorePhotosError, *, exclude: Sequence[str] = (), shards: str = "", num_cpus: float) -> list[Shard]:
    """List the photos for which `list_inputs` raised `more`, by Ray tasks of `num_cpus` each.

    The shards are written into the folder `shards`, or nowhere if it is "". They are in the order in which photos are
    labelled. Raises what `list_inputs` raises.
    """
    if isinstance(more, MorePackedError):
        return list_packed(more.packed, exclude=exclude, shards=shards, num_cpus=num_cpus)
    if isinstance(more, MoreLinesError):
        return list_lines(str(more), exclude=exclude, shards=shards, num_cpus=num_cpus)
    return list_tree(Tree(path=str(more), exclude=tuple(exclude), shards=shards), num_cpus=num_cpus).shards


def list_packed(packed: Packed, *, exclude: Sequence[str] = (), shards: str = "", num_cpus: float) -> list[Shard]:
    """List the photos in Parquet files or archives as `list_many` does, except those below one of `exclude`."""
    around = packed.around is not False  # None: most archives have no folders in them; if some do, list again
    found = _list(packed, around=around, exclude=exclude, shards=shards, num_cpus=num_cpus)
    if around and packed.around is None and any(group.in_folders for group in found):
        found = _list(packed, around=False, exclude=exclude, shards=shards, num_cpus=num_cpus)
    packed.say_found(sum(group.photos for group in found))
    listed = [shard for group in found for shard in group.shards]
    if not listed:
        raise nothing_left(packed.source)
    return listed


def _list(packed: Packed, *, around: bool, exclude: Sequence[str], shards: str, num_cpus: float) -> list[ListedGroup]:
    groups = (dataclasses.replace(packed, files=files) for files in _groups(packed.files))
    calls = ((group, around, tuple(exclude), shards) for group in groups)
    return list(map_in_order(list_group, calls, num_cpus=num_cpus))


def _groups(files: Sequence[Photo]) -> Iterator[tuple[Photo, ...]]:
    """Cut `files` into groups that take about the same time to list."""
    group, cost = list[Photo](), 0
    for file in files:
        size = _BYTES_PER_FILE + size_of(file.version)
        if group and cost + size > _BYTES_PER_TASK:
            yield tuple(group)
            group, cost = [], 0
        group.append(file)
        cost += size
    yield tuple(group)


def list_group(packed: Packed, around: bool, exclude: Sequence[str], shards: str) -> ListedGroup:
    """List consecutive files into `shards`; with `around`, the name of an archive is a folder around its photos."""
    writer, photos, in_folders = _ShardWriter(shards), 0, False
    left_out = below(exclude)
    for file in packed.files:
        if packed.columns is not None:
            for rows in list_table(file, packed.columns):
                photos += rows.num_rows
                writer.add(rows)
            continue
        inside = photos_in(file.path, named=packed.named)
        forget_archives()  # otherwise a process would keep the last ones open
        photos += len(inside)
        in_folders = in_folders or any("/" in photo.relative for photo in inside)
        writer.add(
            photo_table([packed.place(one, file, around=around) for one in inside if not one.path.startswith(left_out)])
        )
    return ListedGroup(shards=writer.finish(), photos=photos, in_folders=in_folders)


class _ShardWriter:
    """Cuts rows into shards as they arrive, in their order."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._shards: list[Shard] = []

    def add(self, rows: pa.Table) -> None:
        """Add rows, and write each shard that is full."""
        self._waiting.append(rows)
        self._rows += rows.num_rows
        while self._rows >= SHARD_ROWS:
            self._write(SHARD_ROWS)

    def finish(self) -> list[Shard]:
        """Write the remaining rows, and return all shards."""
        if self._rows:
            self._write(self._rows)
        return self._shards

    def _write(self, rows: int) -> None:
        table = pa.concat_tables(self._waiting)
        self._shards.append(write_shard(table.slice(0, rows), self._folder))
        self._waiting = [table.slice(rows)]
        self._rows -= rows
