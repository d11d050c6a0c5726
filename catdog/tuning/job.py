"""The tune job, in the driver: trunk passes for all trials, the trials on Ray Tune, the results.

Each trial leaves a record, so the same command runs only the trials that have none.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import os
import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from catdog.cluster.actors import share
from catdog.cluster.connection import connected
from catdog.cluster.environment import quiet_datasets
from catdog.cluster.failures import report_failures, root_cause
from catdog.cluster.plan import Plan, batches_text, capacity_text, make_plan, pool_text, storage_text
from catdog.cluster.resources import Resources
from catdog.cluster.shared_paths import check_shared
from catdog.command_line.arguments import as_flags
from catdog.command_line.settings import build_config, flatten_config
from catdog.config import TrainConfig, TuneConfig
from catdog.console import counted, duration, say
from catdog.errors import FailureError, UsageError
from catdog.model.engines import choose_trunk_precision
from catdog.model.saved_model import ClassifierSpec, copy_model
from catdog.model.weights.pretrained import Pretrained, load_weights
from catdog.photos.annotations.labelling import read_annotations
from catdog.photos.ingest import find_photos, ingest
from catdog.photos.manifest import Manifest
from catdog.report.page import write_page
from catdog.report.plots import draw_sweep
from catdog.report.tracking import require_tracker, track_runs
from catdog.storage import files
from catdog.storage.artifacts import versions
from catdog.storage.run_directory import hold_run, open_run
from catdog.training.stages import StageJob, StageLayout, check_cut, class_weights, model_card, stage_batches
from catdog.tuning.records import (
    Record,
    best_record,
    read_records,
    records_text,
    tracked_run,
    trial_directory,
    write_tables,
)
from catdog.tuning.report import build_tune_page
from catdog.tuning.space import (
    DEFAULT_SPACE,
    Space,
    check_layouts,
    check_trials,
    draw_trial,
    layout_settings,
    parse_space,
)

if TYPE_CHECKING:
    from catdog.tuning.trial import Sweep

_TRIAL_CPUS = 1
_WAITING_CPUS = 0.05  # of the process of a distributed trial


def tune(config: TuneConfig, *, started: float | None = None) -> dict[str, Any]:
    """Run the whole tune job and return what best.json holds; finished trials are not run again.

    Raises UsageError and FailureError as its steps do.
    """
    begin = started if started is not None else time.monotonic()
    space = _read_space(config)
    run_dir = open_run(config, fingerprints=read_annotations(config).fingerprints())
    found = find_photos(config, run_dir=run_dir)
    require_tracker(config.track, run_dir=run_dir)
    if files.exists(files.join(run_dir, "report.json")):
        raise UsageError(f"{run_dir} is a train job's: give another --run-dir, and --features {run_dir}/features")
    known = set(flatten_config(TrainConfig()))
    base = build_config(TrainConfig, {key: value for key, value in flatten_config(config).items() if key in known})
    pretrained = load_weights(config.backbone, weights=config.weights)
    check_cut(config)
    say(f"Run directory: {run_dir}")
    with hold_run(run_dir), connected(verbose=config.verbose) as resources, report_failures():
        from catdog.tuning.trial import Sweep

        quiet_datasets(verbose=config.verbose)
        plan = make_plan(resources, config.cluster)
        check_shared(written={"--run-dir": run_dir}, read={"--photos": config.photos, "--features": config.features})
        trial_cpus, parallel = divide_cluster(
            resources.scaled(gpus=config.cluster.use_gpu == "yes"), plan, workers=config.cluster.workers
        )
        say(_plan_sentence(config, space, plan, parallel=parallel, run_dir=run_dir))
        manifest = ingest(config, run_dir=run_dir, found=found)
        root = files.absolute(config.features) if config.features else files.join(run_dir, "features")
        start = time.monotonic()
        precision = choose_trunk_precision(
            config.trunk_precision, single_node=resources.is_single_node, gpus=plan.actor_gpus > 0
        )
        layouts = _extract(base, space, manifest, pretrained, root=root, plan=plan, trunk_precision=precision)
        say(f"Features ready after {duration(time.monotonic() - start)}.")
        sweep = Sweep(
            base=base,
            space=space,
            card=model_card(base, manifest, pretrained),
            class_weights=class_weights(base, manifest),
            layouts=layouts,
            run_dir=run_dir,
            memory_bytes=_memory_bytes(parallel),
            plan=plan,
        )
        run_trials(sweep, config, pretrained=pretrained, parallel=parallel, trial_cpus=trial_cpus)
    return write_results(sweep, config, seconds=time.monotonic() - begin)


def _read_space(config: TuneConfig) -> Space:
    """Return the search space, checked against the number of trials and what must be installed."""
    texts = dict(item.split("=", 1) for item in config.space) or DEFAULT_SPACE
    space = parse_space(TrainConfig, texts)
    if config.search == "optuna":
        if importlib.util.find_spec("optuna") is None:
            raise UsageError(
                "--search optuna: expected the package optuna, found none: pip install 'catdog-ray[optuna]'"
            )
    else:
        check_trials(space, config.trials)
    check_layouts(space)
    return space


def _plan_sentence(config: TuneConfig, space: Space, plan: Plan, *, parallel: int, run_dir: str) -> str:
    each = f"{plan.workers} workers" if config.cluster.workers else "one process"
    batches = {
        stage: "swept" if f"{stage}.global_batch_size" in space else size
        for stage, size in stage_batches(config).items()
    }
    return (
        f"Plan: {config.trials} trials, {parallel} at once in {each} each, scheduler {config.scheduler}, "
        f"{pool_text(plan, 'trunk actor')}; {batches_text(batches)}; {storage_text(run_dir)}{capacity_text(plan)}."
    )


def _extract(
    base: TrainConfig,
    space: Space,
    manifest: Manifest,
    pretrained: Pretrained | None,
    *,
    root: str,
    plan: Plan,
    trunk_precision: str,
) -> dict[tuple[Any, ...], tuple[ClassifierSpec, tuple[StageJob, ...]]]:
    """Run the trunk for every combination of the settings that change features; return model and stages of each."""
    keys, layouts = layout_settings(space), {}
    for point in itertools.product(*(space[key].values for key in keys)):
        config = build_config(TrainConfig, {**flatten_config(base), **dict(zip(keys, point, strict=True))})
        layout = StageLayout(config, manifest, pretrained, root=root, trunk_precision=trunk_precision)
        layout.extract(plan)
        layouts[point] = (layout.spec, layout.stages())
    return layouts


def divide_cluster(resources: Resources, plan: Plan, *, workers: int) -> tuple[float, int]:
    """Return (CPUs that one trial's own process books, trials at once).

    A distributed trial's process only waits for its workers, which book CPUs themselves.
    """
    if not workers:
        return float(_TRIAL_CPUS), max(1, sum(int(node.cpus) // _TRIAL_CPUS for node in resources.nodes))
    if plan.worker_gpus:
        return _WAITING_CPUS, max(1, int(resources.gpus) // workers)
    # Workers of all trials together leave part of the CPUs to the waiting processes.
    return _WAITING_CPUS, max(1, int(0.75 * resources.cpus / (workers * plan.worker_cpus)))


def _memory_bytes(parallel: int) -> int:
    """Return how many bytes of rows one trial keeps in memory: all trials together use a quarter of the machine's."""
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 4 / min(parallel, os.cpu_count() or 1) / 4)


