"""The order of the steps: ingest, trunk pass, stages, report. Each step is skipped where its artifact is finished."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from catdog.cluster.connection import connected, quiet_datasets
from catdog.cluster.failures import report_failures
from catdog.cluster.plan import Plan, make_plan
from catdog.cluster.shared_paths import check_shared
from catdog.config import IngestConfig, StageConfig, TrainConfig, flatten_config
from catdog.console import ProgressLine, duration, epoch_text
from catdog.errors import FailureError, UsageError, one_line
from catdog.evaluation.calibration import Temperature, fold_temperature
from catdog.features.cache import (
    PLAIN_VIEW,
    CachePlace,
    Extraction,
    FeatureCache,
    PhotoSet,
    feature_bytes,
    locate_cache,
)
from catdog.features.trunk import extract_features
from catdog.model.saved_model import CARD_FILE, HEAD_CUT, INPUT_CUT, WEIGHTS_FILE, ClassifierSpec
from catdog.model.weights.pretrained import Pretrained, load_weights
from catdog.photos.corrections import read_corrections
from catdog.photos.manifest import Manifest, build_manifest, read_manifest, write_manifest
from catdog.photos.sample import draw_sample
from catdog.report.page import PAGE_FILE, leave_page
from catdog.report.plots import draw_curves, stage_table
from catdog.report.tracking import TrackedRun, require_tracker, run_curves, track_runs
from catdog.storage import artifacts, files
from catdog.storage.versions import versions
from catdog.training.diagnosis import choose_run_temperature, diagnose
from catdog.training.driver import LOSSES_FILE, Training
from catdog.training.report import build_train_page
from catdog.training.train_loop import read_history
from catdog.training.worker import HEAT_FAILURE, HEAT_FILE, ComingStage, StageJob, StreamSource, TrainJob, best_stage

# What a backbone is before it is built; backbones.py has the rest, and TensorFlow with it.
_IMAGE_SIZE = 224
_KNOWN_SHAPES = {HEAD_CUT: (1280,), "block7a_project_conv": (7, 7, 1152), INPUT_CUT: (_IMAGE_SIZE, _IMAGE_SIZE, 3)}

Say = Callable[[str], None]


class Stopwatch:
    """Seconds by step, kept in the run directory so that a continued run counts what came before."""

    def __init__(self, run_dir: str) -> None:
        self._path = files.join(run_dir, "seconds.json")
        self.seconds: dict[str, float] = files.read_json(self._path) if files.exists(self._path) else {}

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time of the block to step `name`, also when it ends by an error."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add `seconds` to step `name`."""
        self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 3)

    def save(self) -> None:
        """Keep what was counted; call it once the run directory is known to be ours."""
        files.write_json(self._path, self.seconds)


def default_run_dir(config: IngestConfig) -> str:
    """Return where a run goes that names no --run-dir: the same command finds it again."""
    name = Path(config.photos.rstrip("/")).stem if config.photos else "sample"
    recipe = getattr(config, "recipe", "default")
    return f"runs/{name}" + ("" if recipe == "default" else f"-{recipe}")


def open_run(config: IngestConfig) -> str:
    """Return the run directory as an absolute path or URI, checked: it was made with the same settings or is new.

    Raises UsageError with the differences when it was made with other settings, or where its bucket does not exist.
    """
    run_dir = files.absolute(config.run_dir or default_run_dir(config))
    files.require_bucket(run_dir, flag="--run-dir")
    artifacts.refuse_difference(run_dir, found=_recorded(run_dir), wanted=_settings(config))
    return run_dir


def record_config(config: IngestConfig, *, run_dir: str) -> None:
    """Write config.json, once the settings have proved to be possible; those of an earlier job stay in it."""
    files.write_json(files.join(run_dir, "config.json"), {**_recorded(run_dir), **_settings(config)})


def _recorded(run_dir: str) -> dict[str, Any]:
    path = files.join(run_dir, "config.json")
    # A run of an earlier version knew no corrections.
    return {"corrections": "", **files.read_json(path)} if files.exists(path) else {}


