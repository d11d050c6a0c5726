"""A stretch is the work of one call to a model actor: a range of a shard, up to thousands of photos long."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from catdog.photos.sources.listing.shards import Shard
from catdog.prediction.results.parts import Part, finished_parts, plan_parts

MAX_PHOTOS = 4096  # about 250 calls for a million photos: each takes Ray's scheduler milliseconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stretch:
    """The missing parts of `shard` that begin in rows [start, stop); they have `rows` photos in total.

    `tries` counts how often a process that worked on them was lost.
    """

    shard: Shard
    start: int
    stop: int
    rows: int
    photos_per_part: int
    tries: int = 0

    @property
    def name(self) -> str:
        """The name of the stretch on the message board."""
        return f"rows of {self.shard.name} from {self.start}"

    def again(self) -> Sequence[Stretch]:
        """Return a stretch for each of its parts, so that a failure of the next attempt loses little."""
        starts = range(self.start, self.stop, self.photos_per_part)
        ends = [min(start + self.photos_per_part, self.stop) for start in starts]
        return [
            dataclasses.replace(self, start=start, stop=stop, rows=stop - start, tries=self.tries + 1)
            for start, stop in zip(starts, ends, strict=True)
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survey:
    """What is left to do of a shard: the number of photos already labelled, and the stretches of the others."""

    done: int
    stretches: tuple[Stretch, ...]


def survey(out: str, shard: Shard, *, photos_per_part: int, photos_per_stretch: int) -> Survey:
    """Check which parts of `shard` exist below `out`, and group the missing ones into stretches."""
    present = finished_parts(out, shard.name)
    if present:
        parts = plan_parts(shard.read(), shard=shard.name, photos_per_part=photos_per_part)
        missing = [part for part in parts if part.name not in present]
    else:  # nothing is labelled yet, so the rows need not be read
        starts = range(0, shard.rows, photos_per_part)
        missing = [Part(name="", start=start, stop=min(start + photos_per_part, shard.rows)) for start in starts]
    runs: list[list[Part]] = []
    for part in missing:
        if not runs or sum(one.rows for one in runs[-1]) + part.rows > photos_per_stretch:
            runs.append([])
        runs[-1].append(part)
    return Survey(
        done=shard.rows - sum(part.rows for part in missing),
        stretches=tuple(
            Stretch(
                shard=shard,
                start=run[0].start,
                stop=run[-1].stop,
                rows=sum(part.rows for part in run),
                photos_per_part=photos_per_part,
            )
            for run in runs
        ),
    )


def photos_per_stretch(photos: int, *, actors: int, photos_per_part: int) -> int:
    """Return the length of a stretch: whole parts, about eight stretches for each actor if there are few photos."""
    share = min(MAX_PHOTOS, photos // (8 * actors))
    return max(1, share // photos_per_part) * photos_per_part
