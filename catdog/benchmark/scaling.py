"""How seconds and memory grow with the number of photos, and what that says of numbers that nobody can try here.

What is measured: whole jobs on 1, 2, 4 and 8 parts of a number of photos, with a line fitted through them, and the
costs of single steps. What is computed from it: the time of each step on other numbers of photos and machines.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from catdog.benchmark.end_to_end import Programs, split_flags
from catdog.cluster.connection import connected, quiet_datasets
from catdog.photos.sources.inputs import list_inputs

Say = Callable[[str], None]
SCHEDULED_BLOCKS = 2000  # of no work, to see what each costs Ray Data's scheduler
_MAX_BLOCK_PHOTOS = 256  # as labelling.photos_per_part has it for many photos


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """The least-squares line seconds = start + photos * each, and R squared, how much of the variance it explains."""

    start: float
    each: float
    r_squared: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A whole job on a number of photos: seconds from command to end, greatest memory of its processes in bytes.

    `steps` are the seconds of its steps, as its own report has them.
    """

    photos: int
    seconds: float
    peak_bytes: int
    steps: dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitCosts:
    """What a predict job pays for one photo or block, in seconds, and what its driver holds of one photo, in bytes.

    Reading, decoding, model and commit are of one core and are shared out over the cluster; listing and scheduling
    are the driver's alone.
    """

    list_a_photo: float
    read_a_photo: float
    decode_a_photo: float
    model_a_photo: float
    commit_a_photo: float
    schedule_a_block: float
    driver_bytes_a_photo: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Projection:
    """A predict job that was computed, not run: seconds of each step, and the step that decides.

    Listing and committing come before and after; of the steps between them, which run at the same time, the longest
    counts.
    """

    photos: int
    nodes: int
    wait_a_read: float
    seconds: dict[str, float]
    total: float
    bottleneck: str
    driver_bytes: float


def fit_line(points: Sequence[tuple[float, float]]) -> Line:
    """Fit a line through (photos, seconds). Raises ValueError for less than two points."""
    if len(points) < 2:
        raise ValueError(f"expected two points or more, found {len(points)}")
    photos, seconds = np.array(points, np.float64).T
    each, start = np.polyfit(photos, seconds, 1)
    left = seconds - (start + each * photos)
    spread = float(np.sum((seconds - seconds.mean()) ** 2))
    return Line(start=float(start), each=float(each), r_squared=1 - float(np.sum(left**2)) / spread if spread else 1.0)


