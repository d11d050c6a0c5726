"""The two stages: one train loop, run by the workers of one TensorflowTrainer.

`fit_stage` trains a tail on rows and knows nothing of Ray; `run_stages` is what each worker of the trainer does;
`Training` is the trainer at work. Both stages run in one group of workers, because starting a group takes longer than
training one stage of cached rows; and the group starts while the trunk pass still computes these rows.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from catdog import artifacts
from catdog.card import ClassifierSpec, spec_to_card
from catdog.cluster import Plan, log_directory, root_cause
from catdog.config import ClusterConfig, StageConfig, UnfrozenStageConfig
from catdog.errors import CatdogError, FailureError, ImageError
from catdog.features import CachedRows, CachePlace, Extraction, FeatureCache, RowSource
from catdog.images import MAX_PIXELS, decode_image, make_thumbnail, overlay_heat
from catdog.outcomes import build_outcomes, read_outcomes, worst_outcomes, write_outcomes
from catdog.photos import read_photo
from catdog.rows import PICTURES
from catdog.thumbnails import THUMBNAIL_SIZE, write_pictures
from catdog.trunk import Shared, share, stream_features

HISTORY_COLUMNS = ("epoch", "steps", "seconds", "learning_rate", "loss", "acc", "val_loss", "val_acc")
# A report costs 0.2 s and more; epochs of cached rows may be shorter. So much work a killed job repeats.
_CHECKPOINT_EVERY_SECONDS = 2.0
_EVALUATION_BATCH = 256
_NOTE_EVERY_SECONDS = 10.0
_FAILURE = "failure.json"
_ABANDONED = "abandoned.json"  # tells workers that the rows they wait for will not come
_POLL_SECONDS = 0.2
_ABANDON_SECONDS = 20.0
LOSSES_FILE = "lost.json"
WORST = 24  # errors that are shown
HEAT_FILE, HEAT_FAILURE = "heat.parquet", "heat.json"


class DivergedError(FailureError):
    """The loss is no longer a number: the same training would end so again."""


@dataclasses.dataclass(kw_only=True)
class StageState:
    """Where a stage stands after an epoch: all that is needed to go on."""

    epoch: int = 0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    weights: list[np.ndarray] = dataclasses.field(default_factory=list)
    optimizer: list[np.ndarray] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    best_weights: list[np.ndarray] = dataclasses.field(default_factory=list)

    def to_bytes(self) -> bytes:
        """Return the state as the content of an npz file; nothing in it is pickled."""
        arrays = {
            f"{kind}_{index:04d}": array
            for kind in ("weights", "optimizer", "best_weights")
            for index, array in enumerate(getattr(self, kind))
        }
        header = json.dumps({"epoch": self.epoch, "history": self.history, "best_epoch": self.best_epoch})
        content = io.BytesIO()
        np.savez(content, header=np.frombuffer(header.encode(), np.uint8), **arrays)
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> StageState:
        """Read what `to_bytes` returned."""
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            header = json.loads(stored["header"].tobytes())
            lists = {
                kind: [stored[name] for name in sorted(stored.files) if name.startswith(f"{kind}_")]
                for kind in ("weights", "optimizer", "best_weights")
            }
        return cls(epoch=header["epoch"], history=header["history"], best_epoch=header["best_epoch"], **lists)


def fit_stage(
    classifier: Any,
    settings: StageConfig,
    *,
    cut: str,
    train: RowSource,
    validation: RowSource,
    strategy: Any,
    seed: int,
    state: StageState | None = None,
    on_epoch: Callable[[StageState, bool], None] | None = None,
    on_step: Callable[[int, int, int], None] | None = None,
) -> StageState:
    """Train the tail of `classifier` from `cut` on; leave it with the weights of its best epoch.

    The best epoch is the one of the lowest validation loss. `classifier` was built in the scope of `strategy`,
    a tf.distribute strategy; every worker of it calls this with its own share of the rows, of equal length.
    `on_epoch` gets the state and whether it is time for a checkpoint, the same on every worker;
    `on_step` gets (epoch, steps done, steps).
    Raises DivergedError when the loss is no longer a number.
    """
    workers = strategy.num_replicas_in_sync
    batch = _batch_a_worker(settings.global_batch_size, workers=workers, rows=train.rows)
    steps = train.rows // batch
    tail = _Tail(classifier, settings, cut=cut, strategy=strategy, batch=batch * workers)
    state = state or StageState()
    if state.weights:
        tail.restore(state)
    last_checkpoint = time.monotonic()
    while state.epoch < settings.epochs and not _is_stale(state, settings):
        start = time.monotonic()
        trained = np.zeros(3)
        for step, (features, labels) in enumerate(_batches(train.epoch(state.epoch), batch, steps)):
            trained += tail.train(features, labels)
            if on_step:
                on_step(state.epoch, step + 1, steps)
        due = time.monotonic() - last_checkpoint > _CHECKPOINT_EVERY_SECONDS
        sums = tail.total(np.concatenate([trained, tail.evaluate(validation), [float(due)]]))
        row = {
            "epoch": state.epoch + 1,
            "steps": steps,
            "seconds": round(time.monotonic() - start, 3),
            "learning_rate": settings.learning_rate,
            **_scores(sums[:3], prefix=""),
            **_scores(sums[3:6], prefix="val_"),
        }
        _take(state, row, tail)
        finished = state.epoch >= settings.epochs or _is_stale(state, settings)
        checkpoint = bool(sums[6]) or finished
        if on_epoch:
            on_epoch(state, checkpoint)
        if checkpoint:
            last_checkpoint = time.monotonic()
    if state.best_weights:
        tail.model.set_weights(state.best_weights)
    return state


def evaluate(classifier: Any, *, cut: str, rows: RowSource, strategy: Any) -> dict[str, float]:
    """Return {"accuracy", "loss"} of `classifier` on all rows of all workers."""
    tail = _Tail(classifier, StageConfig(), cut=cut, strategy=strategy, batch=1)
    scores = _scores(tail.total(tail.evaluate(rows)), prefix="")
    return {"accuracy": scores["acc"], "loss": scores["loss"]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """What a classifier made of one split: its scores, and for each photo its probabilities.

    `labels` (N,) and `probabilities` (N, classes) are in the order of the cache, the same on every worker.
    """

    scores: dict[str, float]
    labels: np.ndarray
    probabilities: np.ndarray


def score_splits(classifier: Any, *, cut: str, splits: Mapping[str, CachedRows], strategy: Any) -> dict[str, Scored]:
    """Run `classifier` over each split once; every worker calls this with its shares and gets the whole."""
    tail = _Tail(classifier, StageConfig(), cut=cut, strategy=strategy, batch=1)
    found = {}
    for split, rows in splits.items():
        kept: list[np.ndarray] = []
        sums = tail.evaluate(rows, kept)
        # A share is entered at its place among zeros, so that the sum over the workers is the whole.
        whole = np.zeros((rows.total, 1 + tail.classes))
        if kept:
            whole[rows.first : rows.first + rows.rows] = np.concatenate(kept)
        columns = tail.total(np.concatenate([sums, whole.ravel()]))
        scores = _scores(columns[:3], prefix="")
        probabilities = columns[3:].reshape(whole.shape)
        found[split] = Scored(
            scores={"accuracy": scores["acc"], "loss": scores["loss"]},
            labels=probabilities[:, 0].astype(np.int32),
            probabilities=probabilities[:, 1:].astype(np.float32),
        )
    return found


class _Tail:
    """The trained part of a classifier with its optimizer: steps on batches, sums over workers."""

    def __init__(self, classifier: Any, settings: StageConfig, *, cut: str, strategy: Any, batch: int) -> None:
        import tf_keras

        from catdog import model

        self._strategy = strategy
        with strategy.scope():
            _, self.model = model.split_at(classifier, cut)
            keep_batch_norm = isinstance(settings, UnfrozenStageConfig) and not settings.train_batch_norm
            for layer in self.model.layers:
                layer.trainable = not (keep_batch_norm and isinstance(layer, tf_keras.layers.BatchNormalization))
            kind = {"adam": "Adam", "rmsprop": "RMSprop", "sgd": "SGD"}[settings.optimizer]
            self.optimizer = getattr(tf_keras.optimizers, kind)(settings.learning_rate)
            self.optimizer.build(self.model.trainable_variables)
        self.classes = int(self.model.output.shape[-1])
        self._train, self._evaluate = self._compile(batch)

    def _compile(self, batch: int) -> tuple[Any, Any]:
        import tensorflow as tf
        import tf_keras

        network, optimizer, strategy = self.model, self.optimizer, self._strategy
        variables = network.trainable_variables
        image_like = network.input.dtype == tf.uint8

        def scores(labels: Any, probabilities: Any) -> tuple[Any, Any]:
            labels = tf.cast(labels, tf.int32)
            losses = tf_keras.losses.sparse_categorical_crossentropy(labels, probabilities)
            right = tf.equal(tf.argmax(probabilities, axis=1, output_type=tf.int32), labels)
            count = tf.cast(tf.size(labels), tf.float32)
            return losses, tf.stack([tf.reduce_sum(losses), tf.reduce_sum(tf.cast(right, tf.float32)), count])

        def step(features: Any, labels: Any) -> Any:
            inputs = features if image_like else tf.cast(features, network.input.dtype)
            with tf.GradientTape() as tape:
                losses, sums = scores(labels, network(inputs, training=True))
                # Summed over workers by the optimizer, so each divides by the batch of all of them.
                loss = tf.reduce_sum(losses) / batch
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            return sums

        def measure(features: Any, labels: Any) -> Any:
            inputs = features if image_like else tf.cast(features, network.input.dtype)
            probabilities = network(inputs, training=False)
            # The label is a column of it: what comes back of all workers is one matrix.
            labelled = tf.concat([tf.cast(labels, tf.float32)[:, tf.newaxis], probabilities], axis=1)
            return scores(labels, probabilities)[1], labelled

        return (
            tf.function(lambda x, y: strategy.run(step, args=(x, y)), reduce_retracing=True),
            tf.function(lambda x, y: strategy.run(measure, args=(x, y)), reduce_retracing=True),
        )

    def train(self, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Take one step; return this worker's [sum of losses, right answers, rows]."""
        return np.asarray(self._train(features, labels), np.float64)

    def evaluate(self, rows: RowSource, kept: list[np.ndarray] | None = None) -> np.ndarray:
        """Return this worker's [sum of losses, right answers, rows] over one epoch of `rows`.

        What it said is appended to `kept`: arrays (N, 1 + classes) of label and probabilities.
        """
        sums = np.zeros(3)
        for features, labels in rows.epoch(0):
            for start in range(0, len(labels), _EVALUATION_BATCH):
                stop = start + _EVALUATION_BATCH
                found, labelled = self._evaluate(features[start:stop], labels[start:stop])
                sums += np.asarray(found, np.float64)
                if kept is not None:
                    kept.append(np.asarray(labelled))
        return sums

    def total(self, values: np.ndarray) -> np.ndarray:
        """Return `values` summed over the workers; each must call it."""
        import tensorflow as tf

        if self._strategy.num_replicas_in_sync == 1:
            return values
        own = tf.constant(values, tf.float32)
        spread = self._strategy.run(tf.function(lambda: tf.identity(own)))
        return np.asarray(self._strategy.reduce(tf.distribute.ReduceOp.SUM, spread, axis=None), np.float64)

    def restore(self, state: StageState) -> None:
        """Take weights and optimizer from a checkpoint."""
        self.model.set_weights(state.weights)
        for variable, value in zip(_optimizer_variables(self.optimizer), state.optimizer, strict=True):
            variable.assign(value)


