"""One trial, in its own process: the stages of a train job, one after the other, reported to Ray Tune.

A quick trial trains in this process, which is used again for the next trial: TensorFlow is imported, and the rows are
read, once a process. A distributed trial is a trainer of several workers. Imported late: it needs Ray.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ray import tune

from catdog.cluster.actors import Shared
from catdog.cluster.plan import Plan
from catdog.command_line.settings import build_config, flatten_config
from catdog.config import TrainConfig
from catdog.errors import FailureError
from catdog.features.cache import FeatureCache
from catdog.features.rows import CachedRows
from catdog.model.saved_model import ClassifierSpec, copy_model
from catdog.storage import files
from catdog.training.driver import Training
from catdog.training.fit.checkpoint import StageState, read_history
from catdog.training.fit.marks import best_stage, stage_mark
from catdog.training.fit.stage_runner import Place, train_stages
from catdog.training.fit.train_loop import DivergedError, StageRows
from catdog.training.fit.train_step import Networks
from catdog.training.stages import StageJob, TrainJob
from catdog.tuning.records import trial_directory, write_record
from catdog.tuning.space import Space, layout_settings

TRIAL_CPUS = 1  # of a quick trial


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """What all trials share. `layouts` has model and stages for each combination of settings that change features."""

    base: TrainConfig
    space: Space
    card: Mapping[str, Any]
    layouts: Mapping[tuple[Any, ...], tuple[ClassifierSpec, tuple[StageJob, ...]]]
    run_dir: str
    memory_bytes: int
    plan: Plan  # of one distributed trial
    class_weights: tuple[float, ...] = ()

    def config(self, values: Mapping[str, Any]) -> TrainConfig:
        """Return the settings of the trial of these `values`."""
        return build_config(TrainConfig, {**flatten_config(self.base), **values})

    def train_job(self, values: Mapping[str, Any], *, number: int) -> TrainJob:
        """Return what trial `number` of these `values` trains."""
        config = self.config(values)
        spec, stages = self.layouts[tuple(values[key] for key in layout_settings(self.space))]
        return TrainJob(
            run_dir=trial_directory(self.run_dir, number),
            spec=dataclasses.replace(spec, dropout=config.dropout),
            seed=config.seed,
            stages=tuple(dataclasses.replace(stage, settings=getattr(config, stage.name)) for stage in stages),
            card=self.card,
            plan=self.plan,
            class_weights=self.class_weights,
            precision=self.base.precision,
        )


def run_trial(config: dict[str, Any], *, sweep: Sweep, pretrained: Shared) -> None:
    """Train the trial of `config["values"]`; write its record and model. A function trainable of Ray Tune.

    Its name in Ray Tune is its number. A loss that is not a number ends the trial as a failed one.
    """
    values: dict[str, Any] = config["values"]
    number, start = int(tune.get_context().get_trial_name()), time.monotonic()
    kind = DistributedTrial if sweep.base.cluster.workers else QuickTrial
    try:
        result = kind(sweep, values, pretrained=pretrained, number=number).fit()
    except DivergedError as error:
        result = {"status": "failed", "reason": str(error)}
    seconds = time.monotonic() - start
    write_record({"number": number, "values": values, "process": os.getpid(), **result}, sweep.run_dir, seconds=seconds)


class QuickTrial:
    """One trial in this process: the stages one after the other on one classifier."""

    def __init__(self, sweep: Sweep, values: Mapping[str, Any], *, pretrained: Shared, number: int) -> None:
        import tensorflow as tf
        import tf_keras

        from catdog.model import classifier as model

        model.configure_tensorflow(threads=TRIAL_CPUS)
        self._sweep, self._job = sweep, sweep.train_job(values, number=number)
        # One classifier with dropout serves all trials: only its rate is set for each, even to 0.
        precision = model.choose_precision(self._job.precision, model.gpu_capabilities())
        rebuilt = dataclasses.replace(self._job.spec, dropout=0.5)
        trained, weights = _fresh_classifier(rebuilt, pretrained, precision)
        float32 = trained if precision == "float32" else _fresh_classifier(rebuilt, pretrained, "float32")[0]
        self._networks = Networks(trained=trained, float32=float32, strategy=tf.distribute.get_strategy())
        self._networks.set_weights(weights)
        trained.get_layer(model.DROPOUT).rate = self._job.spec.dropout
        tf_keras.utils.set_random_seed(self._job.seed)

    def fit(self) -> dict[str, Any]:
        """Train all stages, keep the best one's model, and return its scores."""
        epochs: list[dict[str, float]] = []
        train_stages(
            self._job,
            self._networks,
            place=Place(),
            open_rows=self._open_rows,
            observe=lambda stage: _TuneObserver(self._job, stage, epochs),
        )
        return _keep_best(self._job)

    def _open_rows(self, stage: StageJob) -> StageRows:
        memory_bytes = self._sweep.memory_bytes
        return StageRows(
            train=_rows(_cached(stage.train), self._job.seed, memory_bytes),
            validation=_rows(stage.validation, None, memory_bytes),
            test=_rows(stage.test, None, memory_bytes) if stage.test else None,
        )


