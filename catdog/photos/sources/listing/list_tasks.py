"""A list of many paths, read and sorted by Ray tasks into shards.

    ranges of its bytes --survey--> samples of the keys, the folder that all are in
                        --cut-----> for each range of keys those that are in it --gather--> shards

Equal keys meet in one range of keys, where they become one photo. All ranges depend on the list alone: who lists it
again finds the same shards.
"""

from __future__ import annotations

import bisect
import dataclasses
import heapq
import itertools
from collections.abc import Sequence

import pyarrow as pa

from catdog.cluster.actors import map_in_order
from catdog.errors import CatdogError, UsageError
from catdog.photos.sources.inputs import nothing_left, photo_table
from catdog.photos.sources.keys import below
from catdog.photos.sources.listing.lists import (
    LOOKED_AT,
    MARK,
    common_folder,
    hint,
    keys_of,
    names_of,
    photos_of,
    place_of,
    unreadable,
)
from catdog.photos.sources.listing.shards import SHARD_ROWS, Shard, write_shard
from catdog.photos.sources.opening import open_file

_LEAST_BYTES, _MOST_BYTES = 2**22, 2**26  # of a range: less is not worth a task, of more it would take 1 GB
_RANGES = 64  # of bytes, while these are not too long
_KEYS_PER_TASK = 8 * SHARD_ROWS
_MOST_TASKS = 256  # that gather: Ray keeps what each of them gets from each range with the driver where it is small
_KEYS_PER_SAMPLE = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lines:
    """Those lines of the list at `path` that begin in [start, stop) of its bytes."""

    path: str
    start: int
    stop: int

    def names(self) -> list[str]:
        """Return what they name. Raises UsageError for a list that cannot be read."""
        try:
            with open_file(self.path) as stream:
                if self.start:
                    stream.seek(self.start - 1)
                    stream.readline()  # ends here where a line begins at `start`
                content = stream.read(max(0, self.stop - stream.tell()))
                if content and not content.endswith(b"\n"):
                    content += stream.readline()
        except (OSError, CatdogError) as error:
            raise unreadable(self.path, error) from error
        return names_of(content if self.start else content.removeprefix(MARK))

    def keys(self) -> list[str]:
        """Return the keys of the photos that they name, each once, sorted."""
        return sorted(keys_of(self.names(), self.path))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survey:
    """What of some lines decides how all are listed."""

    count: int  # of keys
    first: str  # name
    lowest: list[str]  # keys
    sample: list[str]  # of keys, evenly
    ends: list[str]  # the places of two photos that are as different from each other as any


def survey_lines(lines: Lines, keys_per_sample: int) -> Survey | None:
    """Look over some lines; None where they name nothing."""
    names = lines.names()
    keys = sorted(keys_of(names, lines.path))
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
    """List the photos that the list at `path` names by Ray tasks, but for those below one of `exclude`, by path.

    As packed_tasks.list_many.
    """
    import ray

    ranges = _ranges(path)
    calls = ((lines, _KEYS_PER_SAMPLE) for lines in ranges)
    found = [survey for survey in map_in_order(survey_lines, calls, num_cpus=num_cpus) if survey]
    if not found:
        raise UsageError(f"expected a path a line in {path}, found none")
    hint(found[0].first, heapq.nsmallest(LOOKED_AT, {key for survey in found for key in survey.lowest}))
    common = common_folder(place for survey in found for place in survey.ends)
    cuts = _cuts(found)
    cut = ray.remote(num_cpus=num_cpus, num_returns=len(cuts) + 1)(cut_lines)
    pieces = [cut.remote(lines, cuts) for lines in ranges]
    pieces = pieces if cuts else [[piece] for piece in pieces]
    gathers = ((common, tuple(exclude), shards, *ofone) for ofone in zip(*pieces, strict=True))
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
    step = min(_MOST_BYTES, max(_LEAST_BYTES, -(-size // _RANGES)))
    return [Lines(path=path, start=start, stop=min(start + step, size)) for start in range(0, size, step)]


def _cuts(found: Sequence[Survey]) -> list[str]:
    """Return the keys at which ranges of about equally many begin, but for the first."""
    sample = sorted(key for survey in found for key in survey.sample)
    tasks = min(_MOST_TASKS, -(-sum(survey.count for survey in found) // _KEYS_PER_TASK))
    return sorted({sample[len(sample) * number // tasks] for number in range(1, tasks)})


def cut_lines(lines: Lines, cuts: Sequence[str]) -> list[pa.Array] | pa.Array:
    """Return the keys of some lines in the ranges that begin at `cuts`; without any, all of them."""
    keys = lines.keys()
    bounds = [0, *(bisect.bisect_left(keys, cut) for cut in cuts), len(keys)]
    pieces = [pa.array(keys[start:stop], pa.string()) for start, stop in itertools.pairwise(bounds)]
    return pieces if cuts else pieces[0]


def gather(common: str, exclude: Sequence[str], shards: str, *pieces: pa.Array) -> list[Shard]:
    """Write the photos of a range of keys, which are in the folder `common`, into shards."""
    left_out = below(exclude)
    keys = sorted({key for piece in pieces for key in piece.to_pylist() if not key.startswith(left_out)})
    return [
        write_shard(photo_table(photos_of(keys[start : start + SHARD_ROWS], common=common)), shards)
        for start in range(0, len(keys), SHARD_ROWS)
    ]
