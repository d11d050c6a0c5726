"""The steps of a train job in order: ingest, trunk pass, stages, report. Steps with a finished artifact are skipped."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from catdog.cluster.connection import connected
from catdog.cluster.environment import import_in_background, quiet_datasets
from catdog.cluster.failures import report_failures
from catdog.cluster.plan import Plan, make_plan, train_plan_text
from catdog.cluster.shared_paths import check_shared
from catdog.command_line.settings import flatten_config
from catdog.config import TrainConfig
from catdog.console import duration, say
from catdog.errors import FailureError, one_line
from catdog.evaluation.calibration import Temperature
from catdog.features.cache import (
    FeatureCache,
)
from catdog.model.backbone_specs import HEAD_CUT
from catdog.model.engines import choose_trunk_precision
from catdog.model.openvino.calibration_photos import int8_text, quantize_with_photos
from catdog.model.openvino.quantization import require_nncf
from catdog.model.saved_model import CARD_FILE, WEIGHTS_FILE, copy_model
from catdog.model.weights.pretrained import Pretrained, load_weights
from catdog.photos.annotations.labelling import read_annotations
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.ingest import draw_missing_sample, find_photos, ingest
from catdog.photos.manifest import AnyManifest
from catdog.report.page import PAGE_FILE, write_page
from catdog.report.plots import draw_curves, stage_table
from catdog.report.tracking import TrackedRun, require_tracker, run_curves, track_runs
from catdog.storage import files
from catdog.storage.artifacts import versions
from catdog.storage.run_directory import Stopwatch, hold_run, open_run
from catdog.training.diagnosis import choose_run_temperature, diagnose
from catdog.training.driver import EpochFollower, Training
from catdog.training.fit.checkpoint import read_history
from catdog.training.fit.marks import best_stage, choice_text, stage_mark
from catdog.training.fit.stage_job import TrainJob
from catdog.training.page.heatmaps import HEATMAP_FAILURE, HEATMAP_FILE
from catdog.training.page.report import build_train_page
from catdog.training.stages import StageLayout, check_cut, stage_batches

# At the end of the job, these imports would take four seconds in which the other cores are idle.
_LATER_IMPORTS = (
    "ray.data", "matplotlib.backends.backend_agg", "matplotlib.figure", "matplotlib.ticker", "scipy.stats",
    "sklearn.decomposition", "sklearn.linear_model", "sklearn.model_selection",
)  # fmt: skip


def train(config: TrainConfig, *, started: float | None = None) -> dict[str, Any]:
    """Run the whole train job and return the content of report.json; finished steps are skipped.

    `started` is the time.monotonic() at which the command began, if the time of its imports should count.
    Raises UsageError and FailureError as the steps do.
    """
    begin = started if started is not None else time.monotonic()
    run_dir = open_run(config, fingerprints=read_annotations(config).fingerprints())
    found = find_photos(config, run_dir=run_dir)
    require_tracker(config.track, run_dir=run_dir)
    if config.quantize:
        require_nncf("--quantize")
    if files.exists(files.join(run_dir, "report.json")):
        return _say_finished(run_dir)
    watch = Stopwatch(run_dir)
    say(f"Run directory: {run_dir}")
    pretrained = load_weights(config.backbone, weights=config.weights)
    check_cut(config)
    prepare = partial(_prepare, config, run_dir=run_dir)
    with hold_run(run_dir), connected(verbose=config.verbose, meanwhile=prepare) as resources, report_failures():
        quiet_datasets(verbose=config.verbose)
        plan = make_plan(resources, config.cluster)
        check_shared(written={"--run-dir": run_dir}, read={"--photos": config.photos})
        watch.add("start", time.monotonic() - begin)
        say(train_plan_text(plan, batches=stage_batches(config), storage=run_dir))
        with watch.step("ingest"):
            manifest = ingest(config, run_dir=run_dir, found=found)
        watch.save()
        job = _train_stages(
            config, manifest, pretrained, watch, plan, run_dir=run_dir, single_node=resources.is_single_node
        )
        report = _finish(config, manifest, job, watch, run_dir=run_dir)
    if config.quantize:
        scores = quantize_with_photos(
            files.join(run_dir, "model"), photos="", limits=DecodeLimits(max_pixels=config.max_pixels)
        )
        say(int8_text(scores))
    _say_result(report, run_dir=run_dir)
    _write_page(report, run_dir=run_dir)
    track_runs(config.track, [_tracked_run(config, report, run_dir)], run_dir=run_dir)
    return report


def _prepare(config: TrainConfig, *, run_dir: str) -> None:
    """Draw the sample, and begin to import what the job needs later."""
    draw_missing_sample(config, run_dir=run_dir)
    import_in_background(_LATER_IMPORTS)


def _say_finished(run_dir: str) -> dict[str, Any]:
    say(f"Nothing to do: {run_dir} is finished. Use another --run-dir to train again.")
    report = _read_report(run_dir)
    _say_result(report, run_dir=run_dir)
    if not files.exists(files.join(run_dir, PAGE_FILE)):
        _write_page(report, run_dir=run_dir)
    return report


def _read_report(run_dir: str) -> dict[str, Any]:
    """Return the content of report.json; raises FailureError if it is not the report of a train run."""
    path = files.join(run_dir, "report.json")
    report = files.read_json(path)
    if not (isinstance(report.get("stages"), dict) and isinstance(report.get("seconds"), dict) and "model" in report):
        raise FailureError(
            f"{path}: expected the report of a train run, found something else: move it away and run the same command "
            "to make a new one"
        )
    return report


def _train_stages(
    config: TrainConfig,
    manifest: AnyManifest,
    pretrained: Pretrained | None,
    watch: Stopwatch,
    plan: Plan,
    *,
    run_dir: str,
    single_node: bool,
) -> TrainJob:
    """Run the trunk pass while the workers start, then the stages on its features; return the job."""
    layout = StageLayout(
        config,
        manifest,
        pretrained,
        root=files.join(run_dir, "features"),
        trunk_precision=choose_trunk_precision(
            config.trunk_precision, single_node=single_node, gpus=plan.actor_gpus > 0
        ),
    )
    job = layout.train_job(plan, run_dir=run_dir)
    follower = EpochFollower(job)
    training = Training(job, pretrained=pretrained, cluster=config.cluster, single_node=single_node)
    try:
        with watch.step("trunk"):
            rows = layout.extract(plan)
    except Exception:
        training.abandon()
        raise
    watch.count("trunk_rows", rows)
    watch.save()
    with watch.step("train"):
        training.finish(follower)
    watch.save()
    return job


def _finish(
    config: TrainConfig, manifest: AnyManifest, job: TrainJob, watch: Stopwatch, *, run_dir: str
) -> dict[str, Any]:
    """Choose the model and calibrate it, diagnose the run, draw the plots, write report.json last."""
    start = time.monotonic()
    marks = {stage.name: stage_mark(run_dir, stage.name) for stage in job.stages}
    best = best_stage(marks)
    for name, mark in marks.items():
        if head := mark.get("head"):
            how = ", by cross-validation" if head["losses"] else ""
            say(f"The head of the {name} stage is a logistic regression: C = {head['c']:g}{how}.")
    temperature = _temperature(config, manifest, files.join(run_dir, best))
    copy_model(files.join(run_dir, best, "model"), files.join(run_dir, "model"), temperature=temperature.value)
    _diagnose(config, manifest, job, run_dir=run_dir, best=best, temperature=temperature)
    draw_curves({name: read_history(files.join(run_dir, name)) for name in marks}, run_dir=run_dir)
    for leftover in ("checkpoints", HEATMAP_FILE, HEATMAP_FAILURE):
        files.delete(files.join(run_dir, leftover))
    watch.add("report", time.monotonic() - start)
    report = _make_report(manifest, marks, watch)
    files.write_json(files.join(run_dir, "report.json"), report)
    return report


def _make_report(manifest: AnyManifest, marks: Mapping[str, Mapping[str, Any]], watch: Stopwatch) -> dict[str, Any]:
    """Return the content of report.json for the stages with these `marks`."""
    rows = watch.counts.get("trunk_rows", 0)
    rate = round(rows / watch.seconds["trunk"], 1) if rows else None
    return {
        "classes": list(manifest.classes),
        "counts": {**manifest.counts(), "rejected": manifest.rejected_count},
        "stages": {
            name: {
                "epochs": mark["epochs"],
                "best_epoch": mark["best_epoch"],
                "seconds": mark["train_seconds"],
                "trunk_images_per_second": rate,
                **{key: mark[key] for key in ("head", "validation", "test", "against") if key in mark},
            }
            for name, mark in marks.items()
        },
        "model": best_stage(marks),
        "choice": choice_text(marks),
        "seconds": {"total": round(math.fsum(watch.seconds.values()), 3), **watch.seconds},
        "versions": versions(),
    }


def _temperature(config: TrainConfig, manifest: AnyManifest, stage_dir: str) -> Temperature:
    """Return the temperature for the run's model, or 1.0 if it cannot be fitted to the predictions."""
    if config.augment_validation:
        return Temperature(value=1.0, reason="augmented validation photos would give a wrong temperature")
    try:
        return choose_run_temperature(stage_dir, classes=manifest.classes)
    except FailureError as error:
        say(f"Warning: the model is not calibrated: {error}")
        return Temperature(value=1.0, reason="the predictions cannot be read")


