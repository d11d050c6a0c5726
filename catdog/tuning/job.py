"""The sweep: many trials of the one fit_stage, by Ray Tune, on rows that the trunk computed once for all of them.

A trial trains the tail in one process, which is used again for the next trial: TensorFlow is imported, and the rows are
read, once a process. Each trial leaves a record, so the same command goes on with those that have none.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pyarrow import fs

from catdog.cluster.actors import Shared, share
from catdog.cluster.connection import connected, quiet_datasets
from catdog.cluster.failures import report_failures, root_cause
from catdog.cluster.plan import Plan, batches_text, make_plan, storage_text
from catdog.cluster.resources import Resources
from catdog.cluster.shared_paths import check_shared
from catdog.command_line.arguments import as_flags
from catdog.command_line.settings import build_config, flatten_config
from catdog.config import TrainConfig, TuneConfig
from catdog.console import duration, table_text
from catdog.errors import FailureError, UsageError
from catdog.features.cache import FeatureCache
from catdog.features.rows import CachedRows
from catdog.model.saved_model import ClassifierSpec, copy_model, spec_to_card
from catdog.model.weights.pretrained import Pretrained, load_weights
from catdog.photos.ingest import corrections_fingerprint, ingest
from catdog.photos.manifest import Manifest
from catdog.report.page import leave_page
from catdog.report.plots import draw_sweep
from catdog.report.tracking import TrackedRun, require_tracker, run_curves, track_runs
from catdog.storage import files
from catdog.storage.artifacts import versions
from catdog.storage.run_directory import open_run
from catdog.training.driver import LOSSES_FILE, Training
from catdog.training.stages import (
    StageJob,
    StageLayout,
    TrainJob,
    best_stage,
    check_cut,
    model_card,
    stage_batches,
    stage_mark,
)
from catdog.training.train_loop import DivergedError, StageState, evaluate, fit_stage, read_history
from catdog.tuning.report import build_tune_page
from catdog.tuning.schedulers import make_scheduler
from catdog.tuning.search import make_searcher, require_optuna
from catdog.tuning.space import DEFAULT_SPACE, Space, check_trials, draw_trial, parse_space

Say = Callable[[str], None]

# Knobs that change what is done with the features, never the features themselves.
_FREE = {"dropout"} | {
    f"{stage}.{name}"
    for stage in ("frozen", "unfrozen")
    for name in ("learning_rate", "optimizer", "global_batch_size", "patience", "train_batch_norm")
}
_RECORD = "trial.json"
_TRIAL_CPUS = 1
_WAITING_CPUS = 0.05  # of the process of a distributed trial
_MAX_FAILURES = 1  # of a trial's process, before the trial counts as failed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """What every trial needs. `layouts` has model and stages for each combination of the knobs that change features."""

    base: TrainConfig
    space: Space
    card: Mapping[str, Any]
    layouts: Mapping[tuple[Any, ...], tuple[ClassifierSpec, tuple[StageJob, ...]]]
    run_dir: str
    memory_bytes: int
    plan: Plan  # of one distributed trial

    def config(self, values: Mapping[str, Any]) -> TrainConfig:
        """Return the settings of the trial of these `values`."""
        return build_config(TrainConfig, {**flatten_config(self.base), **values})

    def layout(self, values: Mapping[str, Any]) -> tuple[ClassifierSpec, list[StageJob]]:
        """Return model and stages of the trial of these `values`."""
        config = self.config(values)
        spec, stages = self.layouts[tuple(values[key] for key in layout_knobs(self.space))]
        return (
            dataclasses.replace(spec, dropout=config.dropout),
            [dataclasses.replace(stage, settings=getattr(config, stage.name)) for stage in stages],
        )

    def directory(self, number: int) -> str:
        """Return where trial `number` leaves its record and model."""
        return files.join(self.run_dir, "trials", f"{number:05d}")


def layout_knobs(space: Space) -> tuple[str, ...]:
    """Return the knobs of `space` that change features."""
    return tuple(key for key in space if key not in _FREE)


def check_layouts(space: Space) -> None:
    """Raise UsageError when a knob that changes features varies over a range."""
    for key in layout_knobs(space):
        if space[key].kind not in ("choice", "grid"):
            flag = f"--space.{key.replace('_', '-')}"
            raise UsageError(f"{flag}: each value needs a trunk pass of its own; give choice:A,B,… or grid:A,B,…")


# A trial, in its process


def run_trial(values: dict[str, Any], *, sweep: Sweep, pretrained: Shared) -> None:
    """Train one trial and leave its record and model; a function trainable of Ray Tune's.

    `values` has the number of the trial besides its knobs. A loss that is no number ends the trial as a failed one.
    """
    values = dict(values)
    number, start = int(values.pop("number")), time.monotonic()
    try:
        if sweep.base.cluster.workers:
            result = _DistributedTrial(sweep, values, pretrained=pretrained, number=number).fit()
        else:
            result = _Trial(sweep, values, pretrained=pretrained, number=number).fit()
    except DivergedError as error:
        result = {"status": "failed", "reason": str(error)}
    record = {"number": number, "values": values, "process": os.getpid(), **result, **_ending(time.monotonic() - start)}
    files.write_json(files.join(sweep.directory(number), _RECORD), record)


def _ending(seconds: float) -> dict[str, float]:
    return {"seconds": round(seconds, 3), "ended": round(time.time(), 3)}


class _Trial:
    """One trial: the stages one after the other on one classifier."""

    def __init__(self, sweep: Sweep, values: Mapping[str, Any], *, pretrained: Shared, number: int) -> None:
        import tensorflow as tf
        import tf_keras

        from catdog.model import classifier as model

        model.configure_tensorflow(threads=_TRIAL_CPUS)
        config = sweep.config(values)
        self._sweep, self._number = sweep, number
        self._spec, self._stages = sweep.layout(values)
        # One classifier with dropout serves them all: the rate is set anew, 0 too.
        precision = model.choose_precision(config.precision, model.gpu_capabilities())
        rebuilt = dataclasses.replace(self._spec, dropout=0.5)
        self._classifier, weights = _fresh_classifier(rebuilt, pretrained, precision)
        self._exact = self._classifier
        if precision != "float32":
            self._exact, _ = _fresh_classifier(rebuilt, pretrained, "float32")
        self._classifier.set_weights(weights)
        self._classifier.get_layer(model.DROPOUT).rate = config.dropout
        self._strategy = tf.distribute.get_strategy()
        tf_keras.utils.set_random_seed(config.seed)
        self._seed = config.seed
        self._best = {"val_acc": 0.0, "val_loss": float("inf")}
        self._epochs = 0

    def fit(self) -> dict[str, Any]:
        """Train all stages, leave the best one's model, and return its scores."""
        found: list[tuple[tuple[float, float], dict[str, Any]]] = []
        for place, stage in enumerate(self._stages):
            path, last = self._state_path(stage), place + 1 == len(self._stages)
            state = StageState.from_bytes(files.read_bytes(path)) if files.exists(path) else None
            if state is not None:
                self._tell(state, stage, last)
            state = fit_stage(
                self._classifier,
                stage.settings,
                cut=stage.cut,
                train=_rows(_cached(stage.train), self._seed, self._sweep.memory_bytes),
                validation=_rows(stage.validation, None, self._sweep.memory_bytes),
                strategy=self._strategy,
                seed=self._seed,
                state=state,
                on_epoch=lambda state, _, stage=stage, last=last: self._tell(state, stage, last),  # type: ignore[misc]
            )
            self._best, self._epochs = self._best_with(state), self._epochs + state.epoch
            if self._exact is not self._classifier:
                self._exact.set_weights(self._classifier.get_weights())
            scores = {"validation": self._evaluate(stage, stage.validation)}
            if stage.test is not None:
                scores["test"] = self._evaluate(stage, stage.test)
            key = (scores["validation"]["accuracy"], -scores["validation"]["loss"])
            if not found or key >= max(best for best, _ in found):
                self._leave(stage, state, scores)
            found.append((key, {"stage": stage.name, **scores}))
        best = max(found, key=lambda pair: pair[0])[1]
        return {"status": "finished", "epochs": self._epochs, **best}

    def _evaluate(self, stage: StageJob, cache: FeatureCache) -> dict[str, float]:
        rows = _rows(cache, None, self._sweep.memory_bytes)
        return evaluate(self._exact, cut=stage.cut, rows=rows, strategy=self._strategy)

    def _tell(self, state: StageState, stage: StageJob, last: bool) -> None:
        """Tell Ray Tune of an epoch. It may pause the trial here: the next stage then begins in another process."""
        from ray import tune

        ended = state.epoch >= stage.settings.epochs
        if ended and not last:
            files.write_bytes(self._state_path(stage), state.to_bytes())
        effort, epochs = _effort(state.epoch, last=last, ended=ended), self._epochs + state.epoch
        tune.report({**self._best_with(state), "effort": effort, "epochs": epochs, "number": self._number})

    def _best_with(self, state: StageState) -> dict[str, float]:
        """Return the best scores of the stages before and of `state`."""
        return {
            "val_acc": max([self._best["val_acc"], *(row["val_acc"] for row in state.history)]),
            "val_loss": min([self._best["val_loss"], *(row["val_loss"] for row in state.history)]),
        }

    def _state_path(self, stage: StageJob) -> str:
        return files.join(self._sweep.directory(self._number), f"{stage.name}.npz")

    def _leave(self, stage: StageJob, state: StageState, scores: Mapping[str, Any]) -> None:
        from catdog.model import classifier as model

        mark = {"name": stage.name, "epochs": state.epoch, "best_epoch": state.best_epoch, **scores}
        card = {**spec_to_card(self._spec), **self._sweep.card, "stage": mark}
        with files.staged_directory(files.join(self._sweep.directory(self._number), "model")) as folder:
            model.save_model(folder, self._exact, card)


