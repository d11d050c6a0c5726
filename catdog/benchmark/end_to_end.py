"""Whole programs side by side, as a user starts them: time to accuracy, labelling, a sweep's trials."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from catdog.benchmark.bench import Bench, Programs, list_photo_files, recipe_flags, split_flags
from catdog.benchmark.process_monitor import ProcessRun
from catdog.config import RECIPE_DEFAULTS
from catdog.console import say, table_text
from catdog.model.engines import has_bfloat16
from catdog.prediction.results.parts import parts_directory

_BASELINE_LABELLERS = {"threads and tensorflow": "threads", "tf.data and tensorflow": "tf-data"}
_JOB_LABELLERS = {
    "predict job, tensorflow": ("--engine", "tensorflow"),
    "predict job, openvino": ("--engine", "openvino"),
    "predict job, openvino, bfloat16": ("--engine", "openvino", "--precision", "bfloat16"),
    "predict job, openvino, int8": ("--engine", "openvino", "--precision", "int8"),
}
THRESHOLDS = (0.95, 0.98, 0.985)  # of validation accuracy
_EPOCH = re.compile(r"Epoch +(\d+)/\d+ .* val_acc: ([0-9.]+)$")


# Time to accuracy


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeToAccuracy:
    """The seconds that a training takes to reach each accuracy, counted from the start of its command.

    `reached` maps each of THRESHOLDS to the seconds until the validation accuracy first reached it, or to None if it
    never did. `epochs` counts the epochs that were run. `seconds` is the time of the whole job, computed if
    `extrapolated`.
    """

    reached: dict[str, float | None]
    best_accuracy: float
    epochs: int
    seconds: float
    extrapolated: bool


def measure_accuracy(bench: Bench) -> dict[str, Any]:
    """Compare the default recipe with the article's on the photos as they are, without copies.

    It draws 1,000 training and 500 validation photos of each class. With fewer than 3,000 files it draws 100 of each,
    or half of a smaller class.
    """
    run_dir = f"{bench.folder}/accuracy"
    train, validation = (1000, 500) if len(list_photo_files(bench.photos)) >= 3000 else (100, 100)
    flags = split_flags(bench.photos, train=train, validation=validation)
    found = {"catdog, default recipe": train_by_catdog(bench.programs, flags, run_dir=run_dir)}
    bench.model_dir = bench.model_dir or f"{run_dir}/model"
    epochs = bench.config.article_epochs
    found["the article's recipe"] = train_by_article(bench.programs, run_dir=run_dir, epochs=epochs)
    header = ("seconds to validation accuracy", *map(str, THRESHOLDS), "total", "best", "epochs run")
    say(table_text([header, *(_accuracy_row(name, one) for name, one in found.items())]))
    say("~ is computed from the epochs that were run.")
    return {name: dataclasses.asdict(one) for name, one in found.items()}


def train_by_catdog(programs: Programs, flags: Sequence[str], *, run_dir: str) -> TimeToAccuracy:
    """Run the train job with `flags` and record when each epoch's line is printed."""
    seen = programs.run("train", *flags, "--run-dir", run_dir)
    found = [(seconds, _EPOCH.match(line)) for seconds, line in seen.lines]
    epochs = [(seconds, float(match[2])) for seconds, match in found if match]
    return _time_to_accuracy(epochs, seconds=seen.seconds, extrapolated=False)


def train_by_article(programs: Programs, *, run_dir: str, epochs: int) -> TimeToAccuracy:
    """Run the article's recipe for `epochs` epochs of each stage on the splits of the run in `run_dir`.

    The total time is computed: the time before the first epoch, plus all epochs that the recipe has in each stage. Each
    is taken to be as long as the median of the stage's epochs that were run. The first epoch does not count if there
    are others, because it builds TensorFlow's graph.
    """
    with tempfile.TemporaryDirectory(dir=programs.folder) as folder:
        seen = programs.run_baseline("article", f"{run_dir}/manifest", folder, str(epochs))
    rows = [(seconds, json.loads(line)) for seconds, line in seen.lines if line.startswith("{")]
    rows = [(seconds, row) for seconds, row in rows if "stage" in row]
    whole = rows[0][0] - rows[0][1]["seconds"]
    for stage in ("frozen", "unfrozen"):
        lasted = [row["seconds"] for _, row in rows if row["stage"] == stage]
        whole += statistics.median(lasted[1:] or lasted) * RECIPE_DEFAULTS["article"][f"{stage}.epochs"]
    return _time_to_accuracy([(seconds, row["val_acc"]) for seconds, row in rows], seconds=whole, extrapolated=True)


def _time_to_accuracy(epochs: Sequence[tuple[float, float]], *, seconds: float, extrapolated: bool) -> TimeToAccuracy:
    """Return the TimeToAccuracy of `epochs`: (seconds since the start, validation accuracy) of each."""
    if not epochs:
        raise RuntimeError("no epoch was seen: expected a line for each in the program's output")
    first = {str(limit): next((at for at, accuracy in epochs if accuracy >= limit), None) for limit in THRESHOLDS}
    return TimeToAccuracy(
        reached={limit: None if at is None else round(at, 1) for limit, at in first.items()},
        best_accuracy=max(accuracy for _, accuracy in epochs),
        epochs=len(epochs),
        seconds=round(seconds, 1),
        extrapolated=extrapolated,
    )


def _accuracy_row(name: str, found: TimeToAccuracy) -> tuple[str, ...]:
    reached = [f"not in {found.epochs} epochs" if at is None else f"{at:.0f}" for at in found.reached.values()]
    whole = f"{'~' if found.extrapolated else ''}{found.seconds:.0f}"
    return (name, *reached, whole, f"{found.best_accuracy:.4f}", str(found.epochs))