class _TuneObserver:
    """Reports the epochs of a stage to Ray Tune; `epochs` has those of the earlier stages and gets its own."""

    def __init__(self, job: TrainJob, stage: StageJob, epochs: list[dict[str, float]]) -> None:
        self._stage, self._epochs, self._before = stage, epochs, len(epochs)
        self._last = stage is job.stages[-1]
        self._path = files.join(job.run_dir, f"{stage.name}.npz")

    def resume(self) -> StageState | None:
        """Return the state of a stage that had ended when the trial was paused; it is reported again."""
        if not files.exists(self._path):
            return None
        state = StageState.from_bytes(files.read_bytes(self._path))
        self._report(state)
        return state

    def on_step(self, epoch: int, step: int, steps: int) -> None:
        """A step is not reported."""

    def on_epoch(self, state: StageState, *, checkpoint: bool) -> None:
        """Report an epoch. Ray Tune may pause the trial here: another process then starts the next stage."""
        if state.epoch >= self._stage.epochs and not self._last:
            files.write_bytes(self._path, state.to_bytes())
        self._report(state)

    def on_end(self) -> None:
        """The files of the stage tell."""

    def _report(self, state: StageState) -> None:
        self._epochs[self._before :] = state.history
        ended = state.epoch >= self._stage.epochs
        budget = _budget(state.epoch, last=self._last, ended=ended)
        tune.report({**_best_scores(self._epochs), "budget": budget, "epochs": len(self._epochs)})


class DistributedTrial:
    """One trial as a TensorflowTrainer of several workers, which resumes from its own checkpoints."""

    def __init__(self, sweep: Sweep, values: Mapping[str, Any], *, pretrained: Shared, number: int) -> None:
        self._sweep, self._pretrained = sweep, pretrained
        self._job = sweep.train_job(values, number=number)
        self._reported = 0

    def fit(self) -> dict[str, Any]:
        """Train all stages, keep the best one's model, and return its scores."""
        training = Training(self._job, pretrained=self._pretrained.get(), cluster=self._sweep.base.cluster)
        self._report_rows()  # of an earlier process
        training.finish(self._follow)
        return _keep_best(self._job)

    def _follow(self, message: Mapping[str, Any]) -> None:
        if message["kind"] == "epoch":
            self._report_rows()

    def _report_rows(self) -> None:
        """Report to Ray Tune the epochs that the workers have finished since the last call."""
        rows = [
            (place, row)
            for place, stage in enumerate(self._job.stages)
            for row in read_history(files.join(self._job.run_dir, stage.name))
        ]
        for index in range(self._reported, len(rows)):
            place, row = rows[index]
            stages = self._job.stages
            ended = row["epoch"] >= stages[place].epochs
            tune.report(
                {
                    **_best_scores([past for _, past in rows[: index + 1]]),
                    "budget": _budget(int(row["epoch"]), last=place + 1 == len(stages), ended=ended),
                    "epochs": index + 1,
                }
            )
        self._reported = len(rows)


def _keep_best(job: TrainJob) -> dict[str, Any]:
    """Leave the model of the best stage as the trial's, and nothing else of the stages; return its scores."""
    marks = {stage.name: stage_mark(job.run_dir, stage.name) for stage in job.stages}
    best = best_stage(marks)
    copy_model(files.join(job.run_dir, best, "model"), files.join(job.run_dir, "model"))
    for leftover in ("checkpoints", *marks):
        files.delete(files.join(job.run_dir, leftover))
    scores: dict[str, Any] = {name: marks[best][name] for name in ("validation", "test") if name in marks[best]}
    return {"status": "finished", "stage": best, "epochs": sum(mark["epochs"] for mark in marks.values()), **scores}


def _best_scores(epochs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {
        "val_acc": max(row["val_acc"] for row in epochs),
        "val_loss": min(row["val_loss"] for row in epochs),
    }


def _budget(epoch: int, *, last: bool, ended: bool) -> int:
    """Return what schedulers count: the epochs of the last stage, which cost time, and 1 for everything before it.

    The very last epoch does not count: a trial that came so far must not be stopped before it writes its model.
    """
    return 1 + epoch - int(ended) if last else int(ended)


@lru_cache(maxsize=2)
def _fresh_classifier(spec: ClassifierSpec, pretrained: Shared, precision: str) -> tuple[Any, list[Any]]:
    """Build the classifier once a process; return it with the weights from which every trial starts."""
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
        raise FailureError("the trials of a sweep need cached features: give a larger --cache-budget-gib")
    return rows