class _DistributedTrial:
    """One trial as a TensorflowTrainer of several workers, which goes on from its own checkpoints."""

    def __init__(self, sweep: Sweep, values: Mapping[str, Any], *, pretrained: Shared, number: int) -> None:
        self._sweep, self._number, self._pretrained = sweep, number, pretrained
        self._directory = sweep.directory(number)
        spec, stages = sweep.layout(values)
        self._job = TrainJob(
            run_dir=self._directory,
            spec=spec,
            seed=sweep.config(values).seed,
            stages=tuple(stages),
            card=sweep.card,
            plan=sweep.plan,
            precision=sweep.base.precision,
        )
        self._reported = 0

    def fit(self) -> dict[str, Any]:
        """Train all stages, keep the best one's model, and return its scores."""
        training = Training(self._job, pretrained=self._pretrained.get(), cluster=self._sweep.base.cluster)
        training.finish(self._follow)
        self._follow()
        marks = {stage.name: stage_mark(self._directory, stage.name) for stage in self._job.stages}
        best = best_stage(marks)
        copy_model(files.join(self._directory, best, "model"), files.join(self._directory, "model"))
        for leftover in ("checkpoints", LOSSES_FILE, *marks):
            files.delete(files.join(self._directory, leftover))
        scores: dict[str, Any] = {name: marks[best][name] for name in ("validation", "test") if name in marks[best]}
        return {"status": "finished", "stage": best, "epochs": sum(mark["epochs"] for mark in marks.values()), **scores}

    def _follow(self) -> None:
        """Tell Ray Tune of the epochs that the workers have noted since the last call."""
        from ray import tune

        rows = [
            (place, row)
            for place, stage in enumerate(self._job.stages)
            for row in read_history(files.join(self._directory, stage.name))
        ]
        for index in range(self._reported, len(rows)):
            place, row = rows[index]
            stages = self._job.stages
            ended = row["epoch"] >= stages[place].settings.epochs
            tune.report(
                {
                    "val_acc": max(past["val_acc"] for _, past in rows[: index + 1]),
                    "val_loss": min(past["val_loss"] for _, past in rows[: index + 1]),
                    "effort": _effort(int(row["epoch"]), last=place + 1 == len(stages), ended=ended),
                    "epochs": index + 1,
                    "number": self._number,
                }
            )
        self._reported = len(rows)