def _take(state: StageState, row: dict[str, float], tail: _Tail) -> None:
    """Enter a finished epoch into `state`; every worker does, because reading weights may ask all of them."""
    if not all(math.isfinite(row[name]) for name in ("loss", "val_loss")):
        raise DivergedError(
            f"the loss is not a number after epoch {state.epoch + 1} (learning rate {row['learning_rate']:g}); "
            "try a smaller learning rate"
        )
    state.epoch += 1
    state.history.append(row)
    state.weights = tail.model.get_weights()
    state.optimizer = [np.asarray(value) for value in _optimizer_variables(tail.optimizer)]
    losses = [past["val_loss"] for past in state.history]
    if row["val_loss"] <= min(losses):
        state.best_epoch, state.best_weights = state.epoch, state.weights


def _optimizer_variables(optimizer: Any) -> list[Any]:
    variables = optimizer.variables
    return list(variables() if callable(variables) else variables)


def _is_stale(state: StageState, settings: StageConfig) -> bool:
    return settings.patience > 0 and state.epoch - state.best_epoch >= settings.patience


def _scores(sums: np.ndarray, *, prefix: str) -> dict[str, float]:
    count = max(1.0, float(sums[2]))
    return {f"{prefix}loss": float(sums[0]) / count, f"{prefix}acc": float(sums[1]) / count}


