"""How seconds and memory grow with the number of photos, and what follows for numbers too large to try.

What is measured: whole jobs on 1, 2, 4 and 8 parts of a number of photos, with a line fitted through them, and the
costs of single steps. What is computed from it: the time of each step on other numbers of photos and machines.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from catdog.benchmark.bench import Bench, multiply_photos, split_flags
from catdog.benchmark.microbenchmarks import TrunkRates, measure_trunk
from catdog.cluster.connection import connected
from catdog.cluster.environment import quiet_datasets
from catdog.console import duration, say, table_text
from catdog.photos.sources.inputs import list_inputs

SCHEDULED_BLOCKS = 2000  # of no work, to see what each costs Ray Data's scheduler
_PROJECTED = ((1_000_000, 1), (1_000_000, 16), (100_000_000, 16), (100_000_000, 256))  # photos, machines
_PROJECTED_CORES = 16
_STORE_WAIT_SECONDS = 0.03  # of a read from an object store: assumed, not measured
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


def measure_growth(bench: Bench) -> dict[str, Any]:
    """Run train and predict jobs on more and more photos, fit lines, and compute what cannot be run."""
    config, keep = bench.config, f"{bench.folder}/grown"
    trained = grow_training(bench, doubled(config.grow_to), keep=keep)
    bench.model_dir = bench.model_dir or f"{keep}/model"
    sizes = [*doubled(config.grow_to), *([config.label_to] if config.label_to > config.grow_to else [])]
    labelled = grow_labelling(bench, sizes)
    found: dict[str, Any] = {}
    for job, points in (("train", trained), ("predict", labelled)):
        line = fit_line([(point.photos, point.seconds) for point in points])
        say(table_text([("photos", "seconds", "peak memory"), *map(_point_row, points)]))
        say(f"{job}: {line.start:.0f}s and {1000 * line.each:.2f}ms per photo (R2 {line.r_squared:.4f})")
        found[job] = {"points": [dataclasses.asdict(point) for point in points], "line": dataclasses.asdict(line)}
    return {**found, **_project_all(bench, labelled[-1])}


def _project_all(bench: Bench, largest: Point) -> dict[str, Any]:
    """Compute predict jobs that are too large for this machine."""
    rates = TrunkRates(**(bench.results.get("trunk") or measure_trunk(bench)))
    listing, held = measure_listing(bench.many_photos())
    block = measure_scheduler(blocks=min(SCHEDULED_BLOCKS, largest.photos))
    costs = unit_costs(rates, largest, list_a_photo=listing, driver_bytes=held, block=block)
    projections = [
        project(photos, nodes=nodes, cores=_PROJECTED_CORES, costs=costs, wait_a_read=wait)
        for wait in (0.0, _STORE_WAIT_SECONDS)
        for photos, nodes in _PROJECTED
    ]
    header = ("photos", "machines", "store", *projections[0].seconds, "total", "decided by", "driver holds")
    say(table_text([header, *map(_projection_row, projections)]))
    say(f"Computed for machines of {_PROJECTED_CORES} such cores from: {_costs_text(costs)}.")
    say(f"A distant store is assumed to answer after {1000 * _STORE_WAIT_SECONDS:.0f}ms.")
    return {"costs": dataclasses.asdict(costs), "projections": [dataclasses.asdict(one) for one in projections]}


def _projection_row(one: Projection) -> tuple[str, ...]:
    place = "distant" if one.wait_a_read else "disk"
    steps = (duration(seconds) for seconds in one.seconds.values())
    held = f"{one.driver_bytes / 2**30:.2f} GiB"
    return (str(one.photos), str(one.nodes), place, *steps, duration(one.total), one.bottleneck, held)


def _point_row(point: Point) -> tuple[str, ...]:
    return str(point.photos), f"{point.seconds:.0f}", f"{point.peak_bytes / 2**30:.2f} GiB"


def fit_line(points: Sequence[tuple[float, float]]) -> Line:
    """Fit a line through (photos, seconds). Raises ValueError for less than two points."""
    from scipy.stats import linregress

    if len(points) < 2:
        raise ValueError(f"expected two points or more, found {len(points)}")
    found = linregress(*np.array(points, np.float64).T)
    return Line(start=float(found.intercept), each=float(found.slope), r_squared=float(found.rvalue**2))


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


def grow_training(bench: Bench, sizes: Sequence[int], *, keep: str) -> list[Point]:
    """Run the default recipe on each number of photos, two thirds of them to train; leave the last run in `keep`."""
    points = []
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
            multiply_photos(bench.photos, f"{folder}/photos", size)
            run_dir = keep if size == sizes[-1] else f"{folder}/run"
            train = size // 3
            flags = split_flags(f"{folder}/photos", train=train, validation=train // 2)
            seen = bench.programs.run("train", *flags, "--run-dir", run_dir)
            steps = json.loads(Path(run_dir, "report.json").read_text())["seconds"]
        steps.pop("total")
        points.append(Point(photos=size, seconds=round(seen.seconds, 1), peak_bytes=seen.peak_bytes, steps=steps))
        say(f"Train on {size} photos: {seen.seconds:.0f}s")
    return points


def grow_labelling(bench: Bench, sizes: Sequence[int]) -> list[Point]:
    """Run the predict job on each number of files; beyond those of `photos` they are hard links to copies."""
    points = []
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
            multiply_photos(bench.photos, f"{folder}/photos", size, link=True)
            flags = ["--photos", f"{folder}/photos", "--model", bench.model_dir, "--out", f"{folder}/labels"]
            seen = bench.programs.run("predict", *flags, "--no-report")
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


def unit_costs(
    rates: TrunkRates, largest: Point, *, list_a_photo: float, driver_bytes: float, block: float
) -> UnitCosts:
    """Return what a photo and a block cost, of the seconds of one core, from rates of all cores of this machine."""
    cores = len(os.sched_getaffinity(0))
    return UnitCosts(
        list_a_photo=list_a_photo,
        read_a_photo=cores / rates.read_alone,
        decode_a_photo=cores / rates.decode_alone,
        model_a_photo=cores / rates.model_alone,
        commit_a_photo=cores * largest.steps["commit"] / largest.photos,
        schedule_a_block=block,
        driver_bytes_a_photo=driver_bytes,
    )


def _costs_text(costs: UnitCosts) -> str:
    found = dataclasses.asdict(costs)
    held = found.pop("driver_bytes_a_photo")
    return ", ".join(f"{name.replace('_', ' ')} {1000 * value:.3f}ms" for name, value in found.items()) + (
        f", driver {held:.0f} bytes a photo"
    )