def _effort(epoch: int, *, last: bool, ended: bool) -> int:
    """Return what schedulers count: the epochs of the last stage, which cost, and 1 for all that comes before.

    The very last epoch does not count: a trial that has come so far is not to be stopped before it leaves its model.
    """
    return 1 + epoch - int(ended) if last else int(ended)


@lru_cache(maxsize=2)
def _fresh_classifier(spec: ClassifierSpec, pretrained: Shared, precision: str) -> tuple[Any, list[Any]]:
    """Build the classifier once a process; return it with the weights that every trial starts from."""
    import tf_keras

    from catdog.model import backbones
    from catdog.model import classifier as model

    tf_keras.utils.set_random_seed(0)  # every process draws the same head
    classifier = model.build_classifier(spec, precision=precision)
    weights = pretrained.get()
    if weights is not None:
        backbones.load_pretrained(classifier, weights)
    return classifier, classifier.get_weights()


@lru_cache(maxsize=16)
def _rows(cache: FeatureCache, seed: int | None, memory_bytes: int) -> CachedRows:
    """Return the rows of `cache`, which stay in memory from trial to trial."""
    return CachedRows(cache, seed=seed, equal=seed is not None, memory_bytes=memory_bytes)


def _cached(rows: Any) -> FeatureCache:
    if not isinstance(rows, FeatureCache):
        raise FailureError("a sweep's trials read cached features: give a larger --cache-budget-gib")
    return rows


