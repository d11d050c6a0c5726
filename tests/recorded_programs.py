"""Simulated jobs for the benchmark: they run nothing and only write the reports that real jobs write.

The time that they report is a fixed start plus one second for each photo and trial.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

from catdog.benchmark.bench import Bench, Programs
from catdog.benchmark.process_monitor import ProcessRun
from catdog.config import BenchmarkConfig

_START_SECONDS = {"train": 20.0, "tune": 5.0, "predict": 8.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordedPrograms(Programs):
    commands: list[tuple[str, ...]] = dataclasses.field(default_factory=list)

    def run(self, job: str, *flags: str, poll: Callable[[float], None] = lambda seconds: None) -> ProcessRun:
        self.commands.append((job, *flags))
        given = dict(itertools.pairwise(flags))
        if job == "train":
            leave(f"{given['--run-dir']}/report.json", {"seconds": {"total": 20.0, "trunk": 9.0}})
        elif job == "predict":
            steps = {"list": 1.0, "start": 2.0, "label": 4.0, "commit": 1.0}
            leave(f"{given['--out']}/summary.json", {"steps": steps})
        photos = sum(path.is_file() for path in Path(given["--photos"]).rglob("[!.]*"))
        seconds = _START_SECONDS[job] + photos + int(given.get("--trials", 0))
        return ProcessRun(seconds=seconds, lines=(), peak_bytes=2**30)


def leave(path: str, content: object) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(content))


def recorded_bench(config: BenchmarkConfig, folder: Path) -> tuple[Bench, list[tuple[str, ...]]]:
    """Return a bench that runs simulated jobs, and the list to which they append their commands."""
    bench = Bench(config, folder=str(folder))
    programs = RecordedPrograms(folder=str(folder))
    bench.programs = programs
    return bench, programs.commands
