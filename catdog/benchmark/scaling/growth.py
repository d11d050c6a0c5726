"""How seconds and memory grow with the number of photos, and projections for numbers too large to run.

Measured: whole jobs on an eighth, a quarter, a half and all of a number of photos, with a line fitted through them, and
the costs of single steps. Computed from these: the time of each step for other numbers of photos and machines.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from catdog.benchmark.bench import Bench, multiply_photos, split_flags
from catdog.benchmark.microbenchmarks import TrunkRates, measure_trunk
from catdog.benchmark.scaling.free_job import seconds_a_call
from catdog.cluster.connection import connected
from catdog.cluster.plan import ACTOR_CORES
from catdog.console import duration, say, table_text
from catdog.photos.sources.inputs import list_inputs
from catdog.photos.sources.listing.shards import SHARD_ROWS, SetDigest, Shard, cut_into_shards
from catdog.prediction.labelling.driver import CALLS
from catdog.prediction.labelling.stretches import MAX_PHOTOS, survey
from catdog.storage.files import CONNECTIONS

_PROJECTED = (  # photos, machines
    (1_000_000, 1), (1_000_000, 16), (100_000_000, 16), (100_000_000, 256), (10_000_000_000, 1024),
)  # fmt: skip
_PROJECTED_CORES = 16
_STORE_WAIT_SECONDS = 0.03  # latency of a read from an object store: assumed, not measured
_PLANNED_SHARDS = 200  # enough to measure what the driver holds per shard


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
    """The least-squares line seconds = start + photos * each, and R squared, the share of variance that it explains."""

    start: float
    each: float
    r_squared: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A whole job on a number of photos: seconds from command to end, and peak memory of its processes in bytes.

    `steps` has the seconds of its steps, taken from the job's own report.
    """

    photos: int
    seconds: float
    peak_bytes: int
    steps: dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitCosts:
    """Costs of a predict job: seconds for one photo or one call, and bytes that its driver holds for one shard.

    The costs of a photo are seconds of one core, and all cores of the cluster share them. The driver alone schedules.
    """

    list_a_photo: float
    read_a_photo: float
    decode_a_photo: float
    model_a_photo: float
    commit_a_photo: float
    schedule_a_call: float
    driver_bytes_a_shard: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Projection:
    """A predict job that was computed, not run: the seconds of each step, the total, and the bottleneck.

    The steps between listing and commit run at the same time, so only the longest counts in the total. Reading,
    decoding and the model share the cores and count as one step.
    """

    photos: int
    nodes: int
    wait_a_read: float
    seconds: dict[str, float]
    total: float
    bottleneck: str
    driver_bytes: float


def measure_growth(bench: Bench) -> dict[str, Any]:
    """Run train and predict jobs on more and more photos, fit lines, and project jobs that are too large to run."""
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
    """Project predict jobs that are too large for this machine."""
    rates = TrunkRates(**(bench.results.get("trunk") or measure_trunk(bench)))
    listing = measure_listing(bench.many_photos())
    with connected():
        call = seconds_a_call()
    costs = unit_costs(rates, largest, list_a_photo=listing, driver_bytes=measure_plan(), call=call)
    projections = [
        project(photos, nodes=nodes, cores=_PROJECTED_CORES, costs=costs, wait_a_read=wait)
        for wait in (0.0, _STORE_WAIT_SECONDS)
        for photos, nodes in _PROJECTED
    ]
    header = ("photos", "machines", "store", *projections[0].seconds, "total", "bottleneck", "driver memory")
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
    """Fit a line through (photos, seconds). Raises ValueError for fewer than two points."""
    from scipy.stats import linregress

    if len(points) < 2:
        raise ValueError(f"expected two points or more, found {len(points)}")
    found = linregress(*np.array(points, np.float64).T)
    return Line(start=float(found.intercept), each=float(found.slope), r_squared=float(found.rvalue**2))


