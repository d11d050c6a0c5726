"""What each worker of a trainer does: both stages, one after the other, from the last checkpoint on.

Both stages run in one group of workers, because starting a group takes longer than training one stage of cached rows;
and the group starts while the trunk pass still computes these rows.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from catdog.cluster.actors import Shared
from catdog.cluster.plan import Plan
from catdog.config import StageConfig
from catdog.errors import ImageError, one_line
from catdog.evaluation.held_out import build_outcomes, read_outcomes, worst_outcomes, write_outcomes
from catdog.features.cache import CachedRows, CachePlace, Extraction, FeatureCache, RowSource
from catdog.features.trunk import stream_features
from catdog.model.saved_model import ClassifierSpec, spec_to_card
from catdog.photos.decode import MAX_PIXELS, decode_image, make_thumbnail, overlay_heat
from catdog.photos.files import read_photo
from catdog.report.thumbnails import THUMBNAIL_SIZE, write_pictures
from catdog.storage import artifacts, files
from catdog.storage.schemas import PICTURES
from catdog.training.train_loop import DivergedError, Scored, StageState, fit_stage, score_splits, write_history

FAILURE_FILE = "failure.json"  # why training again would end in the same way
ABANDONED_FILE = "abandoned.json"  # tells workers that the rows they wait for will not come
WORST = 24  # errors that are shown
HEAT_FILE, HEAT_FAILURE = "heat.parquet", "heat.json"
_NOTE_EVERY_SECONDS = 10.0
_POLL_SECONDS = 0.2


class StreamedRows:
    """One worker's share of photos whose features are computed anew every epoch, in the next view."""

    def __init__(
        self, source: StreamSource, *, rank: int, workers: int, seed: int, epochs: int, pretrained: Any, plan: Plan
    ) -> None:
        self.rows = source.photos.num_rows // workers
        self._photos = source.photos.slice(rank * self.rows, self.rows)
        self._source, self._epochs, self._seed = source, epochs, seed
        self._pretrained, self._plan, self._workers = pretrained, plan, workers
        self._stream: Iterator[tuple[np.ndarray, np.ndarray]] | None = None

    def epoch(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield blocks of this epoch; epochs must be asked for in order, from any one on."""
        if self._stream is None:
            self._stream = stream_features(
                self._photos,
                [(self._view(epoch), self._order(epoch)) for epoch in range(number, self._epochs)],
                extraction=self._source.extraction,
                pretrained=self._pretrained,
                plan=self._plan,
                workers=self._workers,
            )
        left = self.rows
        while left > 0:
            features, labels = next(self._stream)
            left -= len(labels)
            yield features, labels

    def _view(self, epoch: int) -> int:
        return self._source.views[epoch % len(self._source.views)]

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(self.rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamSource:
    """Photos (path, label, digest) whose features do not fit the cache, and the views of the epochs in turn."""

    photos: pa.Table
    views: tuple[int, ...]
    extraction: Extraction


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageJob:
    """One stage: its name (also that of its directory), settings, cut and rows."""

    name: str
    settings: StageConfig
    cut: str
    train: FeatureCache | StreamSource
    validation: FeatureCache
    test: FeatureCache | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComingStage:
    """A StageJob whose caches may not be finished yet."""

    name: str
    settings: StageConfig
    cut: str
    train: CachePlace | StreamSource
    validation: CachePlace
    test: CachePlace | None

    def find(self) -> StageJob | None:
        """Return the stage with its caches, None while one of them is not finished."""
        train = self.train.find() if isinstance(self.train, CachePlace) else self.train
        validation = self.validation.find()
        test = self.test.find() if self.test else None
        if train is None or validation is None or (self.test and test is None):
            return None
        return StageJob(
            name=self.name, settings=self.settings, cut=self.cut, train=train, validation=validation, test=test
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainJob:
    """What the workers of one trainer do: the stages in their order, and what a model card says besides."""

    run_dir: str
    spec: ClassifierSpec
    seed: int
    stages: tuple[StageJob | ComingStage, ...]
    card: Mapping[str, Any]
    plan: Plan
    precision: str = "auto"
    explain: bool = False  # leave pictures of where the best model looked, for its worst errors
    max_pixels: int = MAX_PIXELS


def run_stages(job: TrainJob, pretrained: Shared) -> None:
    """Run on each train worker: every stage that is not finished, from its last checkpoint on."""
    import ray.train
    import tensorflow as tf
    import tf_keras

    from catdog.model import backbones
    from catdog.model import classifier as model

    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    model.configure_tensorflow(threads=max(1, (os.cpu_count() or 1) // max(1, context.get_local_world_size())))
    # Before anything else of TensorFlow's: collectives must be set up first.
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if workers > 1 else tf.distribute.get_strategy()
    tf_keras.utils.set_random_seed(job.seed)
    precision = model.choose_precision(job.precision, model.gpu_capabilities())
    with strategy.scope():
        classifier = model.build_classifier(job.spec, precision=precision)
        # What is reported is what the saved model says, and that computes in float32.
        exact = classifier if precision == "float32" else model.build_classifier(job.spec)
        weights = pretrained.get()
        if weights is not None:
            backbones.load_pretrained(classifier, weights)
    resumed = _read_checkpoint(ray.train.get_checkpoint())
    stages = _await_rows(job)
    for stage in stages:
        directory = files.join(job.run_dir, stage.name)
        if files.exists(files.join(directory, artifacts.COMPLETE)):
            for each in {id(classifier): classifier, id(exact): exact}.values():
                model.load_weights_into(each, files.join(directory, "model"))
            continue
        worker = _StageWorker(job, stage, rank=rank, workers=workers, pretrained=pretrained)
        state = resumed[1] if resumed and resumed[0] == stage.name else None
        try:
            worker.fit(classifier, exact, strategy, state)
        except DivergedError as error:
            # It would happen again, and it happens on every worker at once: no restart, no worker that waits.
            files.write_json(files.join(job.run_dir, FAILURE_FILE), {"message": str(error)})
            return
    if job.explain and stages and rank == 0:
        _explain(job, exact, distributed=workers > 1)


def _await_rows(job: TrainJob) -> list[StageJob]:
    """Return the stages once the trunk pass has finished their caches; none where it failed."""
    ready: list[StageJob] = []
    for stage in job.stages:
        while (found := stage.find() if isinstance(stage, ComingStage) else stage) is None:
            if files.exists(files.join(job.run_dir, ABANDONED_FILE)):
                return []
            time.sleep(_POLL_SECONDS)
        ready.append(found)
    return ready


def best_stage(marks: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the stage whose model is the run's: the better one by validation accuracy, then by loss."""
    return max(marks, key=lambda name: (marks[name]["validation"]["accuracy"], -marks[name]["validation"]["loss"]))


def _explain(job: TrainJob, classifier: Any, *, distributed: bool) -> None:
    """Write heat.parquet: for the worst errors of the best stage, where in the photo its model looked.

    The worker does this because it has the model: another process would import TensorFlow for it. Whatever fails, the
    run goes on without the pictures, and heat.json says why.
    """
    path = files.join(job.run_dir, HEAT_FILE)
    if files.exists(path):
        return
    try:
        directories = {stage.name: files.join(job.run_dir, stage.name) for stage in job.stages}
        marks = {name: artifacts.completed(directory, inputs={}) or {} for name, directory in directories.items()}
        best = best_stage(marks)
        rows = read_outcomes(directories[best], classes=job.spec.classes)
        worst = worst_outcomes(rows, limit=WORST) if rows is not None else []
        pictures = _heat_pictures(job, classifier, directories, best, worst, distributed) if worst else []
        write_pictures(path, pa.Table.from_pylist(pictures, PICTURES))
    except Exception as error:
        files.write_json(files.join(job.run_dir, HEAT_FAILURE), {"message": one_line(error)})


def _heat_pictures(
    job: TrainJob,
    classifier: Any,
    directories: Mapping[str, str],
    best: str,
    worst: list[dict[str, Any]],
    distributed: bool,
) -> list[dict[str, Any]]:
    """Return rows of the schema rows.PICTURES for the photos of `worst` that can be read."""
    from catdog.model import classifier as model

    if distributed:
        import tensorflow as tf

        # Mirrored variables belong to all workers, and only this one is here.
        with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
            classifier = model.build_classifier(job.spec)
    if distributed or best != job.stages[-1].name:
        model.load_weights_into(classifier, files.join(directories[best], "model"))
    names, images, thumbnails, labels = [], [], [], []
    for row in worst:
        try:
            content = read_photo(row["path"])
            image = decode_image(content, size=job.spec.image_size, max_pixels=job.max_pixels)
            thumbnails.append(make_thumbnail(content, size=THUMBNAIL_SIZE, max_pixels=job.max_pixels))
        except ImageError:
            continue
        names.append(row["path"])
        images.append(image)
        labels.append(job.spec.classes.index(row["label"]))
    if not names:
        return []
    heat = model.class_maps(classifier, np.stack(images), np.array(labels))
    return [
        {"name": name, "kind": "heat", "jpeg": overlay_heat(thumbnail, one)}
        for name, thumbnail, one in zip(names, thumbnails, heat, strict=True)
    ]


class _StageWorker:
    """One worker's part in one stage: its rows, its reports, and on rank 0 what the stage leaves."""

    def __init__(self, job: TrainJob, stage: StageJob, *, rank: int, workers: int, pretrained: Any) -> None:
        self._job, self._stage, self._rank = job, stage, rank
        self._directory = files.join(job.run_dir, stage.name)
        self._start = self._shown = time.monotonic()
        if isinstance(stage.train, StreamSource):
            self._train: RowSource = StreamedRows(
                stage.train,
                rank=rank,
                workers=workers,
                seed=job.seed,
                epochs=stage.settings.epochs,
                pretrained=pretrained,
                plan=job.plan,
            )
        else:
            self._train = CachedRows(stage.train, rank=rank, workers=workers, seed=job.seed, equal=True)
        self._validation = CachedRows(stage.validation, rank=rank, workers=workers)
        self._splits = {"validation": self._validation}
        if stage.test:
            self._splits["test"] = CachedRows(stage.test, rank=rank, workers=workers)

    def fit(self, classifier: Any, exact: Any, strategy: Any, state: StageState | None) -> None:
        """Train the stage, measure its best epoch, and leave model, history and mark in its directory.

        `exact` is the classifier in float32: itself, or its twin where it computes in less.
        """
        stage = self._stage
        state = fit_stage(
            classifier,
            stage.settings,
            cut=stage.cut,
            train=self._train,
            validation=self._validation,
            strategy=strategy,
            seed=self._job.seed,
            state=state,
            on_epoch=self._report,
            on_step=self._show_step if self._rank == 0 else None,
        )
        weights = classifier.get_weights()  # every worker: some variables are gathered when they are read
        if exact is not classifier:
            exact.set_weights(weights)
        scored = score_splits(exact, cut=stage.cut, splits=self._splits, strategy=strategy)
        if self._rank == 0:
            self._leave(exact, weights, state, scored, distributed=strategy.num_replicas_in_sync > 1)
        self._barrier()

    def _leave(
        self,
        classifier: Any,
        weights: list[np.ndarray],
        state: StageState,
        scored: dict[str, Scored],
        *,
        distributed: bool,
    ) -> None:
        from catdog.model import classifier as model

        if distributed:
            import tensorflow as tf

            # Saving mirrored variables on one worker alone would wait for the others for ever.
            with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
                classifier = model.build_classifier(self._job.spec)
            classifier.set_weights(weights)
        stage = {
            "name": self._stage.name,
            "epochs": state.epoch,
            "best_epoch": state.best_epoch,
            "train_seconds": round(sum(row["seconds"] for row in state.history), 3),
            **{split: found.scores for split, found in scored.items()},
        }
        card = {**spec_to_card(self._job.spec), **self._job.card, "stage": stage}
        with files.staged_directory(files.join(self._directory, "model")) as folder:
            model.save_model(folder, classifier, card)
        write_history(self._directory, state.history)
        write_outcomes(self._directory, self._outcomes(scored))
        artifacts.mark_complete(self._directory, inputs={}, summary=stage)

    def _outcomes(self, scored: dict[str, Scored]) -> pa.Table:
        """Return the prediction rows of every split, one after the other."""
        caches = {"validation": self._stage.validation, "test": self._stage.test}
        tables = []
        for split, found in scored.items():
            cache = caches[split]
            assert cache is not None
            tables.append(
                build_outcomes(
                    cache.read_paths(),
                    split=split,
                    labels=found.labels,
                    probabilities=found.probabilities,
                    classes=self._job.spec.classes,
                )
            )
        return pa.concat_tables(tables)

    def _report(self, state: StageState, checkpoint: bool) -> None:
        import ray.train

        self._shown = time.monotonic()
        if self._rank == 0:
            write_history(self._directory, state.history)
        if not checkpoint:
            return
        metrics = {**state.history[-1], "stage": self._stage.name}
        if self._rank != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory(prefix="catdog-") as folder:
            Path(folder, f"{self._stage.name}.npz").write_bytes(state.to_bytes())
            ray.train.report(
                metrics,
                checkpoint=ray.train.Checkpoint.from_directory(folder),
                checkpoint_dir_name=f"{self._stage.name}-epoch-{state.epoch:06d}",
            )

    def _barrier(self) -> None:
        """Wait until rank 0 has written the stage: nobody starts the next one before."""
        from ray.train.collective import barrier

        barrier()

    def _show_step(self, epoch: int, step: int, steps: int) -> None:
        """Leave a note of a long epoch's progress for the driver's console."""
        now = time.monotonic()
        if now - self._shown < _NOTE_EVERY_SECONDS:
            return
        self._shown = now
        files.write_json(
            files.join(self._directory, "progress.json"), {"epoch": epoch + 1, "step": step, "steps": steps}
        )


def _read_checkpoint(checkpoint: Any) -> tuple[str, StageState] | None:
    """Return (stage name, state) of the checkpoint that Ray Train hands to a worker, or None."""
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        found = sorted(Path(folder).glob("*.npz"))
        return (found[0].stem, StageState.from_bytes(found[0].read_bytes())) if found else None