def run_trials(
    sweep: Sweep, config: TuneConfig, *, pretrained: Pretrained | None, parallel: int, trial_cpus: float
) -> None:
    """Run the trials that have no record yet.

    Raises FailureError when Ray Tune fails.
    """
    from ray import tune as ray_tune

    from catdog.tuning.callbacks import MAX_FAILURES, TrialFollower
    from catdog.tuning.schedulers import make_scheduler
    from catdog.tuning.search import make_searcher, name_trials
    from catdog.tuning.trial import run_trial

    done = read_records(sweep.run_dir)
    waiting = [number for number in range(config.trials) if number not in done]
    if not waiting:
        return
    if done:
        say(f"Resuming: {len(done)} of {config.trials} trials were finished before.")
    shared = share(pretrained)
    storage = files.join(sweep.run_dir, "tune")
    files.delete(storage)  # Ray Tune's own notes of a sweep that was killed; we resume from the records
    # A search that learns asks for few trials at a time; the first stage of a distributed one costs a trainer's start.
    synchronous = config.search == "random" and not config.cluster.workers
    if config.search == "optuna":
        chosen: dict[str, Any] = {}
        searcher = make_searcher(sweep.space, done=done, seed=config.seed)
        search = {"search_alg": searcher, "num_samples": len(waiting), "max_concurrent_trials": parallel}
    else:
        drawn = [draw_trial(sweep.space, number, seed=config.seed) for number in waiting]
        chosen = {"values": ray_tune.grid_search(drawn)}
        # A trial that is paused counts as concurrent: with a limit the others would never start.
        search = {} if synchronous else {"max_concurrent_trials": parallel}
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(
            ray_tune.with_parameters(run_trial, sweep=sweep, pretrained=shared), {"cpu": trial_cpus}
        ),
        param_space=chosen,
        tune_config=ray_tune.TuneConfig(
            scheduler=make_scheduler(
                config.scheduler,
                epochs=(config.unfrozen if config.unfrozen.epochs else config.frozen).epochs,
                synchronous=synchronous,
            ),
            **search,
            reuse_actors=not config.cluster.workers,
            trial_name_creator=name_trials(waiting),
        ),
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=sweep.run_dir,
            verbose=0,
            callbacks=[TrialFollower(sweep.run_dir, trials=config.trials, done=done)],
            failure_config=ray_tune.FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    try:
        tuner.fit()
    except Exception as error:  # Ray wraps what it catches in classes of its own
        raise FailureError(f"the sweep failed: {root_cause(error)}; run the same command to resume") from error
    files.delete(storage)


