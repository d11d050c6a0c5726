"""A trial in one process: it runs its stages in turn, and reports them to Ray Tune with the best model so far.

The process is reused for the next trial, so TensorFlow, if trials need it, is imported once per process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from ray import tune

from catdog.cluster.actors import Shared
from catdog.cluster.environment import import_tensorflow
from catdog.features.cache import FeatureCache
from catdog.features.rows import CachedRows
from catdog.model.backbone_specs import HEAD_CUT
from catdog.model.saved_model import ClassifierSpec
from catdog.storage import files
from catdog.training.fit.checkpoint import StageState
from catdog.training.fit.networks import Networks
from catdog.training.fit.stage_job import StageJob
from catdog.training.fit.train_loop import DivergedError, StageRows, fit_stage
from catdog.tuning.layouts import Sweep
from catdog.tuning.records import checkpoint_path
from catdog.tuning.selection import objective
from catdog.tuning.trials.checkpoint import TrialCheckpoint
from catdog.tuning.trials.cross_validation import cross_validate
from catdog.tuning.trials.frozen import (
    FrozenRows,
    HeadFitter,
    HeadNetwork,
    SilentObserver,
    rate_head,
    scores_of,
    whole,
)
from catdog.tuning.trials.resources import TRIAL_CPUS


def run_trial(config: dict[str, Any], *, sweep: Sweep, stages: tuple[str, ...]) -> None:
    """Train `stages` of the trial with `config["values"]` in this process. A function trainable of Ray Tune.

    The trial's name in Ray Tune is its number. If the loss is not finite, the trial ends as failed.
    """
    trial = QuickTrial(sweep, config["values"], number=int(tune.get_context().get_trial_name()))
    try:
        for stage in stages:
            trial.run(stage)
    except DivergedError as error:
        trial.fail(str(error))


FAILED = 1e9  # the objective of a trial that has no score, because Ray Tune requires a number


class QuickTrial:
    """One trial: what it trains, and its best result so far."""

    def __init__(self, sweep: Sweep, values: Mapping[str, Any], *, number: int) -> None:
        self._sweep, self._values, self._number = sweep, values, number
        self._config, self._layout = sweep.config(values), sweep.layout(values)
        self._spec = dataclasses.replace(self._layout.spec, dropout=self._config.dropout)
        self._best: tuple[float, dict[str, Any]] | None = None  # objective and report of the best epoch so far
        self._head: list[np.ndarray] = []
        self._stages: dict[str, dict[str, Any]] = {}  # each stage's best scores and its history

    def run(self, stage: str) -> None:
        """Train `stage` and report its results."""
        if stage == "frozen":
            self._run_frozen()
        else:
            self._run_unfrozen()

    def fail(self, reason: str) -> None:
        """Report that the trial failed."""
        best = self._best[1] if self._best else {"objective": FAILED}
        tune.report({**best, "status": "failed", "reason": reason, **self._common(0)})

    def _run_frozen(self) -> None:
        rows: FrozenRows = self._layout.rows.get()
        settings = self._config.frozen
        fitter = HeadFitter(
            settings,
            classes=len(self._spec.classes),
            class_weights=self._sweep.weights_of_classes(self._values),
            seed=self._config.seed,
            network=None if settings.head == "logistic" else self._head_network(),
        )
        train, held = whole(rows.train, rows.train_labels), whole(rows.validation, rows.validation_labels)
        head = fitter.fit([train], [held])
        losses, correct = rate_head(head.weights, [held])
        found: dict[str, Any] = {"validation": scores_of(losses, correct)}
        last = head.history[-1]
        if "val_loss" not in last:
            last |= {"val_loss": found["validation"]["loss"], "val_acc": found["validation"]["accuracy"]}
        if self._sweep.folds:
            # All folds use the penalty that was chosen on the training photos.
            found["folds"], losses, correct = cross_validate(rows, fitter, c=head.c)
        self._head = head.weights
        checkpoint = TrialCheckpoint(
            stage="frozen", cut=HEAD_CUT, epoch=head.epoch, weights=head.weights, losses=losses, correct=correct
        )
        ended = self._sweep.stage_names[-1] == "frozen"
        self.report(found, checkpoint, history=head.history, budget=1, ended=ended, c=head.c)

    def _run_unfrozen(self) -> None:
        import_tensorflow()
        import tf_keras

        from catdog.model import classifier as model

        path = checkpoint_path(self._sweep.run_dir, self._number, "frozen")
        if not self._head and files.exists(path):  # the frozen stage was trained before, in another process
            self._head = TrialCheckpoint.from_bytes(files.read_bytes(path)).weights
        elif not self._head:
            self._run_frozen()
        stage, networks = self._sweep.stage(self._values, "unfrozen"), self._networks()
        model.split_at(networks.trained, HEAD_CUT)[1].set_weights(self._head)
        tf_keras.utils.set_random_seed(self._config.seed)
        state = fit_stage(
            networks,
            stage.settings,
            self._open_rows(stage),
            UnfrozenObserver(self, stage),
            cut=stage.cut,
            class_weights=self._sweep.weights_of_classes(self._values),
        )
        if state.epoch < stage.epochs:  # it stopped early, so its last report did not say that it finished
            report_end = {**(self._best[1] if self._best else {}), "status": "finished"}
            tune.report({**report_end, **self._common(1 + state.epoch)})

    def _open_rows(self, stage: StageJob) -> StageRows:
        memory = self._sweep.memory_bytes
        assert isinstance(stage.train, FeatureCache)
        return StageRows(
            train=_rows(stage.train, self._config.seed, memory), validation=_rows(stage.validation, None, memory)
        )

    def report(
        self,
        found: dict[str, Any],
        checkpoint: TrialCheckpoint,
        *,
        history: list[dict[str, float]],
        budget: int,
        ended: bool,
        c: float = 0.0,
    ) -> None:
        """Report the trial's best epoch so far, with its model if it is new."""
        rated = found.get("folds") or found["validation"]
        value = objective(rated, self._sweep.metric)
        self._stages[checkpoint.stage] = {
            **found["validation"],
            "epochs": len(history),
            "best_epoch": checkpoint.epoch,
            "history": history,
            **({"c": c} if c else {}),
        }
        better = self._best is None or value < self._best[0]
        if better:
            self._best = (value, {"objective": value, "stage": checkpoint.stage, **found})
        assert self._best is not None
        report = {**self._best[1], **({"status": "finished"} if ended else {}), **self._common(budget)}
        with checkpoint.for_ray_tune() if better else contextlib.nullcontext() as saved:
            tune.report(report, checkpoint=saved)

    def _common(self, budget: int) -> dict[str, Any]:
        # Schedulers compare trials from budget 1 on, so trial 0, the default settings, always runs to its end.
        return {"budget": budget if self._number else 0, "stages": self._stages, "process": os.getpid()}

    def _networks(self) -> Networks:
        """Return the classifier of this process, reset to the initial weights of every trial."""
        from catdog.model import classifier as model

        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # several trials share a GPU
        model.configure_tensorflow(threads=TRIAL_CPUS)
        precision = model.choose_precision(self._config.precision, model.gpu_capabilities())
        # All trials use one classifier with dropout. Only its rate is set for each trial, even to 0.
        spec = dataclasses.replace(self._spec, dropout=0.5)
        trained, weights = _fresh_classifier(spec, self._layout.pretrained, precision)
        trained.set_weights(weights)
        trained.get_layer(model.DROPOUT).rate = self._config.dropout
        # Scores in float32 are measured once, after the sweep.
        return Networks(trained=trained, float32=trained)

    def _head_network(self) -> HeadNetwork:
        from catdog.model import classifier as model

        networks = self._networks()
        return HeadNetwork(networks=networks, start=model.split_at(networks.trained, HEAD_CUT)[1].get_weights())


class UnfrozenObserver(SilentObserver):
    """Reports each epoch of the unfrozen stage of `trial`."""

    def __init__(self, trial: QuickTrial, stage: StageJob) -> None:
        self._trial, self._stage = trial, stage

    def on_epoch(self, state: StageState, *, checkpoint: bool) -> None:
        """Report the best epoch so far, with its weights."""
        row = state.history[state.best_epoch - 1]
        found = {"validation": {"accuracy": row["val_acc"], "loss": row["val_loss"]}}
        best = TrialCheckpoint(
            stage=self._stage.name, cut=self._stage.cut, epoch=state.best_epoch, weights=state.best_weights
        )
        ended = state.epoch >= self._stage.epochs
        self._trial.report(found, best, history=state.history, budget=1 + state.epoch, ended=ended)


@lru_cache(maxsize=2)
def _fresh_classifier(spec: ClassifierSpec, pretrained: Shared, precision: str) -> tuple[Any, list[np.ndarray]]:
    """Build the classifier once per process, and return it with the initial weights of every trial."""
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
    """Return the rows of `cache`, which stay in memory between trials."""
    return CachedRows(cache, seed=seed, equal=seed is not None, memory_bytes=memory_bytes)
