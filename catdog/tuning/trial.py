"""One trial, in its own process: the stages of a train job, one after the other, reported to Ray Tune.

A quick trial trains in this process, which is used again for the next trial: TensorFlow is imported, and the rows are
read, once a process. A distributed trial is a trainer of several workers. Imported late: it needs Ray.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
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
from catdog.model.saved_model import ClassifierSpec, copy_model, spec_to_card
from catdog.storage import files
from catdog.training.driver import LOSSES_FILE, Training
from catdog.training.fit.checkpoint import StageState, read_history
from catdog.training.fit.train_loop import DivergedError, evaluate, fit_stage
from catdog.training.stages import StageJob, TrainJob, best_stage, stage_mark
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

    def config(self, values: Mapping[str, Any]) -> TrainConfig:
        """Return the settings of the trial of these `values`."""
        return build_config(TrainConfig, {**flatten_config(self.base), **values})

    def layout(self, values: Mapping[str, Any]) -> tuple[ClassifierSpec, list[StageJob]]:
        """Return model and stages of the trial of these `values`."""
        config = self.config(values)
        spec, stages = self.layouts[tuple(values[key] for key in layout_settings(self.space))]
        return (
            dataclasses.replace(spec, dropout=config.dropout),
            [dataclasses.replace(stage, settings=getattr(config, stage.name)) for stage in stages],
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
        config = sweep.config(values)
        self._sweep, self._directory = sweep, trial_directory(sweep.run_dir, number)
        self._spec, self._stages = sweep.layout(values)
        # One classifier with dropout serves all trials: only its rate is set for each, even to 0.
        precision = model.choose_precision(config.precision, model.gpu_capabilities())
        rebuilt = dataclasses.replace(self._spec, dropout=0.5)
        self._classifier, weights = _fresh_classifier(rebuilt, pretrained, precision)
        self._float32_model = self._classifier
        if precision != "float32":
            self._float32_model, _ = _fresh_classifier(rebuilt, pretrained, "float32")
        self._classifier.set_weights(weights)
        self._classifier.get_layer(model.DROPOUT).rate = config.dropout
        self._strategy = tf.distribute.get_strategy()
        tf_keras.utils.set_random_seed(config.seed)
        self._seed = config.seed
        self._best = {"val_acc": 0.0, "val_loss": float("inf")}
        self._epochs = 0

    def fit(self) -> dict[str, Any]:
        """Train all stages, write the best one's model, and return its scores."""
        found: list[tuple[tuple[float, float], dict[str, Any]]] = []
        for place, stage in enumerate(self._stages):
            path, last = self._state_path(stage), place + 1 == len(self._stages)
            state = StageState.from_bytes(files.read_bytes(path)) if files.exists(path) else None
            if state is not None:
                self._report(state, stage, last)
            state = fit_stage(
                self._classifier,
                stage.settings,
                cut=stage.cut,
                train=_rows(_cached(stage.train), self._seed, self._sweep.memory_bytes),
                validation=_rows(stage.validation, None, self._sweep.memory_bytes),
                strategy=self._strategy,
                seed=self._seed,
                state=state,
                on_epoch=lambda state, _, stage=stage, last=last: self._report(state, stage, last),  # type: ignore[misc]
            )
            self._best, self._epochs = self._best_scores(state), self._epochs + state.epoch
            if self._float32_model is not self._classifier:
                self._float32_model.set_weights(self._classifier.get_weights())
            scores = {"validation": self._evaluate(stage, stage.validation)}
            if stage.test is not None:
                scores["test"] = self._evaluate(stage, stage.test)
            key = (scores["validation"]["accuracy"], -scores["validation"]["loss"])
            if not found or key > max(best for best, _ in found):
                self._write_model(stage, state, scores)
            found.append((key, {"stage": stage.name, **scores}))
        best = max(found, key=lambda pair: pair[0])[1]
        return {"status": "finished", "epochs": self._epochs, **best}

    def _evaluate(self, stage: StageJob, cache: FeatureCache) -> dict[str, float]:
        rows = _rows(cache, None, self._sweep.memory_bytes)
        return evaluate(self._float32_model, cut=stage.cut, rows=rows, strategy=self._strategy)

    def _report(self, state: StageState, stage: StageJob, last: bool) -> None:
        """Report an epoch to Ray Tune, which may pause the trial here: another process then starts the next stage."""
        ended = state.epoch >= stage.settings.epochs
        if ended and not last:
            files.write_bytes(self._state_path(stage), state.to_bytes())
        budget, epochs = _budget(state.epoch, last=last, ended=ended), self._epochs + state.epoch
        tune.report({**self._best_scores(state), "budget": budget, "epochs": epochs})

    def _best_scores(self, state: StageState) -> dict[str, float]:
        """Return the best scores of the earlier stages and of `state`."""
        return {
            "val_acc": max([self._best["val_acc"], *(row["val_acc"] for row in state.history)]),
            "val_loss": min([self._best["val_loss"], *(row["val_loss"] for row in state.history)]),
        }

    def _state_path(self, stage: StageJob) -> str:
        return files.join(self._directory, f"{stage.name}.npz")

    def _write_model(self, stage: StageJob, state: StageState, scores: Mapping[str, Any]) -> None:
        from catdog.model import classifier as model

        mark = {"name": stage.name, "epochs": state.epoch, "best_epoch": state.best_epoch, **scores}
        card = {**spec_to_card(self._spec), **self._sweep.card, "stage": mark}
        with files.staged_directory(files.join(self._directory, "model")) as folder:
            model.save_model(folder, self._float32_model, card)


class DistributedTrial:
    """One trial as a TensorflowTrainer of several workers, which resumes from its own checkpoints."""

    def __init__(self, sweep: Sweep, values: Mapping[str, Any], *, pretrained: Shared, number: int) -> None:
        self._sweep, self._pretrained = sweep, pretrained
        self._directory = trial_directory(sweep.run_dir, number)
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
        """Report to Ray Tune the epochs that the workers have finished since the last call."""
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
                    "budget": _budget(int(row["epoch"]), last=place + 1 == len(stages), ended=ended),
                    "epochs": index + 1,
                }
            )
        self._reported = len(rows)


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