def _settings(config: IngestConfig) -> dict[str, Any]:
    photos = files.absolute(config.photos) if config.photos else ""
    # What the corrections say counts, not where they stand: the same file with another line in it is another setting.
    corrections = read_corrections(config.corrections).fingerprint if config.corrections else ""
    settings = {**flatten_config(config, identity_only=True), "photos": photos, "corrections": corrections}
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()
    }  # as JSON has it


def ingest(config: IngestConfig, *, run_dir: str, say: Say) -> Manifest:
    """Make the manifest of `config.photos` in `run_dir`, or read the one that is finished there.

    Without photos the sample is drawn first. Raises what build_manifest raises.
    """
    directory = files.join(run_dir, "manifest")
    names = ("photos", "train_per_class", "validation_per_class", "test_per_class", "seed", "max_pixels")
    source = files.absolute(config.photos) if config.photos else _sample(run_dir, seed=0, say=say)
    corrections = read_corrections(config.corrections) if config.corrections else None
    inputs = {**{name: getattr(config, name) for name in names}, "photos": source}
    inputs["corrections"] = corrections.fingerprint if corrections else ""
    if artifacts.completed(directory, inputs=inputs) is not None:
        manifest = read_manifest(directory)
        say(manifest.summary_lines()[0])
        record_config(config, run_dir=run_dir)
        return manifest
    manifest = build_manifest(
        source,
        train_per_class=config.train_per_class,
        validation_per_class=config.validation_per_class,
        test_per_class=config.test_per_class,
        seed=config.seed,
        max_pixels=config.max_pixels,
        corrections=corrections,
        note=say,
        progress=ProgressLine("Checking photos", "photos"),
    )
    write_manifest(manifest, directory=directory)
    artifacts.mark_complete(directory, inputs=inputs, summary={"counts": manifest.counts()})
    record_config(config, run_dir=run_dir)
    for line in manifest.summary_lines():
        say(line)
    return manifest


def train(config: TrainConfig, *, say: Say = print, started: float | None = None) -> dict[str, Any]:
    """Run the whole train job and return what report.json holds; finished steps are not done again.

    `started` is the time.monotonic() at which the command began, where its imports should count.
    Raises UsageError and FailureError as the steps do.
    """
    begin = started if started is not None else time.monotonic()
    run_dir = open_run(config)
    require_tracker(config.track, run_dir=run_dir)
    report_path = files.join(run_dir, "report.json")
    if files.exists(report_path):
        say(f"Nothing to do: {run_dir} is finished. Another --run-dir trains anew.")
        report = files.read_json(report_path)
        _say_result(report, run_dir=run_dir, say=say)
        if not files.exists(files.join(run_dir, PAGE_FILE)):
            _leave_page(report, run_dir=run_dir, say=say)
        return report
    watch = Stopwatch(run_dir)
    say(f"Run directory: {run_dir}")
    pretrained = load_weights(config.backbone, weights=config.weights)
    check_cut(config)
    with connected(verbose=config.verbose) as resources, report_failures(say):
        quiet_datasets(verbose=config.verbose)
        plan = make_plan(resources, config.cluster)
        check_shared(written={"--run-dir": run_dir}, read={"--photos": config.photos})
        watch.add("start", time.monotonic() - begin)
        say(plan.sentence(batches=stage_batches(config), storage=run_dir))
        with watch.step("ingest"):
            manifest = ingest(config, run_dir=run_dir, say=say)
        watch.save()
        layout = StageLayout(config, manifest, pretrained, root=files.join(run_dir, "features"))
        job = TrainJob(
            run_dir=run_dir,
            spec=layout.spec,
            seed=config.seed,
            stages=layout.coming_stages(),
            card=model_card(config, manifest, pretrained),
            plan=plan,
            precision=config.precision,
            explain=True,
            max_pixels=config.max_pixels,
        )
        follower = _EpochFollower(job, say)
        training = Training(job, pretrained=pretrained, cluster=config.cluster, alone=resources.is_alone)
        try:
            with watch.step("trunk"):
                rows = layout.extract(plan, say=say)
        except Exception:
            training.abandon()
            raise
        if rows:
            watch.add("trunk_rows", rows)
        watch.save()
        with watch.step("train"):
            training.finish(follower)
            follower()
        watch.save()
        job = dataclasses.replace(job, stages=layout.stages())
        report = _finish(config, manifest, job, watch, run_dir=run_dir, say=say)
    _say_result(report, run_dir=run_dir, say=say)
    _leave_page(report, run_dir=run_dir, say=say)
    track_runs(config.track, [_tracked_run(config, report, run_dir)], run_dir=run_dir, say=say)
    return report