# Labelling


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabellingTime:
    """Times and memory of one program that labels a folder, measured from outside.

    The warm rate is taken from the first labelled rows that are seen to the last.
    """

    seconds: float
    first_row_seconds: float
    warm_photos_per_second: float
    peak_bytes: int


def measure_labelling(bench: Bench) -> dict[str, Any]:
    """Run all labelling programs in turn, `repeats` times."""
    photos, model, programs = bench.many_photos(), bench.trained_model(), bench.programs
    found: dict[str, list[LabellingTime]] = {}
    left_out = {"bfloat16": not has_bfloat16(), "int8": not bench.quantize_model()}

    def keep(name: str, turn: int, run: LabellingTime) -> None:
        found.setdefault(name, []).append(run)
        say(f"Turn {turn + 1} of {bench.config.repeats}: {name}: {run.warm_photos_per_second:.1f} photos/s")

    for turn in range(bench.config.repeats):
        for name, baseline in _BASELINE_LABELLERS.items():
            keep(name, turn, label_by_baseline(programs, baseline, photos=photos, model=model))
        for name, flags in _JOB_LABELLERS.items():
            if not left_out.get(flags[-1]):
                keep(name, turn, label_by_catdog(programs, flags, photos=photos, model=model))
    base = statistics.median(run.warm_photos_per_second for run in next(iter(found.values())))
    header = ("program", "photos/s warm", "spread", "of the first", "first row", "total", "peak memory")
    say(table_text([header, *(_label_row(name, runs, base) for name, runs in found.items())]))
    return {name: [dataclasses.asdict(run) for run in runs] for name, runs in found.items()}


def label_by_baseline(programs: Programs, name: str, *, photos: str, model: str) -> LabellingTime:
    """Run the baseline `name`, which prints how many rows it has labelled."""
    with tempfile.TemporaryDirectory(dir=programs.folder) as folder:
        seen = programs.run_baseline(name, photos, model, f"{folder}/rows.parquet")
    return _labelling_time(seen, [(seconds, int(line)) for seconds, line in seen.lines if line.isdigit()])


def label_by_catdog(programs: Programs, more: Sequence[str], *, photos: str, model: str) -> LabellingTime:
    """Run the predict job with the flags `more`, and count the rows of the parts that it writes."""
    rows: dict[str, int] = {}
    counts: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory(dir=programs.folder) as out:

        def look(seconds: float) -> None:
            for part in Path(parts_directory(out)).glob("*/part-*.parquet"):
                with contextlib.suppress(OSError):  # a commit has just deleted it
                    rows[part.name] = rows.get(part.name) or pq.read_metadata(part).num_rows
            if (total := sum(rows.values())) and (not counts or total > counts[-1][1]):
                counts.append((seconds, total))

        flags = ["--no-report", "--photos", photos, "--model", model, "--out", out, *more]
        return _labelling_time(programs.run("predict", *flags, poll=look), counts)


def _labelling_time(seen: ProcessRun, counts: Sequence[tuple[float, int]]) -> LabellingTime:
    """Return the LabellingTime of `counts`: (seconds since the start, rows labelled so far)."""
    if not counts:
        raise RuntimeError("no labelled row was seen: give more photos")
    (first, rows), (last, total) = counts[0], counts[-1]
    return LabellingTime(
        seconds=round(seen.seconds, 2),
        first_row_seconds=round(first, 2),
        # If there are so few photos that the first count is also the last, the rate includes the start.
        warm_photos_per_second=round((total - rows) / (last - first) if last > first else total / last, 1),
        peak_bytes=seen.peak_bytes,
    )


def _label_row(name: str, runs: Sequence[LabellingTime], base: float) -> tuple[str, ...]:
    rates = [run.warm_photos_per_second for run in runs]
    return (
        name,
        f"{statistics.median(rates):.1f}",
        f"{min(rates):.1f}-{max(rates):.1f}",
        f"{statistics.median(rates) / base:.2f}",
        f"{statistics.median(run.first_row_seconds for run in runs):.1f}s",
        f"{statistics.median(run.seconds for run in runs):.1f}s",
        f"{max(run.peak_bytes for run in runs) / 2**30:.2f} GiB",
    )


# Trials


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialCosts:
    """Seconds of a train job, and of two sweeps on the features that it computed: of one trial, and of `trials`."""

    train_job: float
    trunk_pass: float
    trials: int
    one_trial: float
    all_trials: float

    @property
    def more_trials(self) -> float:
        """Seconds of the trials after the first."""
        return self.all_trials - self.one_trial


def measure_trials(bench: Bench) -> dict[str, Any]:
    """Run a train job, a sweep of one trial, and a sweep of many trials."""
    trials = bench.config.trials
    flags = recipe_flags(bench.many_photos(), per_class=bench.config.count // 2)
    costs = run_trials(bench.programs, flags, trials=trials)
    more = trials - 1
    rows = [("", "seconds"), ("train job", f"{costs.train_job:.1f}")]
    rows += [("  its trunk pass", f"{costs.trunk_pass:.1f}")]
    rows += [("sweep of 1 trial, on its features", f"{costs.one_trial:.1f}")]
    rows += [(f"sweep of {trials} trials", f"{costs.all_trials:.1f}")]
    rows += [(f"{more} more trials", f"{costs.more_trials:.1f}")]
    rows += [(f"{more} more train jobs, each from the photos", f"{more * costs.train_job:.1f} (computed)")]
    say(table_text(rows))
    return {**dataclasses.asdict(costs), "more_trials": round(costs.more_trials, 1)}


def run_trials(programs: Programs, flags: Sequence[str], *, trials: int) -> TrialCosts:
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
