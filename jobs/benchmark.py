"""Measure this machine: `python jobs/benchmark.py --photos PHOTOS --model runs/pets/model`.

`--measure` chooses what: the predict job, the trunk pass, a sweep's trials, or what every start costs.

The predict job stands beside a single program that a careful person would write without Ray: threads decode, one loop
calls the same model in batches, the rows go to one Parquet file. Both run as processes of their own, on the same
photos, one after the other, and are watched from outside.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from catdog import artifacts
from catdog.cluster import prepare_environment
from catdog.config import knob, parse_arguments
from catdog.console import duration, table_text
from catdog.errors import UsageError
from catdog.measures import measure_overheads, measure_trials, measure_trunk, recipe_flags
from catdog.versions import versions


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What is measured, and on what."""

    photos: str = knob("", "folder of photos, in class folders where they are trained on")
    model: str = knob("", "model directory, as a train job leaves it; predict alone needs it")
    measure: str = knob("predict", "what is measured", choices=("predict", "trunk", "tune", "overheads"))
    photos_a_class: int = knob(1000, "photos of each class that trunk and tune take, as far as they reach", low=2)
    trials: int = knob(17, "trials of the sweep", low=2, high=10_000)
    out: str = knob("benchmark.json", "where the figures go")
    repeats: int = knob(3, "runs of each program; the median counts", low=1, high=100)
    yardstick: str = knob("", "used by the benchmark itself: be the single program, and write rows to this file")
    verbose: bool = knob(False, "show what the programs have to say")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched:
    """One program, seen from outside. Seconds from its start; bytes of its whole process tree."""

    seconds: float
    first_row_seconds: float
    warm_photos_per_second: float
    peak_bytes: int