# The sweep, in the driver


def tune(config: TuneConfig, *, say: Say = print, started: float | None = None) -> dict[str, Any]:
    """Run the whole tune job and return what best.json holds; finished trials are not run again.

    Raises UsageError and FailureError as its steps do.
    """
    begin = started if started is not None else time.monotonic()
    texts = dict(item.split("=", 1) for item in config.space) or DEFAULT_SPACE
    space = parse_space(TrainConfig, texts)
    if config.search == "optuna":
        require_optuna()
    else:
        check_trials(space, config.trials)
    check_layouts(space)
    run_dir = open_run(config, corrections=corrections_fingerprint(config))
    require_tracker(config.track, run_dir=run_dir)
    if files.exists(files.join(run_dir, "report.json")):
        raise UsageError(f"{run_dir} is a train job's: give another --run-dir, and --features {run_dir}/features")
    known = set(flatten_config(TrainConfig()))
    base = build_config(TrainConfig, {key: value for key, value in flatten_config(config).items() if key in known})
    pretrained = load_weights(config.backbone, weights=config.weights)
    check_cut(config)
    say(f"Run directory: {run_dir}")
    with connected(verbose=config.verbose) as resources, report_failures(say):
        quiet_datasets(verbose=config.verbose)
        plan = make_plan(resources, config.cluster)
        check_shared(written={"--run-dir": run_dir}, read={"--photos": config.photos, "--features": config.features})
        trial_cpus, parallel = _share_out(
            resources.scaled(gpus=config.cluster.use_gpu == "yes"), plan, workers=config.cluster.workers
        )
        say(_plan_sentence(config, space, plan, parallel=parallel, run_dir=run_dir))
        manifest = ingest(config, run_dir=run_dir, say=say)
        root = files.absolute(config.features) if config.features else files.join(run_dir, "features")
        start = time.monotonic()
        layouts = _extract(base, space, manifest, pretrained, root=root, plan=plan, say=say)
        say(f"Features ready after {duration(time.monotonic() - start)}.")
        sweep = Sweep(
            base=base,
            space=space,
            card=model_card(base, manifest, pretrained),
            layouts=layouts,
            run_dir=run_dir,
            memory_bytes=_memory_bytes(parallel),
            plan=plan,
        )
        _run(sweep, config, pretrained=pretrained, parallel=parallel, trial_cpus=trial_cpus, say=say)
    return _finish(sweep, config, seconds=time.monotonic() - begin, say=say)


def _plan_sentence(config: TuneConfig, space: Space, plan: Plan, *, parallel: int, run_dir: str) -> str:
    each = f"{plan.workers} workers" if config.cluster.workers else "one process"
    batches = {
        stage: "swept" if f"{stage}.global_batch_size" in space else size
        for stage, size in stage_batches(config).items()
    }
    return (
        f"Plan: {config.trials} trials, {parallel} at once in {each} each, scheduler {config.scheduler}, "
        f"{plan.pool_text()}; {batches_text(batches)}; {storage_text(run_dir)}."
    )


def _extract(
    base: TrainConfig,
    space: Space,
    manifest: Manifest,
    pretrained: Pretrained | None,
    *,
    root: str,
    plan: Plan,
    say: Say,
) -> dict[tuple[Any, ...], tuple[ClassifierSpec, tuple[StageJob, ...]]]:
    """Run the trunk for every combination of the knobs that change features; return model and stages of each."""
    knobs, layouts = layout_knobs(space), {}
    for point in itertools.product(*(space[key].values for key in knobs)):
        config = build_config(TrainConfig, {**flatten_config(base), **dict(zip(knobs, point, strict=True))})
        layout = StageLayout(config, manifest, pretrained, root=root)
        layout.extract(plan, say=say)
        layouts[point] = (layout.spec, layout.stages())
    return layouts