def write_results(sweep: Sweep, config: TuneConfig, *, seconds: float) -> dict[str, Any]:
    """Write the tables, the plot, the best trial's model, best.json and the page; print the summary.

    Raises FailureError when no trial finished.
    """
    records = read_records(sweep.run_dir)
    write_tables(records, sweep.space, run_dir=sweep.run_dir)
    best = best_record(records)
    if best is None:
        reasons = sorted({record.get("reason", record["status"]) for record in records.values()})
        raise FailureError(f"none of {len(records)} trials finished: {'; '.join(reasons)}")
    model = files.join(trial_directory(sweep.run_dir, best["number"]), "model")
    copy_model(model, files.join(sweep.run_dir, "model"))
    draw_sweep(list(records.values()), list(sweep.space), run_dir=sweep.run_dir)
    result = {
        "number": best["number"],
        "values": best["values"],
        "stage": best["stage"],
        "validation": best["validation"],
        **({"test": best["test"]} if "test" in best else {}),
        "command": _train_command(sweep, best),
        "trials": dict(Counter(record["status"] for record in records.values())),
        "trial_seconds": round(sum(record["seconds"] for record in records.values()), 3),
        "seconds": round(seconds, 3),
        "versions": versions(),
    }
    files.write_json(files.join(sweep.run_dir, "best.json"), result)
    for line in _summary_lines(records, result, sweep):
        say(line)
    write_page(
        sweep.run_dir,
        lambda: build_tune_page(list(records.values()), list(sweep.space), result=result, run_dir=sweep.run_dir),
    )
    runs = [tracked_run(record, run_dir=sweep.run_dir) for record in records.values()]
    track_runs(config.track, runs, run_dir=sweep.run_dir)
    return result


def _train_command(sweep: Sweep, best: Record) -> str:
    """Return the command that trains with the best trial's settings."""
    # A folder of its own: the photos' default run directory may hold another training on them.
    winner = dataclasses.replace(sweep.config(best["values"]), run_dir=files.join(sweep.run_dir, "best"))
    return shlex.join(["python", "jobs/train.py", *as_flags(winner)])


def _summary_lines(records: Mapping[int, Record], result: Mapping[str, Any], sweep: Sweep) -> Sequence[str]:
    states = ", ".join(f"{count} {state}" for state, count in sorted(result["trials"].items()))
    text = f"Best: trial {result['number']}, chosen on validation (accuracy {result['validation']['accuracy']:.4f})"
    if "test" in result:
        text += f"; on the test photos, which were not used to choose it, {result['test']['accuracy']:.4f}"
    return (
        "",
        records_text(records, sweep.space),
        f"{counted(len(records), 'trial')} ({states}) in {duration(result['seconds'])}.",
        f"{text}.",
        f"Model: {files.join(sweep.run_dir, 'model')}",
        f"To train it again: {result['command']}",
    )