def _batch_a_worker(global_batch_size: int, *, workers: int, rows: int) -> int:
    """Return how many rows a worker takes a step: its share of the global batch, or all it has."""
    return max(1, min(global_batch_size // workers, rows))


def _batches(
    chunks: Iterator[tuple[np.ndarray, np.ndarray]], batch: int, steps: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut `chunks` into exactly `steps` batches of `batch` rows, across the borders of chunks."""
    features, labels = next(chunks)
    for _ in range(steps):
        while len(labels) < batch:
            more = next(chunks)
            features, labels = np.concatenate([features, more[0]]), np.concatenate([labels, more[1]])
        yield features[:batch], labels[:batch]
        features, labels = features[batch:], labels[batch:]


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

    from catdog import backbones, model

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
        directory = artifacts.join(job.run_dir, stage.name)
        if artifacts.exists(artifacts.join(directory, artifacts.COMPLETE)):
            for each in {id(classifier): classifier, id(exact): exact}.values():
                model.load_weights_into(each, artifacts.join(directory, "model"))
            continue
        worker = _StageWorker(job, stage, rank=rank, workers=workers, pretrained=pretrained)
        state = resumed[1] if resumed and resumed[0] == stage.name else None
        try:
            worker.fit(classifier, exact, strategy, state)
        except DivergedError as error:
            # It would happen again, and it happens on every worker at once: no restart, no worker that waits.
            artifacts.write_json(artifacts.join(job.run_dir, _FAILURE), {"message": str(error)})
            return
    if job.explain and stages and rank == 0:
        _explain(job, exact, distributed=workers > 1)


def _await_rows(job: TrainJob) -> list[StageJob]:
    """Return the stages once the trunk pass has finished their caches; none where it failed."""
    ready: list[StageJob] = []
    for stage in job.stages:
        while (found := stage.find() if isinstance(stage, ComingStage) else stage) is None:
            if artifacts.exists(artifacts.join(job.run_dir, _ABANDONED)):
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
    path = artifacts.join(job.run_dir, HEAT_FILE)
    if artifacts.exists(path):
        return
    try:
        directories = {stage.name: artifacts.join(job.run_dir, stage.name) for stage in job.stages}
        marks = {name: artifacts.completed(directory, inputs={}) or {} for name, directory in directories.items()}
        best = best_stage(marks)
        rows = read_outcomes(directories[best], classes=job.spec.classes)
        worst = worst_outcomes(rows, limit=WORST) if rows is not None else []
        pictures = _heat_pictures(job, classifier, directories, best, worst, distributed) if worst else []
        write_pictures(path, pa.Table.from_pylist(pictures, PICTURES))
    except Exception as error:
        artifacts.write_json(artifacts.join(job.run_dir, HEAT_FAILURE), {"message": artifacts.one_line(error)})


def _heat_pictures(
    job: TrainJob,
    classifier: Any,
    directories: Mapping[str, str],
    best: str,
    worst: list[dict[str, Any]],
    distributed: bool,
) -> list[dict[str, Any]]:
    """Return rows of the schema rows.PICTURES for the photos of `worst` that can be read."""
    from catdog import model

    if distributed:
        import tensorflow as tf

        # Mirrored variables belong to all workers, and only this one is here.
        with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
            classifier = model.build_classifier(job.spec)
    if distributed or best != job.stages[-1].name:
        model.load_weights_into(classifier, artifacts.join(directories[best], "model"))
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
        self._directory = artifacts.join(job.run_dir, stage.name)
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
        from catdog import model

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
        with artifacts.staged_directory(artifacts.join(self._directory, "model")) as folder:
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
        artifacts.write_json(
            artifacts.join(self._directory, "progress.json"), {"epoch": epoch + 1, "step": step, "steps": steps}
        )


class Training:
    """A TensorflowTrainer at work on a job, in a thread of this process.

    Its workers start at once, and wait for the caches of a ComingStage. The same job again, in another process too,
    goes on where the last one was stopped. `alone` tells that Ray has this machine only, and will have no other.
    """

    def __init__(self, job: TrainJob, *, pretrained: Any, cluster: ClusterConfig, alone: bool = False) -> None:
        self._job, self._cluster, self._alone = job, cluster, alone
        self._shared = share(pretrained)
        self._outcome: list[BaseException | None] = []
        artifacts.delete(artifacts.join(job.run_dir, _ABANDONED))
        self._thread = threading.Thread(target=self._fit, name="trainer", daemon=True)
        self._thread.start()

    def finish(self, follow: Callable[[], None]) -> None:
        """Wait for the end; `follow` is called a few times a second.

        Raises FailureError with the one line that matters when the workers fail more often than is allowed.
        """
        while self._thread.is_alive():
            self._thread.join(_POLL_SECONDS)
            follow()
        error = self._outcome[0]
        if isinstance(error, CatdogError):
            raise error
        if error is not None:
            raise FailureError(f"training failed: {root_cause(error)} (logs: {log_directory()}/train)") from error
        note = artifacts.join(self._job.run_dir, _FAILURE)
        if artifacts.exists(note):
            message = artifacts.read_json(note)["message"]
            artifacts.delete(note)
            raise DivergedError(message)

    def abandon(self) -> None:
        """End the workers, whose rows will not come."""
        note = artifacts.join(self._job.run_dir, _ABANDONED)
        artifacts.write_json(note, {})
        self._thread.join(_ABANDON_SECONDS)
        if not self._thread.is_alive():
            artifacts.delete(note)

    def _fit(self) -> None:
        try:
            self._make_trainer().fit()
            self._outcome.append(None)
        except BaseException as error:
            self._outcome.append(error)

    def _make_trainer(self) -> Any:
        from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig

        from catdog.trainer import LeanTensorflowTrainer

        job, cluster, shared = self._job, self._cluster, self._shared
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(cluster.start_timeout_seconds)
        # It watches for machines that a cloud takes back, in a process of its own.
        os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = str(int(not self._alone))
        plan = job.plan
        return LeanTensorflowTrainer(
            lambda: run_stages(job, shared),
            scaling_config=ScalingConfig(
                num_workers=plan.workers,
                use_gpu=plan.worker_gpus > 0,
                resources_per_worker={
                    "CPU": plan.worker_cpus,
                    **({"GPU": plan.worker_gpus} if plan.worker_gpus else {}),
                },
                # On CPUs the cores of several nodes are worth more than a short way between the workers.
                placement_strategy="PACK" if plan.worker_gpus else "SPREAD",
            ),
            run_config=RunConfig(
                name="checkpoints",
                storage_path=job.run_dir,
                checkpoint_config=CheckpointConfig(num_to_keep=1),
                failure_config=FailureConfig(
                    max_failures=cluster.max_failures,
                    controller_failure_limit=cluster.max_failures,
                    max_preemption_failures=cluster.max_preemptions,
                ),
                callbacks=[_make_loss_note(job.run_dir)],
            ),
        )


def _make_loss_note(run_dir: str) -> Any:
    """Return a callback of Ray Train's controller that notes each loss of workers for the driver's console."""
    from ray.train import UserCallback

    class LossNote(UserCallback):  # type: ignore[misc]
        """Writes lost.json: how often workers were lost, and the cause of the last time."""

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            path = artifacts.join(run_dir, LOSSES_FILE)
            count = artifacts.read_json(path)["count"] if artifacts.exists(path) else 0
            artifacts.write_json(path, {"count": count + 1, "cause": _first_loss(worker_exceptions)})

    return LossNote()


def _first_loss(errors: Mapping[int, Exception]) -> str:
    """Return in a line which worker went first: the others fail because it no longer answers."""
    causes = {rank: root_cause(error) for rank, error in sorted(errors.items())}
    own = {rank: cause for rank, cause in causes.items() if "Collective" not in cause}
    for rank, cause in own.items():
        return f"worker {rank}: {cause.partition('. ')[0]}"
    return f"worker {', '.join(map(str, causes))} lost the connection to the others"


def _read_checkpoint(checkpoint: Any) -> tuple[str, StageState] | None:
    """Return (stage name, state) of the checkpoint that Ray Train hands to a worker, or None."""
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        found = sorted(Path(folder).glob("*.npz"))
        return (found[0].stem, StageState.from_bytes(found[0].read_bytes())) if found else None


def write_history(directory: str, history: Sequence[Mapping[str, float]]) -> None:
    """Write history.csv, whole: one row an epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    artifacts.write_bytes(artifacts.join(directory, "history.csv"), text.getvalue().encode())


def read_history(directory: str) -> list[dict[str, float]]:
    """Return the rows of history.csv, or none where the stage has not finished an epoch."""
    path = artifacts.join(directory, "history.csv")
    if not artifacts.exists(path):
        return []
    rows = csv.DictReader(io.StringIO(artifacts.read_bytes(path).decode()))
    return [{name: float(value) for name, value in row.items()} for row in rows]
