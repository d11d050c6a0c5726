"""The tune job, in the driver: trunk passes for all trials, the trials on Ray Tune, the winner.

Each trial leaves a record, so the same command resumes with the trials that have none.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from catdog.cluster.connection import connected
from catdog.cluster.environment import import_in_background, quiet_datasets
from catdog.cluster.failures import report_failures
from catdog.cluster.plan import Plan, batches_text, capacity_text, make_plan, pool_text, storage_text
from catdog.cluster.resources import Resources
from catdog.cluster.shared_paths import check_shared
from catdog.command_line.settings import build_config, flatten_config
from catdog.config import TrainConfig, TuneConfig
from catdog.console import say
from catdog.errors import UsageError
from catdog.model.engines import choose_trunk_precision
from catdog.photos.annotations.labelling import read_annotations
from catdog.photos.ingest import draw_missing_sample, find_photos, ingest
from catdog.photos.manifest import AnyManifest
from catdog.report.tracking import require_tracker
from catdog.storage import files
from catdog.storage.run_directory import hold_run, open_run
from catdog.training.stages import check_cut, stage_batches
from catdog.tuning.layouts import (
    LayoutBuilder,
    Sweep,
    check_effects,
    check_layouts,
    class_weight_table,
    default_values,
    list_layouts,
)
from catdog.tuning.records import read_records
from catdog.tuning.report.outcome import write_outcome
from catdog.tuning.space import Space, check_trials, draw_trial, parse_space
from catdog.tuning.space_file import read_space
from catdog.tuning.trials.resources import TrialResources, plan_trials

# The default search space. A setting varies only if a stage of the trials uses it.
_LOGISTIC_SPACE = {"frozen.c": "loguniform:1e-4,1"}
_EPOCHS_SPACE = {"frozen.learning_rate": "loguniform:3e-4,3e-2", "dropout": "uniform:0,0.5"}
_UNFROZEN_SPACE = {"unfrozen.learning_rate": "loguniform:1e-5,1e-3", "dropout": "uniform:0,0.5"}
# The package that each search needs. The extra that installs it has the name of the search.
_SEARCH_PACKAGES = {"optuna": "optuna", "hyperopt": "hyperopt"}
_FOLDS, _FOLDS_LIMIT = 5, 10_000  # defaults: the folds, and the number of photos below which they are cheap
# At the end of the job, these imports would take seconds in which the other cores are idle.
_LATER_IMPORTS = (
    "ray.data", "ray.tune", "matplotlib.backends.backend_agg", "matplotlib.figure", "matplotlib.ticker", "scipy.stats",
    "sklearn.ensemble", "sklearn.inspection", "sklearn.model_selection",
)  # fmt: skip
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def tune(config: TuneConfig, *, started: float | None = None) -> dict[str, Any]:
    """Run the whole tune job and return the content of best.json. Finished trials are not run again.

    Raises UsageError and FailureError as its steps do.
    """
    begin = started if started is not None else time.monotonic()
    config, space, base = read_config(config)
    seconds = read_duration(config.time_budget)
    run_dir, found = _check_start(config)
    prepare = partial(_prepare, config, run_dir=run_dir)
    with hold_run(run_dir), connected(verbose=config.verbose, meanwhile=prepare) as resources, report_failures():
        from catdog.tuning.trials.run import TrialRunner

        quiet_datasets(verbose=config.verbose)
        plan = make_plan(resources, config.cluster)
        check_shared(written={"--run-dir": run_dir}, read={"--photos": config.photos, "--features": config.features})
        booked = _plan_trials(resources, plan, config, space)
        manifest = ingest(config, run_dir=run_dir, found=found)
        folds = choose_folds(config, manifest)
        say(_plan_sentence(config, space, plan, booked, folds=folds, run_dir=run_dir))
        planned = plan_values(config, space, base)
        precision = choose_trunk_precision(
            config.trunk_precision, single_node=resources.is_single_node, gpus=plan.actor_gpus > 0
        )
        wanted = list_layouts(space, base, list(planned.values()) if config.search == "random" else None)
        root = files.absolute(config.features) if config.features else files.join(run_dir, "features")
        builder = LayoutBuilder(base, manifest, wanted, root=root, folds=folds, trunk_precision=precision)
        sweep = Sweep(
            base=base,
            space=space,
            metric=config.metric,
            folds=folds,
            layouts=builder.build(plan),
            run_dir=run_dir,
            memory_bytes=_memory_bytes(booked.parallel),
            class_weights=class_weight_table(base, manifest),
            plan=plan,
        )
        records: dict[int, Mapping[str, Any]] = dict(read_records(run_dir))
        deadline = begin + seconds if seconds else None
        TrialRunner(sweep, config, planned=planned, records=records, resources=booked, deadline=deadline).run()
        return write_outcome(sweep, config, records, began=begin)


def _prepare(config: TuneConfig, *, run_dir: str) -> None:
    """Draw the sample, and begin to import what the job needs later."""
    draw_missing_sample(config, run_dir=run_dir)
    import_in_background(_LATER_IMPORTS)


def _check_start(config: TuneConfig) -> tuple[str, Any]:
    """Return the run directory and the photos that were found, after the checks that run before Ray starts.

    Raises UsageError for settings that cannot be used with them.
    """
    run_dir = open_run(config, fingerprints=read_annotations(config).fingerprints())
    found = find_photos(config, run_dir=run_dir)
    require_tracker(config.track, run_dir=run_dir)
    if files.exists(files.join(run_dir, "report.json")):
        raise UsageError(f"{run_dir} belongs to a train job: give another --run-dir, and --features {run_dir}/features")
    check_cut(config)
    say(f"Run directory: {run_dir}")
    return run_dir, found


def read_config(config: TuneConfig) -> tuple[TuneConfig, Space, TrainConfig]:
    """Return the config with the domains of --space files, the search space, and the base settings of all trials.

    Raises UsageError for a space or a number of folds that cannot be used, or a package that is not installed.
    """
    texts = read_space(config.space, default=default_space(config))
    if config.space:  # the content of the file is a setting of the run, its path is not
        config = dataclasses.replace(config, space=tuple(f"{key}={text}" for key, text in texts.items()))
    space = parse_space(TrainConfig, texts)
    known = set(flatten_config(TrainConfig()))
    base = build_config(TrainConfig, {key: value for key, value in flatten_config(config).items() if key in known})
    package = _SEARCH_PACKAGES.get(config.search)
    if package and importlib.util.find_spec(package) is None:
        raise UsageError(
            f"--search {config.search}: expected the package {package}, found none: "
            f"pip install 'catdog-ray[{config.search}]'"
        )
    if config.search == "random":
        check_trials(space, config.trials)
    check_effects(space, base)
    check_layouts(space, base)
    if config.folds > 0 and base.unfrozen.epochs:
        raise UsageError(
            f"--folds {config.folds}: cross-validation rates the frozen stage alone: give --unfrozen.epochs 0 too"
        )
    if config.folds == 1:
        raise UsageError("--folds 1: expected 2 or more, 0 for the validation photos alone, or -1 for the default")
    return config, space, base


def default_space(config: TuneConfig) -> dict[str, str]:
    """Return the default domains of the settings that the trials' stages use."""
    frozen = _LOGISTIC_SPACE if config.frozen.head == "logistic" else _EPOCHS_SPACE
    return {**frozen, **(_UNFROZEN_SPACE if config.unfrozen.epochs else {})}