def project(photos: int, *, nodes: int, cores: int, costs: UnitCosts, wait_a_read: float = 0.0) -> Projection:
    """Compute the times of a predict job on `nodes` machines of `cores` cores each.

    `wait_a_read` is the latency of a distant store in seconds. A process waits for many photos at the same time, and
    its cores work meanwhile.
    """
    everywhere, shards = nodes * cores, -(-photos // SHARD_ROWS)
    # For each shard, one task lists it and one finds what is left to do. For each stretch, one call labels it.
    calls = 2 * shards + -(-photos // MAX_PHOTOS)
    seconds = {
        "listing": photos * costs.list_a_photo / everywhere,
        "reading": photos * costs.read_a_photo / everywhere,
        "decoding": photos * costs.decode_a_photo / everywhere,
        "model": photos * costs.model_a_photo / everywhere,
        "waiting": photos * wait_a_read / (everywhere / ACTOR_CORES * CALLS * CONNECTIONS),
        "scheduler": calls * costs.schedule_a_call,
        "commit": photos * costs.commit_a_photo / everywhere,
    }
    cores_busy = seconds["reading"] + seconds["decoding"] + seconds["model"]
    slowest = max(cores_busy, seconds["waiting"], seconds["scheduler"])
    hidden = [step for step in ("waiting", "scheduler") if seconds[step] < slowest]
    deciding = {step: value for step, value in seconds.items() if step not in hidden}
    return Projection(
        photos=photos,
        nodes=nodes,
        wait_a_read=wait_a_read,
        seconds={step: round(value, 3) for step, value in seconds.items()},
        total=round(seconds["listing"] + slowest + seconds["commit"], 1),
        bottleneck=max(deciding, key=lambda step: deciding[step]),
        driver_bytes=shards * costs.driver_bytes_a_shard,
    )


def doubled(largest: int) -> list[int]:
    """Return an eighth, a quarter, a half and the whole of `largest`, none of them below 12."""
    return sorted({max(12, largest // part) for part in (8, 4, 2, 1)})


def grow_training(bench: Bench, sizes: Sequence[int], *, keep: str) -> list[Point]:
    """Train the default recipe on each number of photos, two thirds of them to train; keep the last run in `keep`."""
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
    """Run the predict job on each number of files, which are hard links to copies of the photos."""
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


def measure_listing(photos: str) -> float:
    """Return the seconds of one core that a predict job needs to list one file of `photos`."""
    start = time.monotonic()
    inputs = list_inputs(photos)
    cut_into_shards(inputs)
    return (time.monotonic() - start) / int(inputs.num_rows)


def measure_plan() -> float:
    """Return the bytes that a driver holds for one shard whose rows are in a file, and for the calls that label it."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    shards = [
        Shard(
            first=f"/photos/{number:012d}.jpg", digest=SetDigest(files=SHARD_ROWS), path=f"/out/{number:012d}.parquet"
        )
        for number in range(_PLANNED_SHARDS)
    ]
    held = [survey("/nowhere", shard, photos_per_part=256, photos_per_stretch=MAX_PHOTOS) for shard in shards]
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / len(held)


def unit_costs(
    rates: TrunkRates, largest: Point, *, list_a_photo: float, driver_bytes: float, call: float
) -> UnitCosts:
    """Return the costs of a photo and a call in seconds of one core, from rates of all cores of this machine."""
    cores = len(os.sched_getaffinity(0))
    return UnitCosts(
        list_a_photo=list_a_photo,
        read_a_photo=cores / rates.read_alone,
        decode_a_photo=cores / rates.decode_alone,
        model_a_photo=cores / rates.model_alone,
        commit_a_photo=cores * largest.steps["commit"] / largest.photos,
        schedule_a_call=call,
        driver_bytes_a_shard=driver_bytes,
    )


def _costs_text(costs: UnitCosts) -> str:
    found = dataclasses.asdict(costs)
    held = found.pop("driver_bytes_a_shard")
    return ", ".join(f"{name.replace('_', ' ')} {1000 * value:.3f}ms" for name, value in found.items()) + (
        f", driver {held:.0f} bytes for each {SHARD_ROWS:,} photos"
    )