def _share_out(resources: Resources, plan: Plan, *, workers: int) -> tuple[float, int]:
    """Return (CPUs that one trial's own process books, trials at once).

    A distributed trial's process only waits for its workers, which book for themselves.
    """
    if not workers:
        return float(_TRIAL_CPUS), max(1, sum(int(node.cpus) // _TRIAL_CPUS for node in resources.nodes))
    if plan.worker_gpus:
        return _WAITING_CPUS, max(1, int(resources.gpus) // workers)
    # Workers of all trials together leave a part of the CPUs to the waiting processes.
    return _WAITING_CPUS, max(1, int(0.75 * resources.cpus / (workers * plan.worker_cpus)))


def _memory_bytes(parallel: int) -> int:
    """Return how much of the rows one trial keeps in memory: together a quarter of this machine's."""
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 4 / min(parallel, os.cpu_count() or 1) / 4)


def _run(
    sweep: Sweep,
    config: TuneConfig,
    *,
    pretrained: Pretrained | None,
    parallel: int,
    trial_cpus: float,
    say: Say,
) -> None:
    from ray import tune as ray_tune

    done = read_records(sweep.run_dir)
    waiting = [number for number in range(config.trials) if number not in done]
    if not waiting:
        return
    if done:
        say(f"Going on: {len(done)} of {config.trials} trials were finished before.")
    shared = share(pretrained)
    storage = files.join(sweep.run_dir, "tune")
    files.delete(storage)  # Ray Tune's own notes of a sweep that was killed; ours are the records
    follower = _make_follower(sweep, config, done=done, say=say)
    # A search that learns asks for few trials at a time; the first stage of a distributed one costs a trainer's start.
    waits = config.search == "random" and not config.cluster.workers
    if config.search == "optuna":
        chosen: dict[str, Any] = {}
        searcher = make_searcher(sweep.space, done=done, seed=config.seed)
        search = {"search_alg": searcher, "num_samples": len(waiting), "max_concurrent_trials": parallel}
    else:
        drawn = [{"number": number, **draw_trial(sweep.space, number, seed=config.seed)} for number in waiting]
        # A trial that waits at a rung counts as concurrent: with a limit the others would never come.
        chosen = {"chosen": ray_tune.grid_search(drawn)}
        search = {} if waits else {"max_concurrent_trials": parallel}
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(
            ray_tune.with_parameters(run_chosen, sweep=sweep, pretrained=shared), {"cpu": trial_cpus}
        ),
        param_space=chosen,
        tune_config=ray_tune.TuneConfig(
            scheduler=make_scheduler(
                config.scheduler,
                epochs=(config.unfrozen if config.unfrozen.epochs else config.frozen).epochs,
                waits=waits,
            ),
            **search,
            reuse_actors=not config.cluster.workers,
        ),
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=sweep.run_dir,
            verbose=0,
            callbacks=[follower],
            failure_config=ray_tune.FailureConfig(max_failures=_MAX_FAILURES),
        ),
    )
    try:
        tuner.fit()
    except Exception as error:  # Ray wraps what it meets in classes of its own
        raise FailureError(f"the sweep stopped: {root_cause(error)}; the same command goes on") from error
    files.delete(storage)


def run_chosen(params: dict[str, Any], *, sweep: Sweep, pretrained: Shared) -> None:
    """Run the trial that Ray Tune chose from the list."""
    run_trial(params["chosen"], sweep=sweep, pretrained=pretrained)


