"""The predict job: list the photos, label those not labelled yet, commit, then evaluate and sort on request."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from catdog.cluster.plan import predict_plan_text
from catdog.config import PredictConfig
from catdog.console import ProgressLine, say
from catdog.errors import FailureError, ImageError, UsageError
from catdog.model.engines import EngineSpec, check_precision, choose_engine, precision_warning
from catdog.photos.decoding.decode import decode_image
from catdog.photos.sources.files import read_photo
from catdog.photos.sources.keys import as_key
from catdog.photos.sources.settling import let_settle
from catdog.prediction import output
from catdog.prediction.evaluate import TrueLabels, evaluate_labels
from catdog.prediction.labelling.decoding import Decoding
from catdog.prediction.labelling.driver import label_shards
from catdog.prediction.labelling.worker import with_augmentation
from catdog.prediction.output import State
from catdog.prediction.page.report import build_predict_page
from catdog.prediction.request import Cluster, Inputs, Request, read_request, say_models
from catdog.prediction.results import commit
from catdog.prediction.results.joining import join_parts
from catdog.prediction.results.parts import drop_parts_with_passing_errors, parts_directory
from catdog.prediction.results.restoring import restore_parts
from catdog.prediction.results.rows import build_rows
from catdog.prediction.sorting.sort import check_sort, sort
from catdog.report.page import PAGE_FILE, write_page
from catdog.report.thumbnails import make_thumbnails
from catdog.storage import files
from catdog.storage.artifacts import versions
from catdog.storage.lease import Lease, hold_lease
from catdog.storage.ownership import check_folder, mark_folder


def predict(config: PredictConfig, *, started: float | None = None) -> dict[str, Any]:
    """Run the whole predict job and return the content of summary.json; finished work is not repeated.

    `started` is the time.monotonic() at which the command began, so that its imports count too.
    Raises UsageError and FailureError as its steps do. Raises BadPhotosError, with all results written, if too many
    rows have errors.
    """
    started = started if started is not None else time.monotonic()
    request = read_request(config)
    say_models(request)
    inputs = Inputs(request)
    if were_moved(request) or not inputs.are_many():  # listing many by tasks needs Ray and the lease
        check(request, inputs)
    with (
        hold_lease(request.out, flag="--out") as lease,
        Cluster(config) as cluster,
        listed(request, inputs, cluster, lease),
    ):
        state = prepare_output(request, inputs, cluster, lease)
        if state is State.FINISHED:
            say(f"Nothing to label: {request.where} is finished. --overwrite labels all photos again.")
            summary = files.read_json(files.join(request.out, output.SUMMARY_FILE))
        else:
            summary = label(request, inputs, cluster, lease, replaces=state is State.RETRIED, started=started)
        output.say_summary(summary, where=request.where)
        evaluate(request, inputs, cluster)
        report(request, inputs, cluster, summary=summary)  # before the photos are moved away
        sort(request, inputs, cluster)
    output.refuse_bad_photos(summary, config)
    return summary


def predict_one(config: PredictConfig) -> None:
    """Label one photo in this process, without Ray, and print (class name, probability) for each model.

    Raises UsageError as read_model does and for a file that is not a photo, and FailureError if it cannot be read.
    """
    request = read_request(config)
    engine = choose_engine(config.engine, gpus=False)
    check_precision(config.precision, engine=engine, gpus=False)
    try:
        content = read_photo(as_key(files.absolute(config.photos)))
        image = decode_image(content, size=request.spec.image_size, framing=request.spec.framing, limits=request.limits)
    except ImageError as error:
        failure = FailureError if error.code in ("io", "truncated", "crash") else UsageError
        raise failure(f"{config.photos}: {error}") from error
    rule = dataclasses.replace(request.rule, models=1)
    for model in request.models:
        run = EngineSpec(model=model, engine=engine, precision=config.precision).load(batch_size=1, threads=1)
        probabilities = with_augmentation(run, config.tta)(image[np.newaxis])
        (row,) = build_rows([""], [""], [probabilities], rule).to_pylist()
        say(str((row["label"], row["probability"])))


# Steps


def check(request: Request, inputs: Inputs, cluster: Cluster | None = None) -> State:
    """Return the state of the output folder; nothing is written, and without `cluster` Ray is not needed.

    Raises UsageError if the command cannot work: the folder belongs to another job, or --sort-into or --evaluate is
    not possible.
    """
    config = request.config
    # Photos that were moved away are not listed.
    mapped = cluster.mapped(inputs.digest.files) if cluster and not were_moved(request) else itertools.starmap
    state = output.check_output(
        request.out,
        request.identity,
        inputs=inputs,
        overwrite=config.overwrite,
        retry_errors=config.retry_errors,
        mapped=mapped,
    )
    if state in (State.NEW, State.OVERWRITTEN):
        check_sort(request, inputs)
        if config.evaluate:
            inputs.truth(classes=request.rule.labels, mapped=mapped)
    return state


def were_moved(request: Request) -> bool:
    """Return whether the photos were moved away after they had been labelled."""
    return bool(output.read_job(request.out).get("moved"))


@contextlib.contextmanager
def listed(request: Request, inputs: Inputs, cluster: Cluster, lease: Lease) -> Iterator[None]:
    """If there are many photos, list them by Ray tasks into the output folder; delete the listing at the end."""
    out = request.out
    if were_moved(request) or not inputs.are_many():
        yield
        return
    check_folder(out, kind="labels", flag="--out")
    mark_folder(out, kind="labels")
    place = commit.inputs_directory(out, owner=lease.owner)
    try:
        cluster.check_shared(written={"--out": out}, read={"--photos": request.config.photos})
        inputs.list_by_tasks(place=place, num_cpus=cluster.plan().task_cpus)
        yield
    finally:
        files.delete(place)


def prepare_output(request: Request, inputs: Inputs, cluster: Cluster, lease: Lease) -> State:
    """Prepare the output folder, whose lease this job holds, and return the state in which it was found."""
    out = request.out
    state = check(request, inputs, cluster)  # again: another job may have finished before this one got the lease
    commit.clean_staging(out, owner=lease.owner)
    if state is State.FINISHED:
        files.delete(parts_directory(out))  # left by a job that was killed between _SUCCESS and the cleanup
        return state
    if state is State.OVERWRITTEN:
        output.clear(out)
    mark_folder(out, kind="labels")
    identity = {**request.identity, "inputs": output.set_name(inputs.digest)}
    output.write_job(out, {**identity, "exclude": inputs.exclude})
    if state is State.RETRIED:
        mapped = cluster.mapped(inputs.digest.files)
        shards = cluster.shared(inputs.shards, mapped)
        restore_parts(out, shards, photos_per_part=inputs.photos_per_part, rule=request.rule, mapped=mapped)
        # These files describe the rows before the retry.
        for name in (
            output.EVALUATION_FILE,
            output.SORTED_FILE,
            output.UNSORTED_FOLDER,
            PAGE_FILE,
        ):
            files.delete(files.join(out, name))
    elif request.config.retry_errors:
        calls = ((out, shard) for shard in inputs.shards)
        for _ in cluster.mapped(inputs.digest.files)(drop_parts_with_passing_errors, calls):
            pass
    return state


def label(
    request: Request, inputs: Inputs, cluster: Cluster, lease: Lease, *, replaces: bool, started: float
) -> dict[str, Any]:
    """Label the photos that have no part yet, commit, and return the summary.

    With `replaces`, an earlier result exists and stays valid until the commit.
    """
    config, out = request.config, request.out
    plan, gpus = cluster.plan(), cluster.gpus()
    engine = choose_engine(config.engine, gpus=gpus > 0)
    check_precision(config.precision, engine=engine, gpus=gpus > 0)
    cluster.check_shared(written={"--out": out}, read={"--photos": config.photos})
    say(predict_plan_text(plan, engine, precision=config.precision, storage=out))
    if warning := precision_warning(config.precision, single_node=cluster.is_single_node(), gpus=gpus > 0):
        say(warning)
    progress = LabellingProgress()
    let_settle(inputs.shards, listed=inputs.listed_at)
    begun = time.monotonic()
    label_shards(
        inputs.shards,
        out=out,
        rule=request.rule,
        tta=config.tta,
        engines=[EngineSpec(model=model, engine=engine, precision=config.precision) for model in request.models],
        decoding=Decoding(image_size=request.spec.image_size, framing=request.spec.framing, limits=request.limits),
        plan=plan,
        photos_per_part=inputs.photos_per_part,
        progress=progress,
    )
    labelled = time.monotonic()
    manifest = join_parts(
        out,
        inputs.shards,
        owner=lease.owner,
        rule=request.rule,
        format=config.format,
        photos_per_part=inputs.photos_per_part,
        num_cpus=plan.task_cpus,
    )
    committed = time.monotonic()
    steps = {"list": inputs.seconds, "label": labelled - begun, "commit": committed - labelled}
    steps["start"] = committed - started - sum(steps.values())
    summary = {
        **output.summarize(manifest, labelled=progress.labelled, steps=steps),
        "engine": engine,
        "precision": config.precision,
        "tta": config.tta,
        "models": [
            {"path": files.absolute(path), "fingerprint": model.fingerprint}
            for path, model in zip(request.paths, request.models, strict=True)
        ],
        "versions": versions(),
    }
    lease.check()
    files.write_json(files.join(out, output.SUMMARY_FILE), summary)
    commit.finish_commit(out, manifest, lease=lease, replaces=replaces)
    return summary


def evaluate(request: Request, inputs: Inputs, cluster: Cluster) -> None:
    """Compare the labels with the class folders, if requested, and two models with each other."""
    config = request.config
    if not config.evaluate and len(request.models) == 1:
        return
    if not inputs.listed and output.read_job(request.out).get("moved"):
        raise UsageError("--evaluate needs the photos in their class folders, but they were moved: evaluate first")
    true = _labels_of_rows(request, inputs, cluster)
    evaluate_labels(request.out, rule=request.rule, models=request.paths, true=true, scored=config.evaluate)


def _labels_of_rows(request: Request, inputs: Inputs, cluster: Cluster) -> TrueLabels:
    """Return the true labels of the committed rows; without --evaluate they may be unknown.

    Raises UsageError, with --evaluate, if they are not classes of the model.
    """
    mapped = cluster.mapped(inputs.digest.files)
    shards = cluster.shared(inputs.shards, mapped)
    truth = None
    try:
        truth = inputs.truth(classes=request.rule.labels, mapped=mapped)
    except UsageError:
        if request.config.evaluate:
            raise
    return TrueLabels(request.out, rule=request.rule, shards=shards, truth=truth, mapped=mapped)


def report(request: Request, inputs: Inputs, cluster: Cluster, *, summary: Mapping[str, Any]) -> None:
    """Write report.html if it is requested and does not exist yet."""
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
            true=_labels_of_rows(request, inputs, cluster) if config.evaluate else None,
        )

    write_page(request.out, build)


# Console


class LabellingProgress:
    """The progress line, and the number of photos that this command itself labelled."""

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