def label_alone(photos: str, model_dir: str, target: str) -> None:
    """Label `photos` as a well-written single program does it, and write the rows to the Parquet file `target`.

    Threads read and decode up to four batches ahead; the model runs in batches of 32 on all cores.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from catdog.engines import EngineSpec, read_model
    from catdog.errors import ImageError
    from catdog.images import decode_image
    from catdog.photos import list_photos, read_photo

    cores = len(os.sched_getaffinity(0))
    model, batch = read_model(model_dir), 32
    run = EngineSpec(model=model).load(batch_size=batch, threads=cores)
    size, classes = model.spec.image_size, model.spec.classes
    paths = [photo.path for photo in list_photos(photos)]

    def load(path: str) -> np.ndarray | str:
        try:
            return decode_image(read_photo(path), size=size)
        except ImageError as error:
            return str(error)

    with ThreadPoolExecutor(cores) as pool:
        ahead: list[Any] = [pool.submit(load, path) for path in paths[: 4 * batch]]
        rows: list[tuple[str, str | None, float | None, str | None]] = []
        for start in range(0, len(paths), batch):
            ahead += [pool.submit(load, path) for path in paths[start + 4 * batch : start + 5 * batch]]
            loaded = [future.result() for future in ahead[:batch]]
            del ahead[:batch]
            good = [image for image in loaded if not isinstance(image, str)]
            found = iter(run(np.stack(good)) if good else ())
            for path, image in zip(paths[start : start + batch], loaded, strict=True):
                if isinstance(image, str):
                    rows.append((path, None, None, image))
                    continue
                probabilities = next(found)
                label = int(np.argmax(probabilities))
                rows.append((path, classes[label], float(probabilities[label]), None))
            print(len(rows), flush=True)
    columns = zip(*rows, strict=True)
    pq.write_table(pa.table(dict(zip(("path", "label", "probability", "error"), columns, strict=True))), target)


def watch(command: Sequence[str], count_rows: Callable[[str], int | None], *, verbose: bool) -> Watched:
    """Run `command` and watch it; `count_rows` is called with each line of its output, or "" ten times a second.

    Raises RuntimeError when it fails.
    """
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen: list[tuple[float, int]] = []
    peak, ended = [0], threading.Event()

    def note(line: str) -> None:
        rows = count_rows(line)
        if rows and (not seen or rows > seen[-1][1]):
            seen.append((time.monotonic() - start, rows))

    def poll() -> None:
        while not ended.wait(0.1):
            note("")

    def measure() -> None:
        while not ended.wait(5.0):  # adding up the pages of a process tree takes it a while
            peak[0] = max(peak[0], tree_bytes(process.pid))

    threads = [threading.Thread(target=target, daemon=True) for target in (poll, measure)]
    for thread in threads:
        thread.start()
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        if verbose:
            print(line, end="")
        note(line)
    code = process.wait()
    ended.set()
    for thread in threads:
        thread.join()
    if code or len(seen) < 2:
        raise RuntimeError(f"{' '.join(command)} ended with {code}:\n{''.join(lines[-20:])}")
    (first, rows), (last, total) = seen[0], seen[-1]
    return Watched(
        seconds=round(time.monotonic() - start, 2),
        first_row_seconds=round(first, 2),
        warm_photos_per_second=round((total - rows) / (last - first), 1),
        peak_bytes=peak[0],
    )


def tree_bytes(pid: int) -> int:
    """Return the proportional set size of a process and all its descendants, in bytes: shared pages count once."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    total, queue = 0, [pid]
    while queue:
        child = queue.pop()
        queue += parents.get(child, [])
        try:
            lines = Path(f"/proc/{child}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return total


def _measure_predict(config: BenchmarkConfig, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run both programs in turn, `repeats` times."""
    engines = ["tensorflow", *(["openvino"] if importlib.util.find_spec("openvino") else [])]
    names = ["single program, tensorflow", *(f"predict job, {engine}" for engine in engines)]
    found: dict[str, list[Watched]] = {name: [] for name in names}
    for turn in range(config.repeats):
        for name in names:
            with tempfile.TemporaryDirectory(prefix="catdog-benchmark-") as folder:
                found[name].append(_watch_one(name, config, folder))
            say(f"Turn {turn + 1} of {config.repeats}: {name}: {found[name][-1].warm_photos_per_second:.1f} photos/s")
    base = statistics.median(run.warm_photos_per_second for run in found[names[0]])
    rows = [("program", "photos/s warm", "spread", "of the first", "first row", "in all", "peak memory")]
    for name, runs in found.items():
        rates = [run.warm_photos_per_second for run in runs]
        rows.append(
            (
                name,
                f"{statistics.median(rates):.1f}",
                f"{min(rates):.1f}-{max(rates):.1f}",
                f"{statistics.median(rates) / base:.2f}",
                duration(statistics.median(run.first_row_seconds for run in runs)),
                duration(statistics.median(run.seconds for run in runs)),
                f"{max(run.peak_bytes for run in runs) / 2**30:.2f} GiB",
            )
        )
    say(table_text(rows))
    return {name: [dataclasses.asdict(run) for run in runs] for name, runs in found.items()}


def _measure_trunk(config: BenchmarkConfig, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    rates = measure_trunk(config.photos, limit=config.photos_a_class)
    rows = [("images a second", "rate"), ("model alone, ready arrays", f"{rates.model_alone:.1f}")]
    rows += [("decode alone, photos", f"{rates.decode_alone:.1f}"), ("augment alone", f"{rates.augment_alone:.1f}")]
    rows += [("trunk pass, warm", f"{rates.whole_pass:.1f}"), ("with its start", f"{rates.whole_pass_with_start:.1f}")]
    say(table_text(rows))
    say(f"The trunk pass runs at {rates.share_of_limit:.2f} of the model alone.")
    return dataclasses.asdict(rates)


def _measure_tune(config: BenchmarkConfig, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    flags = recipe_flags(config.photos, limit=config.photos_a_class)
    costs = measure_trials(Path(__file__).resolve().parent, flags, trials=config.trials)
    more = config.trials - 1
    rows = [("", "seconds"), ("train job", f"{costs.train_job:.1f}"), ("  its trunk pass", f"{costs.trunk_pass:.1f}")]
    rows += [("sweep of 1 trial, on its features", f"{costs.one_trial:.1f}")]
    rows += [(f"sweep of {config.trials} trials", f"{costs.all_trials:.1f}")]
    rows += [(f"{more} more trials", f"{costs.more_trials:.1f}")]
    rows += [(f"{more} more train jobs, each from the photos", f"{more * costs.train_job:.1f} (computed)")]
    say(table_text(rows))
    return {**dataclasses.asdict(costs), "more_trials": round(costs.more_trials, 1)}


def _measure_overheads(config: BenchmarkConfig, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    runs = [measure_overheads() for _ in range(config.repeats)]
    found = {name: [run[name] for run in runs] for name in runs[0]}
    spread = [
        (name, f"{statistics.median(all_):.2f}", f"{min(all_):.2f}-{max(all_):.2f}") for name, all_ in found.items()
    ]
    say(table_text([("a process that does this alone", "seconds", "spread"), *spread]))
    return found


def _watch_one(name: str, config: BenchmarkConfig, folder: str) -> Watched:
    """Run the program called `name` once, with its output in `folder`."""
    here = str(Path(__file__).resolve().parent)
    program, _, engine = name.partition(", ")
    if program == "single program":
        command = [f"{here}/benchmark.py", "--photos", config.photos, "--model", config.model]
        command += ["--yardstick", f"{folder}/rows.parquet"]
        return watch([sys.executable, *command], _printed_rows, verbose=config.verbose)
    command = [
        f"{here}/predict.py",
        "--no-report",
        "--photos",
        config.photos,
        "--model",
        config.model,
        "--engine",
        engine,
    ]
    return watch([sys.executable, *command, "--out", folder], lambda _: _written_rows(folder), verbose=config.verbose)


def _printed_rows(line: str) -> int | None:
    return int(line) if line.strip().isdigit() else None


def _written_rows(out: str) -> int | None:
    """Return the rows in the parts that stand below `out`; parts are numbered in the order of the photos."""
    from catdog.predictions import part_path, present_parts

    sizes = _PART_ROWS.setdefault(out, {})
    for part in present_parts(out) - sizes.keys():
        with contextlib.suppress(OSError):  # a commit has just deleted it
            sizes[part] = pq.read_metadata(part_path(out, part)).num_rows
    return sum(sizes.values()) or None


_PART_ROWS: dict[str, dict[int, int]] = {}


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")


_MEASURES = {
    "predict": _measure_predict,
    "trunk": _measure_trunk,
    "tune": _measure_tune,
    "overheads": _measure_overheads,
}


def benchmark(config: BenchmarkConfig, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure what `config` asks for, print the table, and return what benchmark.json holds."""
    return {
        "command": ["python", "jobs/benchmark.py", *sys.argv[1:]],
        "hardware": {"machine": platform.machine(), "cores": len(os.sched_getaffinity(0)), "cpu": _cpu_name()},
        "versions": versions(),
        config.measure: _MEASURES[config.measure](config, say=say),
    }


def main() -> None:
    """Parse the command line and measure."""
    config = parse_arguments(BenchmarkConfig, sys.argv[1:], description=__doc__ or "")
    prepare_environment(verbose=config.verbose)
    if config.measure == "predict" and not (config.photos and config.model):
        raise UsageError("expected --photos, a folder to label, and --model, a model directory")
    if config.measure in ("trunk", "tune") and not config.photos:
        raise UsageError("expected --photos, a folder of class folders")
    if config.yardstick:
        label_alone(config.photos, config.model, config.yardstick)
        return
    result = benchmark(config)
    artifacts.write_json(artifacts.absolute(config.out), result)
    print(f"Figures: {artifacts.absolute(config.out)}")


if __name__ == "__main__":
    from catdog.command import run

    sys.exit(run(main))
