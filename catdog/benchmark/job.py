"""The benchmark job: runs one measure, or all of them, on this machine or cluster."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from catdog.benchmark.bench import Bench
from catdog.benchmark.end_to_end import measure_accuracy, measure_labelling, measure_trials
from catdog.benchmark.microbenchmarks import measure_trunk
from catdog.benchmark.overheads import measure_overheads
from catdog.benchmark.recipes import measure_recipes
from catdog.benchmark.scaling.growth import measure_growth
from catdog.benchmark.scaling.many_photos import measure_scale
from catdog.config import BenchmarkConfig
from catdog.console import say
from catdog.errors import UsageError
from catdog.storage import files
from catdog.storage.artifacts import versions

# Each prints its table and returns its part of benchmark.json.
_MEASURES: Mapping[str, Callable[[Bench], dict[str, Any]]] = {
    "accuracy": measure_accuracy,
    "trunk": measure_trunk,
    "predict": measure_labelling,
    "tune": measure_trials,
    "overheads": measure_overheads,
    "growth": measure_growth,
    "scale": measure_scale,
    "recipes": measure_recipes,
}


def run_benchmark(config: BenchmarkConfig) -> None:
    """Run the benchmark and print where the figures are.

    Raises UsageError if `photos` is set but is not a local folder.
    """
    if config.photos and not Path(config.photos).is_dir():
        raise UsageError(f"--photos {config.photos}: expected a local folder of class folders, found none there")
    benchmark(config)
    say(f"Figures: {files.absolute(config.out)}")


def benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Run the measures that `config` selects, print their tables, and return the content of benchmark.json."""
    result: dict[str, Any] = {
        "command": ["python", "jobs/benchmark.py", *sys.argv[1:]],
        "hardware": _hardware(),
        "versions": versions(),
    }
    # `recipes` measures the photos rather than the machine, and takes as long as all other measures together.
    chosen = [name for name in _MEASURES if name != "recipes"] if config.measure == "all" else [config.measure]
    with tempfile.TemporaryDirectory(prefix="catdog-benchmark-", dir=config.folder or None) as folder:
        bench = Bench(config, folder=folder)
        for name in chosen:
            say(f"\n{name.capitalize()}:")
            bench.results[name] = _MEASURES[name](bench)
            # Written after each measure, so that a failure of the next one loses no figures.
            files.write_json(files.absolute(config.out), {**result, **bench.results})
    return {**result, **bench.results}


def _hardware() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": cpu,
        "memory_gib": round(memory, 1),
    }