def stage_batches(config: TrainConfig) -> dict[str, int]:
    """Return the rows a step of each stage that `config` trains."""
    stages: dict[str, StageConfig] = {"frozen": config.frozen, "unfrozen": config.unfrozen}
    return {name: stage.global_batch_size for name, stage in stages.items() if stage.epochs}


class StageLayout:
    """What each stage reads: which photos in which views, cut where, cached or streamed."""

    def __init__(self, config: TrainConfig, manifest: Manifest, pretrained: Pretrained | None, *, root: str) -> None:
        self._config, self._pretrained, self._root = config, pretrained, root
        scale, offset = _input_scaling(config, pretrained)
        self.spec = ClassifierSpec(
            backbone=config.backbone,
            image_size=_IMAGE_SIZE,
            classes=manifest.classes,
            pooling=config.pooling,
            dropout=config.dropout,
            input_scale=scale,
            input_offset=offset,
        )
        self._splits = {split: _photo_rows(manifest, split) for split in ("train", "validation", "test")}
        self._stages: list[tuple[str, StageConfig, str]] = [("frozen", config.frozen, HEAD_CUT)]
        if config.unfrozen.epochs:
            self._stages.append(("unfrozen", config.unfrozen, config.unfrozen.unfreeze_from))

    def extract(self, plan: Plan, *, say: Say) -> int:
        """Run the trunk pass for what is not cached; return how many rows it computed."""
        wanted = []
        for _, settings, cut in self._stages:
            for split in ("train", "validation", "test"):
                photos = self._photos(split, settings)
                if photos.table.num_rows and not (split == "train" and self._is_streamed(settings, cut)):
                    wanted.append((self._extraction(cut), photos))
        for name, settings, cut in self._stages:
            if self._is_streamed(settings, cut):
                size = self._train_bytes(settings, cut) / 2**30
                say(
                    f"The {name} stage streams its features: {size:.1f} GiB are more than "
                    f"--cache-budget-gib {self._config.cache_budget_gib:g}."
                )
        progress = ProgressLine("Trunk pass", "images")
        done = [0]

        def follow(now: int, total: int) -> None:
            done[0] = total
            progress(now, total)

        lost = extract_features(wanted, pretrained=self._pretrained, plan=plan, root=self._root, progress=follow)
        if lost:
            say(f"{len(lost)} photos could no longer be read and were left out, such as {lost[0]}")
        return done[0]

    def coming_stages(self) -> tuple[ComingStage, ...]:
        """Return the stages, whose rows stand once `extract` has ended."""
        return tuple(
            ComingStage(
                name=name,
                settings=settings,
                cut=cut,
                train=self._train_rows(settings, cut),
                validation=self._place("validation", settings, cut),
                test=self._place("test", settings, cut) if self._splits["test"].num_rows else None,
            )
            for name, settings, cut in self._stages
        )

    def stages(self) -> tuple[StageJob, ...]:
        """Return the stages with their rows; call it after `extract`.

        Raises FailureError when rows are missing all the same.
        """
        found = [(stage, stage.find()) for stage in self.coming_stages()]
        for stage, ready in found:
            if ready is None:
                raise FailureError(f"the features of the {stage.name} stage in {self._root} are gone")
        return tuple(ready for _, ready in found if ready is not None)

    def _train_rows(self, settings: StageConfig, cut: str) -> CachePlace | StreamSource:
        if not self._is_streamed(settings, cut):
            return self._place("train", settings, cut)
        photos = self._photos("train", settings)
        return StreamSource(photos=photos.table, views=photos.views, extraction=self._extraction(cut))

    def _place(self, split: str, settings: StageConfig, cut: str) -> CachePlace:
        return locate_cache(self._extraction(cut), self._photos(split, settings), root=self._root)

    def _photos(self, split: str, settings: StageConfig) -> PhotoSet:
        views: tuple[int, ...] = (PLAIN_VIEW,)
        if split == "train":
            views = tuple(range(1, 1 + min(self._config.views or settings.epochs, max(1, settings.epochs))))
        elif split == "validation" and self._config.augment_validation:
            views = (1,)
        return PhotoSet(table=self._splits[split], views=views)

    def _is_streamed(self, settings: StageConfig, cut: str) -> bool:
        return self._train_bytes(settings, cut) > self._config.cache_budget_gib * 2**30

    def _train_bytes(self, settings: StageConfig, cut: str) -> int:
        photos = self._photos("train", settings)
        return feature_bytes(photos, shape=_cut_shape(self.spec, cut), dtype=self._dtype(cut))

    def _dtype(self, cut: str) -> str:
        return "uint8" if cut == INPUT_CUT else self._config.feature_dtype

    def _extraction(self, cut: str) -> Extraction:
        config = self._config
        return Extraction(
            backbone=config.backbone,
            image_size=_IMAGE_SIZE,
            input_scale=self.spec.input_scale,
            input_offset=self.spec.input_offset,
            pooling=config.pooling if cut == HEAD_CUT else None,
            weights_checksum=self._pretrained.checksum if self._pretrained else "none",
            cut=cut,
            dtype=self._dtype(cut),
            seed=config.seed,
            max_pixels=config.max_pixels,
            augmentation=config.augmentation,
        )