def _make_follower(sweep: Sweep, config: TuneConfig, *, done: Mapping[int, Mapping[str, Any]], say: Say) -> Any:
    from ray.tune import Callback

    class Follower(Callback):  # type: ignore[misc]
        """Prints a line a trial, and records the trials that ended without a record of their own."""

        def __init__(self) -> None:
            self._start = time.monotonic()
            self._records = dict(done)
            found = _best(done)
            self._kept = -1 if found is None else int(found["number"])  # the trial whose model stands

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self._end(trial, {"status": "stopped"})

        def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            say(f"Trial {trial.config['chosen']['number']} was lost and runs again: {_loss_cause(trial)}")

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            if trial.num_failures > _MAX_FAILURES:
                self._end(trial, {"status": "failed", "reason": "its process died, or raised an error, more than once"})

        def _end(self, trial: Any, ending: dict[str, Any]) -> None:
            chosen = dict(trial.config["chosen"])
            number = int(chosen.pop("number"))
            path = files.join(sweep.directory(number), _RECORD)
            if not files.exists(path):
                last = trial.last_result or {}
                scores = {"accuracy": last.get("val_acc"), "loss": last.get("val_loss")}
                record = {
                    "number": number,
                    "values": chosen,
                    "process": last.get("pid"),
                    **ending,
                    "epochs": last.get("epochs", 0),
                    **({"validation": scores} if scores["accuracy"] is not None else {}),
                    **_ending(float(last.get("time_total_s", 0.0))),
                }
                files.write_json(path, record)
            self._records[number] = files.read_json(path)
            for stage in ("frozen", "unfrozen"):
                files.delete(files.join(sweep.directory(number), f"{stage}.npz"))
            best = _best(self._records)
            kept = -1 if best is None else int(best["number"])
            for other in {number, self._kept} - {kept, -1}:
                files.delete(files.join(sweep.directory(other), "model"))
            self._kept = kept
            say(self._line(self._records[number], best))

        def _line(self, record: Mapping[str, Any], best: Mapping[str, Any] | None) -> str:
            new, left = len(self._records) - len(done), config.trials - len(self._records)
            text = f"{len(self._records)}/{config.trials}: {trial_text(record)}"
            if best:
                text += f" - best {best['validation']['accuracy']:.4f} (trial {best['number']})"
            eta = (time.monotonic() - self._start) / max(1, new) * left
            return text + (f" - ETA {duration(eta)}" if left else "")

    return Follower()


def _loss_cause(trial: Any) -> str:
    """Return in a line what ended the process of `trial` the last time."""
    try:
        # Where the trial runs; in the sweep's own folder it stands later. The text: nothing is unpickled from a file.
        text = Path(trial.error_file).read_text()
    except (OSError, TypeError):
        return "its process died"
    last = text.rpartition("Failure # ")[2].partition("\n")[2]  # under a line with its number and time
    return root_cause(RuntimeError(last)).partition(". ")[0]


def trial_text(record: Mapping[str, Any]) -> str:
    """Return one trial in a line: what came of it and its values."""
    values = ", ".join(f"{key} {value}" for key, value in record["values"].items())
    scores = record.get("validation")
    found = f"val acc {scores['accuracy']:.4f}, val loss {scores['loss']:.4f}" if scores else record.get("reason", "")
    state = "" if record["status"] == "finished" else f"{record['status']}, "
    after = f" after {record['epochs']} epochs" if record.get("epochs") else ""
    return f"trial {record['number']} {state}{found}{after} in {duration(record['seconds'])} ({values})"


def read_records(run_dir: str) -> dict[int, dict[str, Any]]:
    """Return the record of each trial that has ended, by its number."""
    system, inside = files.open_filesystem(files.join(run_dir, "trials"))
    found = system.get_file_info(fs.FileSelector(inside, recursive=True, allow_not_found=True))
    paths = [entry.path for entry in found if entry.base_name == _RECORD]
    base = files.join(run_dir, "trials")
    names = [path.split("/")[-2] for path in paths]
    records = [files.read_json(files.join(base, name, _RECORD)) for name in names]
    return {int(record["number"]): record for record in sorted(records, key=lambda record: record["number"])}


