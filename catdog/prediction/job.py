"""The predict job: list the photos, label what is not labelled yet, commit, then evaluate and sort on request."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from catdog.cluster.plan import predict_plan_text
from catdog.cluster.shared_paths import check_shared
from catdog.config import PredictConfig
from catdog.console import ProgressLine, say
from catdog.errors import FailureError, ImageError, UsageError
from catdog.model.engines import EngineSpec, check_precision, choose_engine, read_model
from catdog.photos.decoding.decode import decode_image
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.sources.files import read_photo
from catdog.photos.sources.inputs import part_bounds
from catdog.prediction import commit, output
from catdog.prediction.evaluate import evaluate_labels, true_labels
from catdog.prediction.labelling import Decoding, label_photos, photos_per_part
from catdog.prediction.page.report import build_predict_page
from catdog.prediction.request import Cluster, Inputs, Request, read_request
from catdog.prediction.sorting import check_sorting, is_sorted, sort_photos
from catdog.report.page import PAGE_FILE, write_page
from catdog.report.thumbnails import make_thumbnails
from catdog.storage import files
from catdog.storage.artifacts import versions


def predict(config: PredictConfig, *, started: float | None = None) -> dict[str, Any]:
    """Run the whole predict job and return what summary.json holds; finished work is not done again.

    `started` is the time.monotonic() at which the command began, where its imports should count.
    Raises UsageError and FailureError as its steps do, BadPhotosError after results with too many error rows.
    """
    started = started if started is not None else time.monotonic()
    request = read_request(config)
    inputs = Inputs(request)
    with Cluster(config) as cluster:
        if prepare_output(request, inputs):
            say(f"Nothing to label: {request.where} is finished. --overwrite labels anew.")
            summary = files.read_json(files.join(request.out, output.SUMMARY_FILE))
        else:
            summary = label(request, inputs, cluster, started=started)
        output.say_summary(summary, where=request.where)
        evaluate(request, inputs)
        report(request, inputs, cluster, summary=summary)  # before the photos are moved away
        sort(request, inputs, cluster)
    output.refuse_bad_photos(summary, config)
    return summary


def predict_one(config: PredictConfig) -> None:
    """Label one photo in this process, without Ray, and print (class name, probability) for each model.

    Raises UsageError as read_model does, FailureError when the photo cannot be read.
    """
    engine = choose_engine(config.engine, gpus=False)
    check_precision(config.precision, engine=engine, gpus=False)
    for directory in config.model:
        model = read_model(directory)
        try:
            content = read_photo(files.absolute(config.photos))
            image = decode_image(
                content,
                size=model.spec.image_size,
                framing=model.spec.framing,
                limits=DecodeLimits(max_pixels=config.max_pixels),
            )
        except ImageError as error:
            raise FailureError(f"{config.photos}: {error}") from error
        run = EngineSpec(model=model, engine=engine, precision=config.precision).load(batch_size=1, threads=1)
        (probabilities,) = run(image[np.newaxis])
        label = int(np.argmax(probabilities))
        say(str((model.spec.classes[label], float(probabilities[label]))))


# Steps


def prepare_output(request: Request, inputs: Inputs) -> bool:
    """Make the output folder ready for this job, and tell whether its predictions are finished already.

    Raises UsageError when they were made with other settings, or --sort-into or --evaluate cannot work.
    """
    out, config = request.out, request.config
    found, wanted = output.open_output(out, request.identity, inputs=lambda: inputs.digest, overwrite=config.overwrite)
    if found and commit.is_committed(out):
        return True
    wanted["inputs"] = inputs.digest.to_json()
    if not found:
        _check_sorting(request, inputs)
        if config.evaluate:
            _true_labels(request, inputs, required=True)
    size = photos_per_part(inputs.table.num_rows)
    if found.get("photos_per_part") != size:
        # Parts that another version of catdog cut otherwise hold other photos than ours of the same number.
        files.delete(commit.parts_directory(out))
        output.write_job(out, {**wanted, "exclude": inputs.exclude, "photos_per_part": size})
    return False


def label(request: Request, inputs: Inputs, cluster: Cluster, *, started: float) -> dict[str, Any]:
    """Label what has no part yet, commit, and return the summary."""
    config, out = request.config, request.out
    bounds = part_bounds(inputs.table, photos_a_part=photos_per_part(inputs.table.num_rows))
    plan, gpus = cluster.plan(), cluster.gpus()
    engine = choose_engine(config.engine, gpus=gpus > 0)
    check_precision(config.precision, engine=engine, gpus=gpus > 0)
    check_shared(written={"--out": out}, read={"--photos": config.photos})
    say(predict_plan_text(plan, engine, precision=config.precision, storage=out))
    progress = LabellingProgress()
    begun = time.monotonic()
    label_photos(
        inputs.table,
        bounds,
        out=out,
        rule=request.rule,
        engines=[EngineSpec(model=model, engine=engine, precision=config.precision) for model in request.models],
        decoding=Decoding(image_size=request.spec.image_size, framing=request.spec.framing, limits=request.limits),
        plan=plan,
        progress=progress,
    )
    labelled = time.monotonic()
    manifest = commit.join_parts(
        out,
        [stop - start for start, stop in bounds],
        rule=request.rule,
        format=config.format,
        num_cpus=plan.task_cpus,
    )
    committed = time.monotonic()
    steps = {"list": inputs.seconds, "label": labelled - begun, "commit": committed - labelled}
    steps["start"] = committed - started - sum(steps.values())
    summary = {
        **output.summarize(manifest, labelled=progress.labelled, steps=steps),
        "engine": engine,
        "precision": config.precision,
        "models": [
            {"path": files.absolute(path), "fingerprint": model.fingerprint}
            for path, model in zip(config.model, request.models, strict=True)
        ],
        "versions": versions(),
    }
    files.write_json(files.join(out, output.SUMMARY_FILE), summary)
    commit.finish_commit(out, manifest)
    return summary


def evaluate(request: Request, inputs: Inputs) -> None:
    """Compare the labels with the class folders, where that is asked for, and the models with each other."""
    config = request.config
    if not config.evaluate and len(request.models) == 1:
        return
    if not inputs.listed and output.read_job(request.out).get("moved"):
        raise UsageError("--evaluate needs the photos in their class folders, but they were moved: evaluate first")
    true = _true_labels(request, inputs, required=config.evaluate)
    evaluate_labels(request.out, rule=request.rule, models=config.model, true=true, scored=config.evaluate)


def _true_labels(request: Request, inputs: Inputs, *, required: bool) -> np.ndarray:
    """Return the label that each input's folder or name tells, -1 for none.

    Raises UsageError, where it is `required`, when the folders are not classes of the model.
    """
    relative = inputs.table["relative"].to_pylist()
    try:
        return true_labels(relative, classes=request.rule.classes, source=request.config.photos)
    except UsageError:
        if required:
            raise
        return np.full(len(relative), -1, np.int32)


def report(request: Request, inputs: Inputs, cluster: Cluster, *, summary: Mapping[str, Any]) -> None:
    """Write report.html, unless it stands."""
    config = request.config
    if not config.report or files.exists(files.join(request.out, PAGE_FILE)):
        return

    def make(photos: Sequence[str]) -> Mapping[str, bytes]:
        return make_thumbnails(photos, limits=request.limits, task_cpus=cluster.plan().task_cpus)

    def build() -> str:
        return build_predict_page(
            request.out,
            rule=request.rule,
            summary=summary,
            photos=files.absolute(config.photos),
            thumbnails=make,
            true=_true_labels(request, inputs, required=True) if config.evaluate else None,
        )

    write_page(request.out, build)


def sort(request: Request, inputs: Inputs, cluster: Cluster) -> None:
    """Lay the photos out by label, where that is asked for."""
    config, out = request.config, request.out
    if not config.sort_into:
        return
    _check_sorting(request, inputs)
    directory = files.absolute(config.sort_into)
    if is_sorted(out, directory=directory, mode=config.sort):
        say(f"Nothing to sort: {directory} is laid out already.")
        return
    moved = {"moved": True} if config.sort == "move" else {}
    output.write_job(out, {**output.read_job(out), "exclude": inputs.exclude, **moved})
    sort_photos(out, rule=request.rule, directory=directory, mode=config.sort, num_cpus=cluster.plan().task_cpus)


def _check_sorting(request: Request, inputs: Inputs) -> None:
    config = request.config
    if not config.sort_into:
        return
    sample: list[str] = []
    if inputs.listed:
        if inputs.table["table"].null_count < inputs.table.num_rows:
            raise UsageError("--sort-into: expected photos that are files, found a Parquet table: leave it out")
        sample = inputs.table["path"].slice(0, 1000).to_pylist()
    check_sorting(config.sort_into, mode=config.sort, classes=request.rule.classes, sample_paths=sample)


# Console


class LabellingProgress:
    """The progress line, and how many photos this command labelled itself."""

    def __init__(self) -> None:
        self._line = ProgressLine("Labelling", "photos")
        self._first: int | None = None
        self.labelled = 0

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` photos are labelled."""
        if self._first is None:
            self._first = done
            if done:
                say(f"Resuming: {done} of {total} photos are labelled already.")
        self.labelled = done - self._first
        self._line(done, total)
