"""Measure this machine or cluster: `python jobs/benchmark.py --photos photos`.

Everything is measured in one run, side by side, and left in benchmark.json besides: the time to accuracy beside the
article's recipe, the trunk pass beside the model alone, labelling beside two programs without Ray, a sweep's trials,
overheads, and growth with the number of photos. `--measure` chooses one of them. Without --photos a sample is drawn.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from catdog.benchmark.baselines import label_by_tf_data, label_by_threads, train_by_the_article
from catdog.benchmark.end_to_end import (
    THRESHOLDS,
    Labelled,
    Programs,
    Race,
    label_by_catdog,
    label_by_yardstick,
    race_article,
    race_catdog,
    race_trials,
    recipe_flags,
    split_flags,
)
from catdog.benchmark.microbenchmarks import TrunkRates, measure_overheads, measure_trunk
from catdog.benchmark.scaling import (
    SCHEDULED_BLOCKS,
    Point,
    UnitCosts,
    doubled,
    fit_line,
    grow_labelling,
    grow_training,
    measure_listing,
    measure_scheduler,
    multiply_photos,
    project,
)
from catdog.config import BenchmarkConfig
from catdog.console import duration, table_text
from catdog.errors import UsageError
from catdog.model.engines import has_bfloat16
from catdog.photos.sample import draw_sample
from catdog.storage import files
from catdog.storage.artifacts import versions

_YARDSTICK_LABELLERS = {"threads and tensorflow": "threads", "tf.data and tensorflow": "tf-data"}
_JOB_LABELLERS = {
    "predict job, tensorflow": ("--engine", "tensorflow"),
    "predict job, openvino": ("--engine", "openvino"),
    "predict job, openvino, bfloat16": ("--engine", "openvino", "--precision", "bfloat16"),
}
_PROJECTED = ((1_000_000, 1), (1_000_000, 16), (100_000_000, 16), (100_000_000, 256))  # photos, machines
_PROJECTED_CORES = 16
_STORE_WAIT_SECONDS = 0.03  # of a read from an object store: assumed, not measured


class Benchmark:
    """The measures, one method each: it prints its table and returns what benchmark.json holds of it."""

    def __init__(self, config: BenchmarkConfig, *, folder: str, say: Callable[[str], None] = print) -> None:
        self._config, self._folder, self._say = config, folder, say
        self._programs = Programs(folder=folder, verbose=config.verbose)
        self._photos = config.photos
        if not self._photos:
            self._photos = f"{folder}/sample"
            draw_sample(Path(self._photos))
        self._model = config.model
        self._many = ""
        self._rates: TrunkRates | None = None

    def accuracy(self) -> dict[str, Any]:
        """Race the default recipe against the article's on the photos as they are: half of each class to train on."""
        config, run_dir = self._config, f"{self._folder}/race"
        train, validation = (1000, 500) if len(_files(self._photos)) >= 3000 else (100, 100)
        flags = split_flags(self._photos, train=train, validation=validation)
        races = {"catdog, default recipe": race_catdog(self._programs, flags, run_dir=run_dir)}
        self._model = self._model or f"{run_dir}/model"
        races["the article's recipe"] = race_article(self._programs, run_dir=run_dir, epochs=config.article_epochs)
        self._say(table_text([("seconds to validation accuracy", *map(str, THRESHOLDS), "in all", "best", "epochs run")]
                             + [_race_row(name, race) for name, race in races.items()]))  # fmt: skip
        self._say("~ is computed from the epochs that were run.")
        return {name: dataclasses.asdict(race) for name, race in races.items()}

    def trunk(self) -> dict[str, Any]:
        """Run the trunk pass beside its steps."""
        rates = self._rates = measure_trunk(self._many_photos(), limit=self._config.count // 3, folder=self._folder)
        rows = [("images a second", "rate"), ("model alone, ready arrays", f"{rates.model_alone:.1f}")]
        rows += [("decode alone, photos", f"{rates.decode_alone:.1f}"), ("augment alone", f"{rates.augment_alone:.1f}")]
        rows += [
            ("trunk pass, warm", f"{rates.whole_pass:.1f}"),
            ("with its start", f"{rates.whole_pass_with_start:.1f}"),
        ]
        self._say(table_text(rows))
        share = rates.bound / rates.model_alone
        self._say(f"The trunk pass runs at {rates.share_of_limit:.2f} of the model alone; {share:.2f} is what decoding")
        self._say("and augmenting on the same cores leave of it, if nothing else cost anything.")
        return dataclasses.asdict(rates)

    def predict(self) -> dict[str, Any]:
        """Run all labellers in turn, `repeats` times."""
        photos, model, repeats = self._many_photos(), self._a_model(), self._config.repeats
        programs = self._programs
        found: dict[str, list[Labelled]] = {}
        for turn in range(repeats):
            for name, yardstick in _YARDSTICK_LABELLERS.items():
                self._keep(found, name, turn, label_by_yardstick(programs, yardstick, photos=photos, model=model))
            for name, flags in _JOB_LABELLERS.items():
                if "bfloat16" not in flags or has_bfloat16():
                    self._keep(found, name, turn, label_by_catdog(programs, flags, photos=photos, model=model))
        base = statistics.median(run.warm_photos_per_second for run in next(iter(found.values())))
        header = ("program", "photos/s warm", "spread", "of the first", "first row", "in all", "peak memory")
        self._say(table_text([header, *(_label_row(name, runs, base) for name, runs in found.items())]))
        return {name: [dataclasses.asdict(run) for run in runs] for name, runs in found.items()}

    def _keep(self, found: dict[str, list[Labelled]], name: str, turn: int, run: Labelled) -> None:
        found.setdefault(name, []).append(run)
        self._say(f"Turn {turn + 1} of {self._config.repeats}: {name}: {run.warm_photos_per_second:.1f} photos/s")

    def tune(self) -> dict[str, Any]:
        """Run a train job, a sweep of one trial, and one of many."""
        config = self._config
        flags = recipe_flags(self._many_photos(), a_class=config.count // 2)
        costs = race_trials(self._programs, flags, trials=config.trials)
        more = config.trials - 1
        rows = [("", "seconds"), ("train job", f"{costs.train_job:.1f}")]
        rows += [("  its trunk pass", f"{costs.trunk_pass:.1f}")]
        rows += [("sweep of 1 trial, on its features", f"{costs.one_trial:.1f}")]
        rows += [(f"sweep of {config.trials} trials", f"{costs.all_trials:.1f}")]
        rows += [(f"{more} more trials", f"{costs.more_trials:.1f}")]
        rows += [(f"{more} more train jobs, each from the photos", f"{more * costs.train_job:.1f} (computed)")]
        self._say(table_text(rows))
        return {**dataclasses.asdict(costs), "more_trials": round(costs.more_trials, 1)}

    def overheads(self) -> dict[str, Any]:
        """Start everything that a job starts, by itself, `repeats` times."""
        runs = [measure_overheads(self._folder) for _ in range(self._config.repeats)]
        found = {name: [run[name] for run in runs] for name in runs[0]}
        rows = [
            (name, f"{statistics.median(all_):.2f}", f"{min(all_):.2f}-{max(all_):.2f}") for name, all_ in found.items()
        ]
        self._say(table_text([("by itself", "seconds", "spread"), *rows]))
        return found

    def growth(self) -> dict[str, Any]:
        """Run train and predict jobs on more and more photos, fit lines, and compute what cannot be run."""
        config, keep = self._config, f"{self._folder}/grown"
        trained = grow_training(self._programs, self._photos, doubled(config.grow_to), keep=keep, say=self._say)
        self._model = self._model or f"{keep}/model"
        sizes = [*doubled(config.grow_to), *([config.label_to] if config.label_to > config.grow_to else [])]
        labelled = grow_labelling(self._programs, self._photos, sizes, model=self._model, say=self._say)
        found: dict[str, Any] = {}
        for job, points in (("train", trained), ("predict", labelled)):
            line = fit_line([(point.photos, point.seconds) for point in points])
            self._say(table_text([("photos", "seconds", "peak memory"), *map(_point_row, points)]))
            self._say(f"{job}: {line.start:.0f}s and {1000 * line.each:.2f}ms a photo (R2 {line.r_squared:.4f})")
            found[job] = {"points": [dataclasses.asdict(point) for point in points], "line": dataclasses.asdict(line)}
        return {**found, **self._project(labelled[-1])}

    def _project(self, largest: Point) -> dict[str, Any]:
        """Compute predict jobs that are too large for this machine."""
        if self._rates is None:
            self.trunk()
        assert self._rates is not None
        listing, held = measure_listing(self._many_photos())
        block = measure_scheduler(blocks=min(SCHEDULED_BLOCKS, largest.photos))
        costs = unit_costs(self._rates, largest, list_a_photo=listing, driver_bytes=held, block=block)
        projections = [
            project(photos, nodes=nodes, cores=_PROJECTED_CORES, costs=costs, wait_a_read=wait)
            for wait in (0.0, _STORE_WAIT_SECONDS)
            for photos, nodes in _PROJECTED
        ]
        rows = [("photos", "machines", "store", *projections[0].seconds, "in all", "decided by", "driver holds")]
        for one in projections:
            place = "distant" if one.wait_a_read else "disk"
            steps = [duration(seconds) for seconds in one.seconds.values()]
            held_text = f"{one.driver_bytes / 2**30:.2f} GiB"
            rows.append(
                (str(one.photos), str(one.nodes), place, *steps, duration(one.total), one.bottleneck, held_text)
            )
        self._say(table_text(rows))
        self._say(f"Computed for machines of {_PROJECTED_CORES} such cores from: {_costs_text(costs)}.")
        self._say(f"A distant store is assumed to answer after {1000 * _STORE_WAIT_SECONDS:.0f}ms.")
        return {"costs": dataclasses.asdict(costs), "projections": [dataclasses.asdict(one) for one in projections]}

    def _many_photos(self) -> str:
        """Return a folder of `count` photos, made of copies where there are fewer."""
        if not self._many:
            if len(_files(self._photos)) >= self._config.count:
                self._many = self._photos
            else:
                self._many = f"{self._folder}/many"
                multiply_photos(self._photos, self._many, self._config.count)
        return self._many

    def _a_model(self) -> str:
        """Return a model that labels, trained first where none is at hand."""
        if not self._model:
            run_dir = f"{self._folder}/model-run"
            self._programs.run("train", "--photos", self._photos, "--run-dir", run_dir)
            self._model = f"{run_dir}/model"
        return self._model


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


def _files(photos: str) -> list[Path]:
    return [path for path in Path(photos).rglob("*") if path.is_file()]


def _race_row(name: str, race: Race) -> tuple[str, ...]:
    reached = [f"not in {race.epochs} epochs" if at is None else f"{at:.0f}" for at in race.reached.values()]
    whole = f"{'~' if race.extrapolated else ''}{race.seconds:.0f}"
    return (name, *reached, whole, f"{race.best_accuracy:.4f}", str(race.epochs))


def _label_row(name: str, runs: Sequence[Labelled], base: float) -> tuple[str, ...]:
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


def _point_row(point: Point) -> tuple[str, ...]:
    return str(point.photos), f"{point.seconds:.0f}", f"{point.peak_bytes / 2**30:.2f} GiB"


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


_MEASURES = ("accuracy", "trunk", "predict", "tune", "overheads", "growth")


def benchmark(config: BenchmarkConfig, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure what `config` asks for, print the tables, and return what benchmark.json holds."""
    result: dict[str, Any] = {
        "command": ["python", "jobs/benchmark.py", *sys.argv[1:]],
        "hardware": _hardware(),
        "versions": versions(),
    }
    chosen = _MEASURES if config.measure == "all" else (config.measure,)
    with tempfile.TemporaryDirectory(prefix="catdog-benchmark-", dir=config.folder or None) as folder:
        measures = Benchmark(config, folder=folder, say=say)
        for name in chosen:
            say(f"\n{name.capitalize()}:")
            result[name] = getattr(measures, name)()
            # What is measured stands, whatever the next measure meets.
            files.write_json(files.absolute(config.out), result)
    return result


_YARDSTICKS: Mapping[str, Callable[[BenchmarkConfig], None]] = {
    "threads": lambda config: label_by_threads(config.photos, config.model, config.out),
    "tf-data": lambda config: label_by_tf_data(config.photos, config.model, config.out),
    "article": lambda config: train_by_the_article(config.photos, config.out, config.article_epochs),
}


def run_benchmark(config: BenchmarkConfig) -> None:
    """Measure and say where the figures are, or be one of the programs that the benchmark compares with."""
    if config.yardstick != "none":
        _YARDSTICKS[config.yardstick](config)
        return
    if config.photos and not Path(config.photos).is_dir():
        raise UsageError(f"--photos {config.photos}: expected a local folder of class folders, found none there")
    benchmark(config)
    print(f"Figures: {files.absolute(config.out)}")