def read_duration(text: str) -> float:
    """Return the seconds in a text such as 90s, 10m or 1h30m, or 0 for an empty text.

    Raises UsageError for any other text.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or (text and not seconds):
        raise UsageError(f"--time-budget {text}: expected a time such as 90s, 10m or 1h30m")
    return seconds


def choose_folds(config: TuneConfig, manifest: AnyManifest) -> int:
    """Return the number of folds on which trials are rated, or 0 to rate them on the validation photos alone."""
    if config.folds >= 0:
        return config.folds
    photos = sum(sum(manifest.counts().get(split, {}).values()) for split in ("train", "validation"))
    cheap = not config.unfrozen.epochs and not config.cluster.workers and photos < _FOLDS_LIMIT
    return _FOLDS if cheap else 0


def plan_values(config: TuneConfig, space: Space, base: TrainConfig) -> dict[int, dict[str, Any]]:
    """Return the trials' values that are known in advance: the defaults, and all trials of a random search."""
    planned = {0: default_values(base, space)}
    if config.search == "random":
        planned |= {number: draw_trial(space, number, seed=config.seed) for number in range(1, config.trials)}
    return planned


def _plan_trials(resources: Resources, plan: Plan, config: TuneConfig, space: Space) -> TrialResources:
    return plan_trials(
        resources.scaled(gpus=config.cluster.use_gpu == "yes"),
        plan,
        workers=config.cluster.workers,
        trial_gpus=config.cluster.trial_gpus,
        feature_bytes=0,  # features stay in main memory, with one batch at a time on the GPU
        needs_network=config.unfrozen.epochs > 0 or config.frozen.head != "logistic" or "frozen.head" in space,
    )


def _plan_sentence(
    config: TuneConfig, space: Space, plan: Plan, booked: TrialResources, *, folds: int, run_dir: str
) -> str:
    each = f"{plan.workers} workers" if config.cluster.workers else f"{booked.text()}"
    batches = {
        stage: "swept" if f"{stage}.global_batch_size" in space else size
        for stage, size in stage_batches(config).items()
    }
    rated = f"{config.metric} over {folds} folds" if folds else f"{config.metric} on validation"
    return (
        f"Plan: {config.trials} trials ({config.search} search, {config.scheduler} scheduler), best {rated} wins, "
        f"{booked.parallel} in parallel, each on {each}; {pool_text(plan, 'trunk actor')}; {batches_text(batches)}; "
        f"{storage_text(run_dir)}{capacity_text(plan)}."
    )


def _memory_bytes(parallel: int) -> int:
    """Return how many bytes of each cache's rows one trial keeps in memory.

    With four caches for each trial, all trials together use a quarter of the machine's memory.
    """
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 4 / min(parallel, os.cpu_count() or 1) / 4)
