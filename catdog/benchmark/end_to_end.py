"""Whole programs side by side, as a user starts them: time to accuracy, labelling, a sweep's trials."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from catdog.benchmark.process_monitor import Watched, watch_program
from catdog.config import RECIPE_DEFAULTS, TrainConfig
from catdog.prediction.commit import finished_parts, part_path

THRESHOLDS = (0.95, 0.98, 0.985)  # of validation accuracy
_EPOCH = re.compile(r"Epoch +(\d+)/\d+ .* val_acc: ([0-9.]+)$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Programs:
    """How to start catdog's jobs and the yardsticks, each as a process of its own.

    `folder` is where they write: on a cluster one that all its machines share.
    """

    folder: str
    verbose: bool = False

    def run(self, job: str, *flags: str, poll: Callable[[float], None] = lambda seconds: None) -> Watched:
        """Run a job to its end."""
        return watch_program([sys.executable, "-m", "catdog", job, *flags], verbose=self.verbose, poll=poll)


# Time to accuracy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Race:
    """A training against the clock, which starts with the command.

    `reached` has for each of THRESHOLDS the seconds until the validation accuracy first was so high, None where it was
    not. `epochs` are those that were run; `seconds` is the whole job's, which is computed where `extrapolated`.
    """

    reached: dict[str, float | None]
    best_accuracy: float
    epochs: int
    seconds: float
    extrapolated: bool


def race_catdog(programs: Programs, flags: Sequence[str], *, run_dir: str) -> Race:
    """Run the train job with `flags` and note when each epoch's line is printed."""
    seen = programs.run("train", *flags, "--run-dir", run_dir)
    found = [(seconds, _EPOCH.match(line)) for seconds, line in seen.lines]
    epochs = [(seconds, float(match[2])) for seconds, match in found if match]
    return _race(epochs, seconds=seen.seconds, extrapolated=False)


def race_article(programs: Programs, *, run_dir: str, epochs: int) -> Race:
    """Run the article's recipe for `epochs` epochs of each stage on the splits of the run in `run_dir`.

    The whole is computed: what came before the first epoch, then as many epochs as the recipe has in each stage, each
    as long as the median of those that were run but the first, which builds TensorFlow's graph.
    """
    with tempfile.TemporaryDirectory(dir=programs.folder) as folder:
        yardstick = ["--yardstick", "article", "--photos", f"{run_dir}/manifest", "--out", folder]
        seen = programs.run("benchmark", *yardstick, "--article-epochs", str(epochs))
    rows = [(seconds, json.loads(line)) for seconds, line in seen.lines if line.startswith("{")]
    rows = [(seconds, row) for seconds, row in rows if "stage" in row]
    whole = rows[0][0] - rows[0][1]["seconds"]
    for stage in ("frozen", "unfrozen"):
        lasted = [row["seconds"] for _, row in rows if row["stage"] == stage]
        whole += statistics.median(lasted[1:] or lasted) * RECIPE_DEFAULTS["article"][f"{stage}.epochs"]
    return _race([(seconds, row["val_acc"]) for seconds, row in rows], seconds=whole, extrapolated=True)


def _race(epochs: Sequence[tuple[float, float]], *, seconds: float, extrapolated: bool) -> Race:
    """Make a Race of (seconds since the start, validation accuracy) of each epoch."""
    if not epochs:
        raise RuntimeError("no epoch was seen: expected a line for each on the program's console")
    first = {str(limit): next((at for at, accuracy in epochs if accuracy >= limit), None) for limit in THRESHOLDS}
    return Race(
        reached={limit: None if at is None else round(at, 1) for limit, at in first.items()},
        best_accuracy=max(accuracy for _, accuracy in epochs),
        epochs=len(epochs),
        seconds=round(seconds, 1),
        extrapolated=extrapolated,
    )


# Labelling


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled:
    """One program that labels a folder, seen from outside. Warm is from the first rows it shows to the last."""

    seconds: float
    first_row_seconds: float
    warm_photos_per_second: float
    peak_bytes: int