def project(photos: int, *, nodes: int, cores: int, costs: UnitCosts, wait_a_read: float = 0.0) -> Projection:
    """Compute a predict job on `nodes` machines of `cores` cores each.

    `wait_a_read` are the seconds that a core waits for each photo of a distant store, in which it does nothing else.
    """
    everywhere = nodes * cores
    seconds = {
        "listing": photos * costs.list_a_photo,
        "reading": photos * (costs.read_a_photo + wait_a_read) / everywhere,
        "decoding": photos * costs.decode_a_photo / everywhere,
        "model": photos * costs.model_a_photo / everywhere,
        "scheduler": -(-photos // _MAX_BLOCK_PHOTOS) * costs.schedule_a_block,
        "commit": photos * costs.commit_a_photo / everywhere,
    }
    cores_busy = seconds["reading"] + seconds["decoding"] + seconds["model"]
    total = seconds["listing"] + max(cores_busy, seconds["scheduler"]) + seconds["commit"]
    deciding = {**seconds, "scheduler": seconds["scheduler"] if seconds["scheduler"] > cores_busy else 0.0}
    return Projection(
        photos=photos,
        nodes=nodes,
        wait_a_read=wait_a_read,
        seconds={step: round(value, 3) for step, value in seconds.items()},
        total=round(total, 1),
        bottleneck=max(deciding, key=lambda step: deciding[step]),
        driver_bytes=photos * costs.driver_bytes_a_photo,
    )


def doubled(largest: int) -> list[int]:
    """Return an eighth, a quarter, a half and the whole of `largest`, none of them below 12."""
    return sorted({max(12, largest // part) for part in (8, 4, 2, 1)})


def grow_training(programs: Programs, photos: str, sizes: Sequence[int], *, keep: str, say: Say) -> list[Point]:
    """Run the default recipe on each number of photos, two thirds of them to train; leave the last run in `keep`."""
    points = []
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=programs.folder) as folder:
            multiply_photos(photos, f"{folder}/photos", size)
            run_dir = keep if size == sizes[-1] else f"{folder}/run"
            train = size // 3
            flags = split_flags(f"{folder}/photos", train=train, validation=train // 2)
            seen = programs.run("train", *flags, "--run-dir", run_dir)
            steps = json.loads(Path(run_dir, "report.json").read_text())["seconds"]
        steps.pop("total")
        points.append(Point(photos=size, seconds=round(seen.seconds, 1), peak_bytes=seen.peak_bytes, steps=steps))
        say(f"Train on {size} photos: {seen.seconds:.0f}s")
    return points


def grow_labelling(programs: Programs, photos: str, sizes: Sequence[int], *, model: str, say: Say) -> list[Point]:
    """Run the predict job on each number of files; beyond those of `photos` they are hard links to copies."""
    points = []
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=programs.folder) as folder:
            multiply_photos(photos, f"{folder}/photos", size, link=True)
            flags = ["--photos", f"{folder}/photos", "--model", model, "--out", f"{folder}/labels", "--no-report"]
            seen = programs.run("predict", *flags)
            steps = json.loads(Path(folder, "labels", "summary.json").read_text())["steps"]
        points.append(Point(photos=size, seconds=round(seen.seconds, 1), peak_bytes=seen.peak_bytes, steps=steps))
        say(f"Predict on {size} files: {seen.seconds:.0f}s")
    return points


def measure_listing(photos: str) -> tuple[float, float]:
    """Return seconds and the driver's bytes for each file of `photos` that a predict job lists."""
    start = time.monotonic()
    inputs = list_inputs(photos)
    return (time.monotonic() - start) / inputs.num_rows, inputs.nbytes / inputs.num_rows


def measure_scheduler(*, blocks: int = SCHEDULED_BLOCKS) -> float:
    """Return the seconds that Ray Data takes for a block of no work, in the cluster that this process is in."""
    import pyarrow as pa
    import ray

    with connected() as resources:
        quiet_datasets(verbose=False)
        cpus = resources.least_cpus / 4
        dataset = ray.data.from_arrow([pa.table({"part": [block]}) for block in range(blocks)])
        done = dataset.map_batches(lambda block: block, batch_size=None, batch_format="pyarrow", num_cpus=cpus)
        seen = [time.monotonic() for _ in done.iter_batches(batch_size=None, batch_format="pyarrow")]
    return (seen[-1] - seen[0]) / max(1, len(seen) - 1)


def multiply_photos(photos: str, folder: str, count: int, *, link: bool = False) -> None:
    """Fill `folder` with `count` photos in the class folders of `photos`, in turn from each, as often as it takes.

    A copy has a few bytes behind the picture, so that it is another file to the check for duplicates; with `link` the
    copies of a photo are one file under several names, which a predict job does not mind.
    """
    classes = [sorted(path for path in place.rglob("*") if path.is_file()) for place in _class_folders(photos)]
    for number, (files, round_) in enumerate(itertools.islice(_turns(classes), count)):
        source = files[round_ % len(files)]
        target = Path(folder, source.parent.name, f"{number:07d}{source.suffix}")
        target.parent.mkdir(parents=True, exist_ok=True)
        first = Path(folder, source.parent.name, f".{source.name}")
        if link and not first.exists():
            first.write_bytes(source.read_bytes())
        if link and first.stat().st_nlink < 60_000:  # what a file system allows, 65,000 at least
            os.link(first, target)
        else:
            target.write_bytes(source.read_bytes() + (b"" if round_ < len(files) else f"copy {number}".encode()))


def _class_folders(photos: str) -> list[Path]:
    found = sorted(path for path in Path(photos).iterdir() if path.is_dir())
    return [path for path in found if any(path.iterdir())]


def _turns(classes: list[list[Path]]) -> Iterator[tuple[list[Path], int]]:
    """Yield the classes in turn for ever, with the number of the turn."""
    for round_ in itertools.count():
        for files in classes:
            yield files, round_