def _best(records: Mapping[int, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the finished trial of the greatest validation accuracy, of equals that of the least loss."""
    finished = [record for record in records.values() if record["status"] == "finished"]
    if not finished:
        return None
    return max(finished, key=lambda one: (one["validation"]["accuracy"], -one["validation"]["loss"], -one["number"]))


def _finish(sweep: Sweep, config: TuneConfig, *, seconds: float, say: Say) -> dict[str, Any]:
    """Write the tables, the plot, the best trial's model and best.json; tell what was found."""
    records = read_records(sweep.run_dir)
    _write_tables(records, sweep)
    best = _best(records)
    if best is None:
        reasons = sorted({record.get("reason", record["status"]) for record in records.values()})
        raise FailureError(f"none of {len(records)} trials finished: {'; '.join(reasons)}")
    # A place of its own: the photos' default run directory may hold another training of theirs.
    winner = dataclasses.replace(sweep.config(best["values"]), run_dir=files.join(sweep.run_dir, "best"))
    command = ["python", "jobs/train.py", *as_flags(winner)]
    copy_model(files.join(sweep.directory(best["number"]), "model"), files.join(sweep.run_dir, "model"))
    draw_sweep(list(records.values()), list(sweep.space), run_dir=sweep.run_dir)
    states = Counter(record["status"] for record in records.values())
    result = {
        "number": best["number"],
        "values": best["values"],
        "stage": best["stage"],
        "validation": best["validation"],
        **({"test": best["test"]} if "test" in best else {}),
        "command": shlex.join(command),
        "trials": dict(states),
        "trial_seconds": round(sum(record["seconds"] for record in records.values()), 3),
        "seconds": round(seconds, 3),
        "versions": versions(),
    }
    files.write_json(files.join(sweep.run_dir, "best.json"), result)
    _say_result(records, result, sweep, say=say)
    leave_page(
        sweep.run_dir,
        lambda: build_tune_page(list(records.values()), list(sweep.space), result=result, run_dir=sweep.run_dir),
        say=say,
    )
    runs = [_tracked_run(number, record, sweep) for number, record in sorted(records.items())]
    track_runs(config.track, runs, run_dir=sweep.run_dir, say=say)
    return result


def _tracked_run(number: int, record: Mapping[str, Any], sweep: Sweep) -> TrackedRun:
    """Return a trial as a run of its own; its scores are of validation, as in trials.csv."""
    directory = sweep.directory(number)
    return TrackedRun(
        name=f"trial-{number:04d}",
        settings={**record["values"], "status": record["status"]},
        curves=run_curves([read_history(files.join(directory, stage)) for stage in ("frozen", "unfrozen")]),
        scores={f"validation_{score}": value for score, value in record.get("validation", {}).items()},
        files=[files.join(directory, _RECORD)],
    )


def _write_tables(records: Mapping[int, Mapping[str, Any]], sweep: Sweep) -> None:
    """Write trials.csv and trials.parquet: a row a trial; scores are of validation, never of test."""
    rows = [
        {
            "trial": number,
            **{key: record["values"].get(key) for key in sweep.space},
            "status": record["status"],
            "stage": record.get("stage"),
            "epochs": record.get("epochs", 0),
            "val_accuracy": record.get("validation", {}).get("accuracy"),
            "val_loss": record.get("validation", {}).get("loss"),
            "seconds": record["seconds"],
            "reason": record.get("reason"),
        }
        for number, record in sorted(records.items())
    ]
    table = pa.Table.from_pylist(rows)
    for name, write in (("trials.parquet", pq.write_table), ("trials.csv", pa.csv.write_csv)):
        sink = pa.BufferOutputStream()
        write(table, sink)
        files.write_bytes(files.join(sweep.run_dir, name), bytes(sink.getvalue()))


def _say_result(records: Mapping[int, Mapping[str, Any]], result: Mapping[str, Any], sweep: Sweep, *, say: Say) -> None:
    rated = [record for record in records.values() if "validation" in record]
    rated.sort(key=lambda one: (-one["validation"]["accuracy"], one["validation"]["loss"]))
    rows = [("trial", "status", "epochs", "val acc", "val loss", "time", *sweep.space)]
    for one in rated[:10]:
        scores = [f"{one['validation'][name]:.4f}" for name in ("accuracy", "loss")]
        values = [str(one["values"][key]) for key in sweep.space]
        rows.append((str(one["number"]), one["status"], str(one["epochs"]), *scores, duration(one["seconds"]), *values))
    say("")
    say(table_text(rows))
    states = ", ".join(f"{count} {state}" for state, count in sorted(result["trials"].items()))
    say(f"{len(records)} trials ({states}) in {duration(result['seconds'])}.")
    text = f"Best: trial {result['number']}, chosen on validation (accuracy {result['validation']['accuracy']:.4f})"
    if "test" in result:
        text += f"; on the test photos, which took no part in the choice, {result['test']['accuracy']:.4f}"
    say(f"{text}.")
    say(f"Model: {files.join(sweep.run_dir, 'model')}")
    say(f"Train it again: {result['command']}")
