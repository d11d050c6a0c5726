"""A list of many paths, read and sorted by Ray tasks into shards.

    pieces of the list --survey--> samples of the keys, their common folder
                       --cut-----> the keys of each key range --gather--> shards

A piece is a byte range of a .txt file. A table, whose rows may contain line breaks, is read by one task, which cuts its
column of paths into pieces. Equal keys fall into the same key range, where they become one photo. All pieces and ranges
depend only on the list, so listing it again gives the same shards.
"""

from __future__ import annotations

import bisect
import dataclasses
import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from catdog.cluster.actors import map_in_order
from catdog.errors import CatdogError, UsageError
from catdog.photos.sources.inputs import nothing_left, photo_table
from catdog.photos.sources.keys import below
from catdog.photos.sources.listing.lists import (
    LOOKED_AT,
    MARK,
    column_names,
    common_folder,
    hint,
    is_table,
    keys_of,
    names_of,
    photos_of,
    place_of,
    unreadable,
)
from catdog.photos.sources.listing.shards import SHARD_ROWS, Shard, write_shard
from catdog.photos.sources.opening import open_file

_MIN_BYTES, _MAX_BYTES = 2**22, 2**26  # of a byte range: less is not worth a task, more would take 1 GB of memory
_RANGES = 64  # byte ranges, unless that makes them shorter or longer than these bounds
_KEYS_PER_TASK = 8 * SHARD_ROWS
_MAX_TASKS = 256  # gather tasks: for each, Ray keeps the pieces of all byte ranges in the driver if they are small
_KEYS_PER_SAMPLE = 1000
_NAMES_PER_PIECE = 2**18  # of a table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lines:
    """The lines of the list at `path` that begin in the byte range [start, stop)."""

    path: str
    start: int
    stop: int

    def names(self) -> list[str]:
        """Return the names in the lines; raises UsageError for a list that cannot be read."""
        try:
            with open_file(self.path) as stream:
                if self.start:
                    stream.seek(self.start - 1)
                    stream.readline()  # reads only a newline if a line begins at `start`
                content = stream.read(max(0, self.stop - stream.tell()))
                if content and not content.endswith(b"\n"):
                    content += stream.readline()
        except (OSError, CatdogError) as error:
            raise unreadable(self.path, error) from error
        return names_of(content if self.start else content.removeprefix(MARK))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survey:
    """The survey of a piece; all surveys together decide how the list is listed."""

    count: int  # of keys
    first: str  # the first name
    lowest: list[str]  # the lowest keys
    sample: list[str]  # evenly spaced keys
    ends: list[str]  # the lowest and highest place, whose common folder is that of all


def _names(piece: Lines | pa.Array) -> list[str]:
    """Return the names in a piece of a list; those of a table are in an array."""
    names: list[str] = piece.names() if isinstance(piece, Lines) else piece.to_pylist()
    return names


def survey_piece(piece: Lines | pa.Array, path: str, keys_per_sample: int) -> Survey | None:
    """Survey a piece of the list at `path`; returns None if it names nothing."""
    names = _names(piece)
    keys = sorted(keys_of(names, path))
    if not keys:
        return None
    places = [place_of(key) for key in keys]
    return Survey(
        count=len(keys),
        first=names[0],
        lowest=keys[:LOOKED_AT],
        sample=keys[::keys_per_sample],
        ends=[min(places), max(places)],
    )


def list_lines(path: str, *, exclude: Sequence[str] = (), shards: str = "", num_cpus: float) -> list[Shard]:
    """List by Ray tasks the photos that the list at `path` names, sorted by path, except those below one of `exclude`.

    The other arguments and the errors are those of packed_tasks.list_many.
    """
    import ray

    pieces_of_list = _table_pieces(path, num_cpus=num_cpus) if is_table(path) else _ranges(path)
    calls = ((piece, path, _KEYS_PER_SAMPLE) for piece in pieces_of_list)
    found = [survey for survey in map_in_order(survey_piece, calls, num_cpus=num_cpus) if survey]
    if not found:
        raise UsageError(f"expected one path per line in {path}, found none")
    hint(found[0].first, heapq.nsmallest(LOOKED_AT, {key for survey in found for key in survey.lowest}))
    common = common_folder(place for survey in found for place in survey.ends)
    cuts = _cuts(found)
    cut = ray.remote(num_cpus=num_cpus, num_returns=len(cuts) + 1)(cut_piece)
    keys = [cut.remote(piece, path, cuts) for piece in pieces_of_list]
    keys = keys if cuts else [[one] for one in keys]
    gathers = ((common, tuple(exclude), shards, *ofone) for ofone in zip(*keys, strict=True))
    listed = list(itertools.chain(*map_in_order(gather, gathers, num_cpus=num_cpus)))
    if not listed:
        raise nothing_left(path)
    return listed


def _ranges(path: str) -> list[Lines]:
    try:
        with open_file(path) as stream:
            size = stream.seek(0, 2)
    except (OSError, CatdogError) as error:
        raise unreadable(path, error) from error
    step = min(_MAX_BYTES, max(_MIN_BYTES, -(-size // _RANGES)))
    return [Lines(path=path, start=start, stop=min(start + step, size)) for start in range(0, size, step)]


def _table_pieces(path: str, *, num_cpus: float) -> list[Any]:
    """Return references to the pieces of the table at `path`; an error in it is that of the last one."""
    import ray

    task = ray.remote(num_cpus=num_cpus, num_returns="streaming")(read_table)
    return list(task.remote(path, _NAMES_PER_PIECE))


def read_table(path: str, names_per_piece: int) -> Iterator[pa.Array]:
    """Yield the column of paths of the table at `path`, piece by piece."""
    names = column_names(path)
    while piece := list(itertools.islice(names, names_per_piece)):
        yield pa.array(piece, pa.string())


def _cuts(found: Sequence[Survey]) -> list[str]:
    """Return the keys at which key ranges of about equal size begin, except for the first range."""
    sample = sorted(key for survey in found for key in survey.sample)
    tasks = min(_MAX_TASKS, -(-sum(survey.count for survey in found) // _KEYS_PER_TASK))
    return sorted({sample[len(sample) * number // tasks] for number in range(1, tasks)})


def cut_piece(piece: Lines | pa.Array, path: str, cuts: Sequence[str]) -> list[pa.Array] | pa.Array:
    """Return the keys in a piece, cut at `cuts` into an array per key range; without cuts, one array of all keys."""
    keys = sorted(keys_of(_names(piece), path))
    bounds = [0, *(bisect.bisect_left(keys, cut) for cut in cuts), len(keys)]
    pieces = [pa.array(keys[start:stop], pa.string()) for start, stop in itertools.pairwise(bounds)]
    return pieces if cuts else pieces[0]


def gather(common: str, exclude: Sequence[str], shards: str, *pieces: pa.Array) -> list[Shard]:
    """Write the photos of a key range, all in the folder `common`, into shards."""
    left_out = below(exclude)
    keys = sorted({key for piece in pieces for key in piece.to_pylist() if not key.startswith(left_out)})
    return [
        write_shard(photo_table(photos_of(keys[start : start + SHARD_ROWS], common=common)), shards)
        for start in range(0, len(keys), SHARD_ROWS)
    ]