def label_by_yardstick(programs: Programs, name: str, *, photos: str, model: str) -> Labelled:
    """Run the yardstick `name`, which prints how many rows it has labelled."""
    with tempfile.TemporaryDirectory(dir=programs.folder) as folder:
        flags = ["--yardstick", name, "--photos", photos, "--model", model, "--out", f"{folder}/rows.parquet"]
        seen = programs.run("benchmark", *flags)
    return _labelled(seen, [(seconds, int(line)) for seconds, line in seen.lines if line.isdigit()])


def label_by_catdog(programs: Programs, more: Sequence[str], *, photos: str, model: str) -> Labelled:
    """Run the predict job, with `more` flags, and watch the parts that it writes."""
    rows: dict[int, int] = {}
    counts: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory(dir=programs.folder) as out:

        def look(seconds: float) -> None:
            for part in finished_parts(out) - rows.keys():
                with contextlib.suppress(OSError):  # a commit has just deleted it
                    rows[part] = pq.read_metadata(part_path(out, part)).num_rows
            if (total := sum(rows.values())) and (not counts or total > counts[-1][1]):
                counts.append((seconds, total))

        flags = ["--no-report", "--photos", photos, "--model", model, "--out", out, *more]
        return _labelled(programs.run("predict", *flags, poll=look), counts)


def _labelled(seen: Watched, counts: Sequence[tuple[float, int]]) -> Labelled:
    """Make a Labelled of (seconds since the start, rows that were labelled)."""
    if not counts:
        raise RuntimeError("no labelled row was seen: give more photos")
    (first, rows), (last, total) = counts[0], counts[-1]
    return Labelled(
        seconds=round(seen.seconds, 2),
        first_row_seconds=round(first, 2),
        # All of them at once, where there are so few that the first look showed the last row.
        warm_photos_per_second=round((total - rows) / (last - first) if last > first else total / last, 1),
        peak_bytes=seen.peak_bytes,
    )


# Trials


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialCosts:
    """Seconds of a train job, and of sweeps of one trial and of many on the features that it left."""

    train_job: float
    trunk_pass: float
    trials: int
    one_trial: float
    all_trials: float

    @property
    def more_trials(self) -> float:
        """Seconds of the trials after the first."""
        return self.all_trials - self.one_trial


def race_trials(programs: Programs, flags: Sequence[str], *, trials: int) -> TrialCosts:
    """Run the train job once and the tune job twice, with the same `flags`, as a user does."""
    with tempfile.TemporaryDirectory(dir=programs.folder) as folder:
        train = programs.run("train", *flags, "--run-dir", f"{folder}/train").seconds
        found = []
        for count in (1, trials):
            sweep = ["--features", f"{folder}/train/features", "--trials", str(count)]
            found.append(programs.run("tune", *flags, *sweep, "--run-dir", f"{folder}/sweep{count}").seconds)
        seconds: Mapping[str, float] = json.loads(Path(folder, "train", "report.json").read_text())["seconds"]
    return TrialCosts(
        train_job=round(train, 1),
        trunk_pass=seconds["trunk"],
        trials=trials,
        one_trial=round(found[0], 1),
        all_trials=round(found[1], 1),
    )


def recipe_flags(photos: str, *, a_class: int) -> list[str]:
    """Return the flags of a train or tune job on up to `a_class` photos a class, a third of them to validate."""
    defaults = TrainConfig()
    train = max(1, min(2 * a_class // 3, defaults.train_per_class))
    return split_flags(photos, train=train, validation=max(1, train // 2))


def split_flags(photos: str, *, train: int, validation: int) -> list[str]:
    """Return the flags of a job that draws so many photos a class, and none to test."""
    counts = {"--train-per-class": train, "--validation-per-class": validation, "--test-per-class": 0}
    return ["--photos", photos, *(text for flag, count in counts.items() for text in (flag, str(count)))]