def _diagnose(
    config: TrainConfig, manifest: AnyManifest, job: TrainJob, *, run_dir: str, best: str, temperature: Temperature
) -> None:
    """Write diagnosis.json and its pictures, and print what a person should look at; failures only print a warning."""
    cached = [stage.train for stage in job.stages if stage.cut == HEAD_CUT and isinstance(stage.train, FeatureCache)]
    try:
        lines = diagnose(
            run_dir,
            manifest,
            stages=[stage.name for stage in job.stages],
            best=best,
            temperature=temperature,
            train_features=cached[0] if cached else None,
            heatmaps=files.join(run_dir, HEATMAP_FILE),
            limits=DecodeLimits(max_pixels=config.max_pixels),
            task_cpus=job.plan.task_cpus,
        )
        failure = files.join(run_dir, HEATMAP_FAILURE)
        if files.exists(failure):
            lines.append(f"Warning: no heatmaps were made: {files.read_json(failure)['message']}")
    except Exception as error:  # the model is trained and measured: explaining it must not fail the run
        lines = [f"Warning: the run could not be diagnosed: {one_line(error)}"]
    for line in lines:
        say(line)


def _say_result(report: Mapping[str, Any], *, run_dir: str) -> None:
    say("")
    say(stage_table(report["stages"]))
    seconds = report["seconds"]
    parts = ", ".join(f"{name} {duration(seconds[name])}" for name in seconds if name != "total")
    say(f"Time: {duration(seconds['total'])} ({parts})")
    chosen = report.get("choice", f"the {report['model']} stage's, better on validation")  # older reports lack it
    say(f"Model: {files.join(run_dir, 'model')} ({chosen})")


def _write_page(report: Mapping[str, Any], *, run_dir: str) -> None:
    """Write report.html from the files in `run_dir`."""

    def build() -> str:
        histories = {stage: read_history(files.join(run_dir, stage)) for stage in report["stages"]}
        return build_train_page(run_dir, histories=histories)

    write_page(run_dir, build)


def _tracked_run(config: TrainConfig, report: Mapping[str, Any], run_dir: str) -> TrackedRun:
    scores = {
        f"{stage}_{split}_{score}": value
        for stage, found in report["stages"].items()
        for split in ("validation", "test")
        for score, value in found.get(split, {}).items()
    }
    names = ("config.json", "report.json", "diagnosis.json", PAGE_FILE, "accuracy.png", "loss.png")
    return TrackedRun(
        name=files.split_query(run_dir)[0].rstrip("/").rpartition("/")[2],
        settings=flatten_config(config, identity_only=True),
        curves=run_curves([read_history(files.join(run_dir, stage)) for stage in report["stages"]]),
        scores=scores,
        files=[files.join(run_dir, name) for name in (*names, f"model/{CARD_FILE}", f"model/{WEIGHTS_FILE}")],
    )
