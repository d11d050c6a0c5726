"""Matches committed rows with their photos as these are listed now, piece by piece.

Both are in the same order, unless an earlier version of catdog committed a large folder in a different one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from catdog.cluster.actors import Map
from catdog.photos.sources.listing.shards import Shard, read_all
from catdog.prediction.results.commit import read_inputs, read_result_manifest
from catdog.storage import files
from catdog.storage.tables import read_parquet

Piece = TypeVar("Piece", bound="HasRows")


class HasRows(Protocol):
    """A piece of a sequence of rows."""

    @property
    def rows(self) -> int:
        """The number of its rows."""


def spans(lengths: Sequence[int], pieces: Sequence[Piece]) -> list[tuple[tuple[Piece, int, int], ...]]:
    """Cut the concatenated rows of `pieces` into `lengths`, and return ranges [start, stop) of pieces for each length.

    If the pieces have fewer rows, the ranges end early.
    """
    found, place, first, begin = list[tuple[tuple[Piece, int, int], ...]](), 0, 0, 0
    for length in lengths:
        start, stop, ranges = begin, begin + length, list[tuple[Piece, int, int]]()
        while start < stop and place < len(pieces):
            last = first + pieces[place].rows  # `first` is the number of the first row of the piece at `place`
            end = min(stop, last)
            if start < end:
                ranges.append((pieces[place], start - first, end - first))
            if end == last:
                place, first = place + 1, last
            start = end
        found.append(tuple(ranges))
        begin = stop
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Photos:
    """A sequence of photos: ranges [start, stop) of shards."""

    ranges: tuple[tuple[Shard, int, int], ...]

    def read(self) -> pa.Table:
        """Return the photos, with the schema inputs.INPUTS."""
        return pa.concat_tables([shard.read().slice(start, stop - start) for shard, start, stop in self.ranges])


def match(lengths: Sequence[int], shards: Sequence[Shard]) -> list[Photos]:
    """Return the photos of consecutive pieces of the rows with these `lengths`, in the order of `shards`."""
    return [Photos(ranges=ranges) for ranges in spans(lengths, shards)]


# Photos that changed


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordedPhotos:
    """The file that records the photos of some of the rows, and their versions at that time."""

    path: str
    rows: int

    def read(self) -> pa.Table:
        """Return the path and version of each photo."""
        return read_parquet(self.path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Changes:
    """How many photos have changed since they were labelled, and the first of them by path."""

    count: int = 0
    first: str = ""

    def __add__(self, other: Changes) -> Changes:
        """Return the changes of both sets of photos."""
        firsts = [one.first for one in (self, other) if one.count]
        return Changes(count=self.count + other.count, first=min(firsts, default=""))


def recorded_photos(out: str) -> list[RecordedPhotos]:
    """Return the files that record the photos of the committed rows of `out`; none if that is unknown."""
    manifest = read_result_manifest(out)
    entries = [entry for entry in (*manifest["files"], manifest) if "inputs" in entry]
    total = sum(entry["rows"] for entry in manifest["files"])
    return [
        RecordedPhotos(
            path=files.join(out, "predictions", entry["inputs"]["name"]),
            rows=total if entry is manifest else entry["rows"],
        )
        for entry in entries
    ]


def find_changes(out: str, shards: Sequence[Shard], mapped: Map) -> Changes:
    """Return which photos of `shards` have another version than when they were labelled; `mapped` compares them.

    A folder of an earlier version of catdog may record no versions. Then no changes are known.
    """
    recorded, total = recorded_photos(out), Changes()
    if not recorded:
        return total
    if sum(one.rows for one in recorded) != sum(shard.rows for shard in shards):
        return _changes_in_any_order(out, shards)
    pieces = zip(recorded, match([one.rows for one in recorded], shards), strict=True)
    for found in mapped(changes_of, pieces):
        if found is None:
            return _changes_in_any_order(out, shards)
        total += found
    return total


def changes_of(recorded: RecordedPhotos, photos: Photos) -> Changes | None:
    """Return the changes among `photos`, or None if they are not in the order of `recorded`."""
    before, now = recorded.read(), photos.read()
    if not before["path"].equals(now["path"]):
        return None
    return _changes(now["path"], before["version"], now["version"])


def _changes(paths: pa.ChunkedArray, before: pa.ChunkedArray, now: pa.ChunkedArray) -> Changes:
    changed = paths.filter(pc.not_equal(before, now))
    return Changes(count=len(changed), first=pc.min(changed).as_py() or "")


def _changes_in_any_order(out: str, shards: Sequence[Shard]) -> Changes:
    """Return the changes as `find_changes` does, but join all photos by path in this process."""
    known = pa.concat_tables(read_inputs(out)).rename_columns(["path", "before"])
    both = read_all(shards).select(["path", "version"]).join(known, "path", join_type="inner")
    return _changes(both["path"], both["before"], both["version"])
