"""The predict job: list the photos, label what is not labelled yet, commit, then evaluate and sort on request."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from catdog.cluster.connection import connected, quiet_datasets
from catdog.cluster.failures import report_failures, root_cause
from catdog.cluster.plan import PredictPlan, make_predict_plan, usable_gpus
from catdog.cluster.resources import Resources
from catdog.cluster.shared_paths import check_shared
from catdog.command_line.settings import flatten_config
from catdog.config import PredictConfig
from catdog.console import ProgressLine, duration, table_text
from catdog.errors import BadPhotosError, FailureError, ImageError, UsageError
from catdog.evaluation.metrics import Evaluation, evaluate
from catdog.evaluation.paired import Comparison, compare_models
from catdog.model.engines import EngineSpec, ModelBytes, check_precision, choose_engine, read_model
from catdog.model.saved_model import ClassifierSpec
from catdog.photos.annotations.class_layout import assign_classes
from catdog.photos.decoding.decode import decode_image
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.sources.files import read_photo
from catdog.photos.sources.inputs import list_inputs, part_bounds
from catdog.prediction import rows as predictions
from catdog.prediction.labelling import Decoding, label_photos, photos_a_part
from catdog.prediction.report import build_predict_page
from catdog.prediction.sorting import UNREADABLE, check_sorting, place_photos, plan_sorting
from catdog.report.page import PAGE_FILE, write_page
from catdog.report.thumbnails import make_thumbnails
from catdog.storage import artifacts, files
from catdog.storage.artifacts import versions
from catdog.storage.schemas import UNSURE

Say = Callable[[str], None]

JOB_FILE = "predict.json"
SUMMARY_FILE = "summary.json"


def predict(config: PredictConfig, *, say: Say = print, started: float | None = None) -> dict[str, Any]:
    """Run the whole predict job and return what summary.json holds; finished work is not done again.

    `started` is the time.monotonic() at which the command began, where its imports should count.
    Raises UsageError and FailureError as its steps do, BadPhotosError after results with too many error rows.
    """
    with contextlib.ExitStack() as stack:
        job = _Job(config, say=say, started=started if started is not None else time.monotonic(), stack=stack)
        job.open()
        if predictions.is_committed(job.out):
            files.delete(predictions.parts_directory(job.out))  # where a kill came between mark and tidying
            say(f"Nothing to label: {job.where} is finished. --overwrite labels anew.")
            summary = files.read_json(files.join(job.out, SUMMARY_FILE))
        else:
            summary = job.label()
        _say_summary(summary, where=job.where, say=say)
        job.evaluate()
        job.report(summary)  # before the photos are moved away
        job.sort()
    _refuse_bad_photos(summary, config)
    return summary


def predict_one(config: PredictConfig, *, say: Say = print) -> None:
    """Label one photo in this process, without Ray, and print (class name, probability) for each model.

    Raises UsageError as read_model does, FailureError when the photo cannot be read.
    """
    engine = choose_engine(config.engine, gpus=False)
    check_precision(config.precision, engine=engine, gpus=False)
    for directory in config.model:
        model = read_model(directory)
        try:
            content = read_photo(files.absolute(config.photos))
            image = decode_image(content, size=model.spec.image_size, limits=DecodeLimits(max_pixels=config.max_pixels))
        except ImageError as error:
            raise FailureError(f"{config.photos}: {error}") from error
        run = EngineSpec(model=model, engine=engine, precision=config.precision).load(batch_size=1, threads=1)
        (probabilities,) = run(image[np.newaxis])
        label = int(np.argmax(probabilities))
        say(str((model.spec.classes[label], float(probabilities[label]))))


def is_one_photo(config: PredictConfig) -> bool:
    """Tell whether the job is one local photo whose label is only to be printed."""
    path = Path(config.photos).expanduser()
    listing = path.suffix.lower() in (".zip", ".txt", ".parquet")
    return not config.out and bool(config.model) and not config.sort_into and path.is_file() and not listing


def default_out(photos: str) -> str:
    """Return where the results go of a job that names no --out: the same command finds them again."""
    name = re.sub(r"[^\w.-]+", "-", Path(photos.rstrip("/")).stem).strip("-.")
    return f"labels/{name or 'photos'}"


def verify(out: str, *, say: Say = print) -> None:
    """Prove that the committed rows below `out` are the files of their source, each once.

    Raises UsageError where no predict job left anything, FailureError with what is wrong.
    """
    if not out:
        raise UsageError("--verify: expected --out, the folder of a predict job's results")
    out = files.absolute(out)
    job = _read_job(out)
    if not job:
        raise UsageError(f"expected the results of a predict job in {out}, found no {JOB_FILE}: check --out")
    manifest = predictions.check_files(out)
    rule = predictions.LabelRule(**{**manifest["rule"], "classes": tuple(manifest["rule"]["classes"])})
    rows = Counter(path for table in predictions.read_rows(out, rule=rule) for path in table["path"].to_pylist())
    twice = [path for path, count in rows.items() if count > 1]
    if twice:
        raise FailureError(f"{len(twice)} files have more than one row, such as {twice[0]}")
    if _digest(rows) != job["inputs"].rpartition(" ")[2]:
        raise FailureError(
            f"the {len(rows)} rows are not those of the {job['inputs']} that were found when the job began"
        )
    checked = f"{len(rows)} rows, each of another photo; the checksums of all {len(manifest['files'])} files agree."
    say(f"Verified: {checked}")
    if job.get("moved"):
        say(f"The photos themselves were moved out of {job['photos']} afterwards.")
        return
    listed = set(list_inputs(job["photos"], exclude=[out, *job["exclude"]])["path"].to_pylist())
    gone, new = rows.keys() - listed, listed - rows.keys()
    if gone or new:
        example = min(new or gone)
        raise FailureError(
            f"{job['photos']} has changed since: {len(new)} files have no row, {len(gone)} rows have no file any more, "
            f"such as {example}; --overwrite labels anew"
        )
    say(f"{job['photos']} holds these {len(listed)} files and no other.")


class _Job:
    """One predict job: what is asked for, checked against what stands in the output folder."""

    def __init__(self, config: PredictConfig, *, say: Say, started: float, stack: contextlib.ExitStack) -> None:
        self._config, self._say, self._started = config, say, started
        self._stack = stack  # of what is open until the job ends
        if not config.photos:
            raise UsageError(
                "expected --photos, what to label: a folder, glob, photo, zip, .txt of paths, .parquet, or URI"
            )
        if not 1 <= len(config.model) <= 2:
            raise UsageError(
                f"expected --model once, or twice to compare two models, found it {len(config.model)} times"
            )
        self.out = files.absolute(config.out or default_out(config.photos))
        files.require_bucket(self.out, flag="--out")
        self.where = files.join(self.out, "predictions")
        self._models = [read_model(directory) for directory in config.model]
        self._spec = _common_spec(self._models, config)
        self._rule = predictions.LabelRule(
            classes=self._spec.classes, threshold=config.threshold, top_k=config.top_k, models=len(self._models)
        )
        self._inputs: pa.Table | None = None
        self._seconds = {"list": 0.0}  # of each step
        # What this job and earlier ones write may lie inside the folder of the photos.
        into = {files.absolute(config.sort_into)} if config.sort_into else set()
        self._exclude = sorted(into.union(_read_job(self.out).get("exclude", [])))

    def open(self) -> None:
        """Compare with what an earlier command left in the output folder.

        Raises UsageError when that was made with other settings, unless they are to be overwritten.
        """
        found, wanted = _read_job(self.out), self._identity()
        committed = predictions.is_committed(self.out)
        # Photos that were moved into their folders after the labelling are no longer where they were found.
        if not (committed and found.get("moved")):
            wanted["inputs"] = f"{self.inputs.num_rows} files {_digest(self.inputs['path'].to_pylist())}"
        same = all(found.get(key) == value for key, value in wanted.items())
        if found and self._config.overwrite and (committed or not same):
            self._clear()
            found = {}
        artifacts.refuse_difference(
            self.out, found=found, wanted=wanted, remedy="another --out, or --overwrite to label anew"
        )
        if committed and found:
            return
        if not found:
            self._check_sorting()
            self._check_truth()
            wanted["inputs"] = f"{self.inputs.num_rows} files {_digest(self.inputs['path'].to_pylist())}"
        size = photos_a_part(self.inputs.num_rows)
        if found.get("photos_a_part") != size:
            # Parts that another version of catdog cut otherwise hold other photos than ours of the same number.
            files.delete(predictions.parts_directory(self.out))
            job = {**wanted, "exclude": self._exclude, "photos_a_part": size}
            files.write_json(files.join(self.out, JOB_FILE), job)

    @cached_property
    def _cluster(self) -> Resources:
        """Ray, started or joined by the first step that needs it, for all steps."""
        resources = self._stack.enter_context(connected(verbose=self._config.verbose, dashboard=False))
        quiet_datasets(verbose=self._config.verbose)
        self._stack.enter_context(report_failures(self._say))
        return resources

    def _plan(self) -> tuple[PredictPlan, int]:
        """Return what the job asks of the cluster, and how many GPUs there are for it."""
        gpus = usable_gpus(self._cluster, self._config.cluster.use_gpu)
        return make_predict_plan(self._cluster, self._config.cluster, gpus=gpus), gpus

    @property
    def inputs(self) -> pa.Table:
        """The photos to label, listed once."""
        if self._inputs is None:
            start = time.monotonic()
            self._inputs = list_inputs(self._config.photos, exclude=[self.out, *self._exclude])
            self._seconds["list"] = time.monotonic() - start
            self._say(f"Found {self._inputs.num_rows} files in {self._config.photos}.")
        return self._inputs

    def label(self) -> dict[str, Any]:
        """Label what has no part yet, commit, and return the summary."""
        config = self._config
        bounds = part_bounds(self.inputs, photos_a_part=photos_a_part(self.inputs.num_rows))
        plan, gpus = self._plan()
        engine = choose_engine(config.engine, gpus=gpus > 0)
        check_precision(config.precision, engine=engine, gpus=gpus > 0)
        check_shared(written={"--out": self.out}, read={"--photos": config.photos})
        self._say(plan.sentence(engine, precision=config.precision, storage=self.out))
        progress = _Progress(self._say)
        begun = time.monotonic()
        label_photos(
            self.inputs,
            bounds,
            out=self.out,
            rule=self._rule,
            engines=[EngineSpec(model=model, engine=engine, precision=config.precision) for model in self._models],
            decoding=Decoding(image_size=self._spec.image_size, limits=DecodeLimits(max_pixels=config.max_pixels)),
            plan=plan,
            progress=progress,
        )
        labelled = time.monotonic()
        manifest = self._commit([stop - start for start, stop in bounds], num_cpus=plan.task_cpus)
        committed = time.monotonic()
        seconds = committed - self._started
        self._seconds |= {"label": labelled - begun, "commit": committed - labelled}
        self._seconds["start"] = seconds - sum(self._seconds.values())
        summary = self._summarize(manifest, engine=engine, labelled=progress.labelled, seconds=seconds)
        files.write_json(files.join(self.out, SUMMARY_FILE), summary)
        predictions.finish_commit(self.out, manifest)
        return summary

    def _commit(self, part_rows: Sequence[int], *, num_cpus: float) -> dict[str, Any]:
        """Join the parts into the files of the result, one task each; return the manifest."""
        import ray

        staging = predictions.staging_directory(self.out)
        files.delete(staging)  # of a commit that was killed
        runs = predictions.plan_files(part_rows, columns=len(self._rule.schema))
        write = ray.remote(num_cpus=num_cpus)(predictions.write_file)
        try:
            entries = ray.get(
                [
                    write.remote(self.out, staging, number, parts, format=self._config.format)
                    for number, parts in enumerate(runs)
                ]
            )
        except Exception as error:  # Ray wraps what a task raised in classes of its own
            raise FailureError(f"the predictions cannot be committed: {root_cause(error)}") from error
        return {
            "format": self._config.format,
            "rule": dataclasses.asdict(self._rule),
            "rows": sum(entry["rows"] for entry in entries),
            "files": entries,
        }

    def _summarize(self, manifest: Mapping[str, Any], *, engine: str, labelled: int, seconds: float) -> dict[str, Any]:
        labels, errors = (
            sum((Counter(entry[name]) for entry in manifest["files"]), Counter[str]()) for name in ("labels", "errors")
        )
        faults = errors.pop("io", 0)
        return {
            "photos": manifest["rows"],
            "labels": {name: labels[name] for name in self._spec.classes},
            **({"unsure": labels[UNSURE]} if self._config.threshold else {}),
            "errors": dict(errors.most_common()),
            "io": {"failed": faults, "recovered": sum(entry["retried"] for entry in manifest["files"])},
            "labelled_now": labelled,
            "seconds": round(seconds, 3),
            "steps": {step: round(took, 3) for step, took in self._seconds.items()},
            "photos_per_second": round(labelled / seconds, 1),
            "engine": engine,
            "precision": self._config.precision,
            "models": [
                {"path": files.absolute(path), "fingerprint": model.fingerprint}
                for path, model in zip(self._config.model, self._models, strict=True)
            ],
            "versions": versions(),
        }

    def evaluate(self) -> None:
        """Compare the labels with the class folders, where that is asked for, and the models with each other."""
        if not self._config.evaluate and len(self._models) == 1:
            return
        if self._inputs is None and _read_job(self.out).get("moved"):
            raise UsageError("--evaluate needs the photos in their class folders, but they were moved: evaluate first")
        true = self._truth(required=self._config.evaluate)
        probabilities = self._read_probabilities()
        known = np.flatnonzero(~np.isnan(probabilities[0][:, 0]) & (true >= 0))
        found: dict[str, Any] = {}
        if self._config.evaluate:
            for path, of_model in zip(self._config.model, probabilities, strict=True):
                score = evaluate(
                    true[known], of_model[known], classes=self._spec.classes, threshold=self._config.threshold
                )
                found.setdefault("models", []).append({"path": path, **score.to_json()})
                self._say_lines(f"{path} on {len(known)} photos of known class:", score)
        if len(probabilities) == 2:
            readable = np.flatnonzero(~np.isnan(probabilities[0][:, 0]))
            chosen = known if len(known) else readable
            comparison = compare_models(
                *(of_model[chosen] for of_model in probabilities),
                true=true[chosen] if len(known) else None,
            )
            found["comparison"] = comparison.to_json()
            self._say_lines("First model against second:", comparison)
        path, found = files.join(self.out, "evaluation.json"), json.loads(json.dumps(found))
        if not files.exists(path) or files.read_json(path) != found:
            files.write_json(path, found)
            files.delete(files.join(self.out, PAGE_FILE))  # it shows another evaluation, or none

    def _say_lines(self, title: str, result: Evaluation | Comparison) -> None:
        self._say("")
        for line in (title, *result.lines()):
            self._say(line)

    def _read_probabilities(self) -> list[np.ndarray]:
        """Return for each model the float32 (N, classes) probabilities of all rows, NaN for errors."""
        columns = [[f"{prefix}p_{name}" for name in self._spec.classes] for prefix in ("", "second_")]
        found: list[list[np.ndarray]] = [[] for _ in self._models]
        for table in predictions.read_rows(self.out, rule=self._rule):
            for model, arrays in enumerate(found):
                arrays.append(np.stack([table[name].to_numpy() for name in columns[model]], axis=1))
        return [np.concatenate(arrays) for arrays in found]

    def _truth(self, *, required: bool) -> np.ndarray:
        """Return the label that each input's folder or name tells, -1 for none.

        Raises UsageError, where it is `required`, when the folders are not classes of the model.
        """
        try:
            layout, assigned = assign_classes(self.inputs["relative"].to_pylist(), source=self._config.photos)
            strange = sorted(set(layout.classes) - set(self._spec.classes))
            if strange:
                raise UsageError(
                    f"--evaluate: {self._config.photos} has the classes {', '.join(layout.classes)}, the model "
                    f"knows {', '.join(self._spec.classes)}: give photos in folders of these names, or leave it out"
                )
        except UsageError:
            if required:
                raise
            return np.full(self.inputs.num_rows, -1, np.int32)
        label_of = {name: label for label, name in enumerate(self._spec.classes)}
        return np.array([label_of[found[1]] if found else -1 for found in assigned], np.int32)

    def report(self, summary: Mapping[str, Any]) -> None:
        """Write report.html, unless it stands."""
        config = self._config
        if not config.report or files.exists(files.join(self.out, PAGE_FILE)):
            return

        def make(photos: Sequence[str]) -> Mapping[str, bytes]:
            plan, _ = self._plan()
            return make_thumbnails(photos, limits=DecodeLimits(max_pixels=config.max_pixels), task_cpus=plan.task_cpus)

        def build() -> str:
            return build_predict_page(
                self.out,
                rule=self._rule,
                summary=summary,
                photos=files.absolute(config.photos),
                thumbnails=make,
                true=self._truth(required=True) if config.evaluate else None,
            )

        write_page(self.out, build, say=self._say)

    def sort(self) -> None:
        """Lay the photos out by label, where that is asked for."""
        config = self._config
        if not config.sort_into:
            return
        self._check_sorting()
        wanted = {"directory": files.absolute(config.sort_into), "mode": config.sort}
        mark = files.join(self.out, "sorted.json")
        if files.exists(mark) and wanted.items() <= files.read_json(mark).items():
            self._say(f"Nothing to sort: {wanted['directory']} is laid out already.")
            return
        job = {**_read_job(self.out), "exclude": self._exclude, **({"moved": True} if config.sort == "move" else {})}
        files.write_json(files.join(self.out, JOB_FILE), job)
        paths: list[str] = []
        folders: list[str] = []
        for table in predictions.read_rows(self.out, rule=self._rule):
            paths += table["path"].to_pylist()
            folders += [label or UNREADABLE for label in table["label"].to_pylist()]
        plan, _ = self._plan()
        result = place_photos(
            paths,
            plan_sorting(paths, folders),
            directory=wanted["directory"],
            mode=config.sort,
            num_cpus=plan.task_cpus,
            progress=ProgressLine("Sorting", "photos"),
        )
        verb = {"copy": "copied", "link": "linked", "move": "moved"}[config.sort]
        self._say(f"{result.placed} photos {verb} into {wanted['directory']}, {result.already} were there already.")
        for line in result.failed[:10]:
            self._say(f"  not {verb}: {line}")
        if len(result.failed) > 10:
            self._say(f"  and {len(result.failed) - 10} more")
        files.write_json(mark, {**wanted, "placed": result.placed + result.already, "failed": list(result.failed)})

    def _check_sorting(self) -> None:
        config = self._config
        if not config.sort_into:
            return
        if self._inputs is not None and self._inputs["table"].null_count < self._inputs.num_rows:
            raise UsageError("--sort-into: expected photos that are files, found a Parquet table: leave it out")
        sample = self._inputs["path"].slice(0, 1000).to_pylist() if self._inputs is not None else []
        check_sorting(config.sort_into, mode=config.sort, classes=self._spec.classes, sample_paths=sample)

    def _check_truth(self) -> None:
        if self._config.evaluate:
            self._truth(required=True)

    def _identity(self) -> dict[str, Any]:
        """Return what decides the rows."""
        settings = flatten_config(self._config, identity_only=True)
        photos = files.absolute(self._config.photos)
        return {**settings, "photos": photos, "model": [model.fingerprint for model in self._models]}

    def _clear(self) -> None:
        # The mark goes first: what is left after a kill must not look finished.
        for name in (
            "predictions/_SUCCESS",
            "predictions",
            "predictions.part",
            "parts",
            "evaluation.json",
            "sorted.json",
            PAGE_FILE,
            SUMMARY_FILE,
            JOB_FILE,
        ):
            files.delete(files.join(self.out, name))


class _Progress:
    """The progress line, and how many photos this command labelled itself."""

    def __init__(self, say: Say) -> None:
        self._say, self._line = say, ProgressLine("Labelling", "photos")
        self._first: int | None = None
        self.labelled = 0

    def __call__(self, done: int, total: int) -> None:
        if self._first is None:
            self._first = done
            if done:
                self._say(f"Going on: {done} of {total} photos were labelled before.")
        self.labelled = done - self._first
        self._line(done, total)


def _common_spec(models: Sequence[ModelBytes], config: PredictConfig) -> ClassifierSpec:
    """Return what the rows need of the models.

    Raises UsageError when two models do not fit together, or the settings do not fit the classes.
    """
    first, last = models[0].spec, models[-1].spec
    if first.classes != last.classes or first.image_size != last.image_size:
        raise UsageError(
            f"two models are compared on the same classes and image size, found {', '.join(first.classes)} at "
            f"{first.image_size} and {', '.join(last.classes)} at {last.image_size}: give models that fit together"
        )
    if config.top_k > len(first.classes):
        raise UsageError(f"--top-k {config.top_k}: expected at most {len(first.classes)}, the classes of the model")
    if config.threshold and UNSURE in first.classes:
        raise UsageError(
            f"--threshold: the model has a class called {UNSURE}, its rows could not be told apart: leave it out"
        )
    return first


def _read_job(out: str) -> dict[str, Any]:
    path = files.join(out, JOB_FILE)
    return files.read_json(path) if files.exists(path) else {}


def _digest(paths: Iterable[str]) -> str:
    """Return 16 hex digits that name a set of paths, whatever their order."""
    state = hashlib.sha256()
    for path in sorted(paths):
        state.update(path.encode() + b"\0")
    return state.hexdigest()[:16]


def _say_summary(summary: Mapping[str, Any], *, where: str, say: Say) -> None:
    photos = summary["photos"]
    bad = {**summary["errors"], **({"io": summary["io"]["failed"]} if summary["io"]["failed"] else {})}
    counts = {
        **summary["labels"],
        **({UNSURE: summary["unsure"]} if "unsure" in summary else {}),
        "errors": sum(bad.values()),
    }
    rows = [
        ("label", "photos", "share"),
        *((name, str(count), f"{count / photos:.1%}") for name, count in counts.items()),
    ]
    rows += [(f"  {code}", str(count), "") for code, count in bad.items()]
    say("")
    say(table_text(rows))
    again, rate = summary["io"]["recovered"], summary["photos_per_second"]
    say(
        f"{summary['labelled_now']} photos in {duration(summary['seconds'])}: {rate:.1f} photos/s"
        + (f", {again} of them read at a second try or later" if again else "")
    )
    say(f"Predictions: {where}")


def _refuse_bad_photos(summary: Mapping[str, Any], config: PredictConfig) -> None:
    """Raise BadPhotosError where the share of error rows is over the limit; UsageError where nothing is a photo."""
    photos, errors = summary["photos"], summary["errors"]
    bad = sum(errors.values()) + summary["io"]["failed"]
    if errors.keys() <= {"empty", "not-an-image"} and bad == photos:
        raise UsageError(
            f"expected photos in {config.photos}, found {photos} files and no image among them: check --photos"
        )
    if bad > config.max_errors * photos:
        raise BadPhotosError(
            f"{bad} of {photos} photos have errors, more than --max-errors {config.max_errors:g} allows; "
            "their rows say why, all results are written"
        )
