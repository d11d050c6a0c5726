"""Jobs on millions of photos that cost nothing: what listing, scheduling, writing, verification and ingest cost alone.

The photos are hard links to a few small files. The model answers without computation, and nothing is decoded.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from catdog.benchmark.bench import Bench
from catdog.benchmark.process_monitor import watch_program
from catdog.console import duration, say, table_text

_FOLDER_PHOTOS = 10_000
_MAX_LINKS = 60_000  # to one file; file systems allow at least 65,000
_MEMORY = "/dev/shm"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepCost:
    """A step: its seconds, the calls that the driver submitted to Ray in it, and the driver's peak memory so far."""

    step: str
    seconds: float
    calls: int
    driver_bytes: int


def measure_scale(bench: Bench) -> dict[str, Any]:
    """Run an ingest and a predict job on `scale_to` photos, each in its own process; print the costs of their steps."""
    photos = bench.config.scale_to
    with _many_links(photos, folder=bench.folder) as folder:
        program = [sys.executable, "-m", "catdog.benchmark.scaling.free_ingest", folder, f"{bench.folder}/run"]
        trained = watch_program(program, verbose=bench.config.verbose)
        # This program comes second, because it ends by moving the photos.
        program = [sys.executable, "-m", "catdog.benchmark.scaling.free_job", folder, f"{bench.folder}/free"]
        seen = watch_program(program, verbose=bench.config.verbose)
    found, ingested = json.loads(seen.lines[-1][1]), json.loads(trained.lines[-1][1])
    steps = _say_steps(found, photos)
    calls, each = sum(one.calls for one in steps), found["seconds_a_call"]
    label = next(one for one in steps if one.step == "label")
    say(
        f"{photos:,} photos: {calls} calls, {1000 * each:.1f}ms of driver time each: {calls * each:.2f}s, "
        f"{label.calls * each / label.seconds:.2%} of labelling; whole program {duration(seen.seconds)}, "
        f"all processes {seen.peak_bytes / 2**30:.2f} GiB."
    )
    before, *others = _say_steps(ingested, photos)
    held = (others[-1].driver_bytes - before.driver_bytes) / photos
    say(f"Ingest: {held:.0f} bytes of driver memory for each photo, above its memory at the start.")
    totals = {"seconds": seen.seconds, "peak_bytes": seen.peak_bytes}
    return {"photos": photos, **found, **totals, "ingest": ingested, "ingest_driver_bytes_a_photo": held}


def _say_steps(found: dict[str, Any], photos: int) -> list[StepCost]:
    """Print a table of the steps that a program reported, and return them."""
    steps = [StepCost(**one) for one in found["steps"]]
    rows = [
        (one.step, f"{one.seconds:.1f}", str(one.calls), f"{one.driver_bytes / 2**20:.0f} MiB", _rate(photos, one))
        for one in steps
    ]
    say(table_text([("step", "seconds", "Ray calls", "driver's peak", "photos/s"), *rows]))
    return steps


def _rate(photos: int, one: StepCost) -> str:
    return f"{photos / one.seconds:,.0f}" if one.step != "start" else ""


@contextmanager
def _many_links(photos: int, *, folder: str) -> Iterator[str]:
    """Yield a folder of `photos` hard links to small files, 10,000 in each subfolder, in memory if they fit there."""
    fits = Path(_MEMORY).is_dir() and os.statvfs(_MEMORY).f_favail > 1.1 * photos
    with tempfile.TemporaryDirectory(prefix="catdog-scale-", dir=_MEMORY if fits else folder) as place:
        make_links(Path(place), photos)
        yield f"{place}/photos"


def make_links(place: Path, photos: int) -> None:
    """Fill `place`/photos with `photos` links, in subfolders of cats and dogs in turn."""
    source = place / "source"
    for number in range(photos):
        if number % _MAX_LINKS == 0:
            source = place / f"source-{number // _MAX_LINKS}"
            source.write_bytes(b"\xff\xd8 photo \xff\xd9")
        if number % _FOLDER_PHOTOS == 0:
            folder = number // _FOLDER_PHOTOS
            target = place / "photos" / ("cat", "dog")[folder % 2] / f"{folder:05d}"
            target.mkdir(parents=True)
        os.link(source, f"{target}/{number:08d}.jpg")