def _photo_rows(manifest: Manifest, split: str) -> pa.Table:
    """Return path, label and digest of a split, ordered by digest: as good as shuffled, and the same everywhere."""
    return manifest.select(split).select(["path", "label", "digest"]).sort_by("digest")


def _input_scaling(
    config: TrainConfig, pretrained: Pretrained | None
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    if config.input_scaling == "1/255" or pretrained is None:
        return (1 / 255,) * 3, (0.0,) * 3
    return pretrained.scale, pretrained.offset


def _cut_shape(spec: ClassifierSpec, cut: str) -> tuple[int, ...]:
    """Return the shape of one feature at `cut`; a cut we do not know by heart costs an import of TensorFlow.

    Raises UsageError where the classifier cannot be cut there.
    """
    if cut not in _KNOWN_SHAPES:
        from catdog.model import classifier as model

        trunk, _ = model.split_at(model.build_classifier(spec), cut)
        _KNOWN_SHAPES[cut] = tuple(trunk.output.shape[1:])
    return _KNOWN_SHAPES[cut]


def check_cut(config: TrainConfig) -> None:
    """Refuse a wrong --unfrozen.unfreeze-from before any photo is read."""
    plain = ClassifierSpec(
        backbone=config.backbone,
        image_size=_IMAGE_SIZE,
        classes=("one", "other"),
        pooling=config.pooling,
        dropout=config.dropout,
        input_scale=(1.0,) * 3,
        input_offset=(0.0,) * 3,
    )
    _cut_shape(plain, config.unfrozen.unfreeze_from)


def _sample(run_dir: str, *, seed: int, say: Say) -> str:
    if files.is_uri(run_dir):
        raise UsageError("the drawn sample needs a local --run-dir; give --photos, or a local path")
    directory = Path(run_dir) / "sample"
    if not directory.exists():
        say("No --photos given: drawing a sample of cats and dogs.")
        draw_sample(directory, seed=seed)
    return str(directory)


class _EpochFollower:
    """Prints what the workers leave in the run directory: an epoch line each, and the progress of long ones."""

    def __init__(self, job: TrainJob, say: Say) -> None:
        self._job, self._say = job, say
        self._shown = {stage.name: len(read_history(self._directory(stage.name))) for stage in job.stages}
        self._noted = ""
        self._named = ""
        files.delete(files.join(job.run_dir, LOSSES_FILE))  # of an earlier command
        self._losses = 0

    def __call__(self) -> None:
        """Print what is new since the last call."""
        self._tell_losses()
        for stage in self._job.stages:
            history = read_history(self._directory(stage.name))
            if history and self._named != stage.name and len(history) > self._shown[stage.name]:
                self._named = stage.name
                self._say(f"{stage.name.capitalize()} stage:")
            for row in history[self._shown[stage.name] :]:
                self._say(epoch_text(int(row["epoch"]), stage.settings.epochs, row))
            self._shown[stage.name] = len(history)
            self._note(stage.name)

    def _note(self, stage: str) -> None:
        path = files.join(self._directory(stage), "progress.json")
        if not files.exists(path):
            return
        found = files.read_json(path)
        text = f"  {stage} stage, epoch {found['epoch']}: step {found['step']}/{found['steps']}"
        if text != self._noted and found["epoch"] > self._shown[stage]:
            self._noted = text
            self._say(text)

    def _tell_losses(self) -> None:
        path = files.join(self._job.run_dir, LOSSES_FILE)
        found = files.read_json(path) if files.exists(path) else {"count": 0}
        if found["count"] > self._losses:
            self._say(f"Workers were lost and start again from the last checkpoint: {found['cause']}")
        self._losses = found["count"]

    def _directory(self, stage: str) -> str:
        return files.join(self._job.run_dir, stage)


def model_card(config: TrainConfig, manifest: Manifest, pretrained: Pretrained | None) -> dict[str, Any]:
    """Return what a model card says besides how to build the model."""
    return {
        "config": flatten_config(config, identity_only=True),
        "counts": manifest.counts(),
        "weights": {
            "source": pretrained.source if pretrained else "none",
            "checksum": pretrained.checksum if pretrained else None,
            "license": pretrained.license if pretrained else None,
        },
        "versions": versions(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _finish(
    config: TrainConfig, manifest: Manifest, job: TrainJob, watch: Stopwatch, *, run_dir: str, say: Say
) -> dict[str, Any]:
    """Choose the model and calibrate it, diagnose the run, draw the plots, write report.json last."""
    start = time.monotonic()
    marks = {stage.name: stage_mark(run_dir, stage.name) for stage in job.stages}
    best = best_stage(marks)
    temperature = _temperature(config, manifest, files.join(run_dir, best), say=say)
    copy_model(files.join(run_dir, best, "model"), files.join(run_dir, "model"), temperature=temperature.value)
    _diagnose(config, manifest, job, run_dir=run_dir, best=best, temperature=temperature, say=say)
    draw_curves({name: read_history(files.join(run_dir, name)) for name in marks}, run_dir=run_dir)
    leftovers = ("checkpoints", LOSSES_FILE, HEAT_FILE, HEAT_FAILURE)
    for leftover in (*leftovers, *(f"{name}/progress.json" for name in marks)):
        files.delete(files.join(run_dir, leftover))
    watch.add("report", time.monotonic() - start)
    rows = watch.seconds.pop("trunk_rows", 0)
    rate = round(rows / watch.seconds["trunk"], 1) if rows else None
    steps = dict(watch.seconds)
    report = {
        "classes": list(manifest.classes),
        "counts": {**manifest.counts(), "rejected": manifest.rejected.num_rows},
        "stages": {
            name: {
                "epochs": mark["epochs"],
                "best_epoch": mark["best_epoch"],
                "seconds": mark["train_seconds"],
                "trunk_images_per_second": rate,
                **{split: mark[split] for split in ("validation", "test") if split in mark},
            }
            for name, mark in marks.items()
        },
        "model": best,
        "seconds": {"total": round(math.fsum(steps.values()), 3), **steps},
        "versions": versions(),
    }
    files.write_json(files.join(run_dir, "report.json"), report)
    return report


def _temperature(config: TrainConfig, manifest: Manifest, stage_dir: str, *, say: Say) -> Temperature:
    """Return the temperature for the run's model, 1.0 where its predictions cannot tell."""
    if config.augment_validation:
        return Temperature(value=1.0, reason="augmented validation photos would teach a wrong one")
    try:
        return choose_run_temperature(stage_dir, classes=manifest.classes)
    except FailureError as error:
        say(f"Warning: the model is not calibrated: {error}")
        return Temperature(value=1.0, reason="the predictions cannot be read")


def _diagnose(
    config: TrainConfig,
    manifest: Manifest,
    job: TrainJob,
    *,
    run_dir: str,
    best: str,
    temperature: Temperature,
    say: Say,
) -> None:
    """Write diagnosis.json and its pictures, and say what a person should look at; a failure costs a line, no more."""
    cached = [stage.train for stage in job.stages if stage.cut == HEAD_CUT and isinstance(stage.train, FeatureCache)]
    try:
        lines = diagnose(
            run_dir,
            manifest,
            stages=[stage.name for stage in job.stages],
            best=best,
            temperature=temperature,
            train_features=cached[0] if cached else None,
            heat=files.join(run_dir, HEAT_FILE),
            max_pixels=config.max_pixels,
            task_cpus=job.plan.task_cpus,
        )
        failure = files.join(run_dir, HEAT_FAILURE)
        if files.exists(failure):
            lines.append(f"Warning: no pictures of where the model looked: {files.read_json(failure)['message']}")
    except Exception as error:  # the model is trained and measured: what only explains it must not cost the run
        lines = [f"Warning: the run could not be diagnosed: {one_line(error)}"]
    for line in lines:
        say(line)


def stage_mark(run_dir: str, stage: str) -> dict[str, Any]:
    """Return what a finished stage left in `run_dir`: epochs, scores, seconds.

    Raises FailureError when it did not finish.
    """
    summary = artifacts.completed(files.join(run_dir, stage), inputs={})
    if summary is None:
        raise FailureError(f"the {stage} stage ended without a result in {run_dir}; run the command again")
    return summary


def copy_model(source: str, destination: str, *, temperature: float | None = None) -> None:
    """Copy a model directory, whole or not at all.

    With a `temperature` its card says so, and the output layer is divided by it: the copy's probabilities are
    calibrated, those of the source stay as they were trained.
    """
    with files.staged_directory(destination) as folder:
        for name in (CARD_FILE, WEIGHTS_FILE):
            (folder / name).write_bytes(files.read_bytes(files.join(source, name)))
        if temperature is not None:
            card = {**files.read_json(str(folder / CARD_FILE)), "temperature": round(temperature, 6)}
            files.write_json(str(folder / CARD_FILE), card)
            if temperature != 1.0:
                weights = folder / WEIGHTS_FILE
                weights.write_bytes(fold_temperature(weights.read_bytes(), temperature))


def _say_result(report: Mapping[str, Any], *, run_dir: str, say: Say) -> None:
    say("")
    say(stage_table(report["stages"]))
    seconds = report["seconds"]
    parts = ", ".join(f"{name} {duration(seconds[name])}" for name in seconds if name != "total")
    say(f"Time: {duration(seconds['total'])} ({parts})")
    say(f"Model: {files.join(run_dir, 'model')} (the {report['model']} stage's, better on validation)")


def _leave_page(report: Mapping[str, Any], *, run_dir: str, say: Say) -> None:
    """Write report.html from what stands in `run_dir`."""

    def build() -> str:
        histories = {stage: read_history(files.join(run_dir, stage)) for stage in report["stages"]}
        return build_train_page(run_dir, histories=histories)

    leave_page(run_dir, build, say=say)


def _tracked_run(config: TrainConfig, report: Mapping[str, Any], run_dir: str) -> TrackedRun:
    scores = {
        f"{stage}_{split}_{score}": value
        for stage, found in report["stages"].items()
        for split in ("validation", "test")
        for score, value in found.get(split, {}).items()
    }
    names = ("config.json", "report.json", "diagnosis.json", PAGE_FILE, "accuracy.png", "loss.png")
    return TrackedRun(
        name=run_dir.rstrip("/").rpartition("/")[2],
        settings=flatten_config(config, identity_only=True),
        curves=run_curves([read_history(files.join(run_dir, stage)) for stage in report["stages"]]),
        scores=scores,
        files=[files.join(run_dir, name) for name in (*names, f"model/{CARD_FILE}", f"model/{WEIGHTS_FILE}")],
    )
