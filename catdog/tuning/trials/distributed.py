"""A trial on several workers: it has its own trainer, in its own folder, which resumes from its own checkpoints."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from pyarrow import fs
from ray import tune

from catdog.model.saved_model import copy_model
from catdog.storage import artifacts, files
from catdog.training.driver import Training
from catdog.training.fit.checkpoint import StageState, read_history
from catdog.training.fit.stage_job import StageJob, TrainJob
from catdog.training.fit.train_loop import DivergedError
from catdog.tuning.layouts import Sweep
from catdog.tuning.records import checkpoint_path, model_path, trial_directory
from catdog.tuning.selection import objective
from catdog.tuning.trials.checkpoint import TrialCheckpoint
from catdog.tuning.trials.quick import FAILED


def run_distributed_trial(config: dict[str, Any], *, sweep: Sweep) -> None:
    """Train all stages of the trial with `config["values"]` on its own workers. A function trainable of Ray Tune."""
    number = int(tune.get_context().get_trial_name())
    trial = DistributedTrial(sweep, config["values"], number=number)
    try:
        trial.run()
    except DivergedError as error:
        report = {"objective": FAILED, "status": "failed", "reason": str(error), "budget": 0}
        tune.report({**report, "process": os.getpid()})


class DistributedTrial:
    """One trial as a TensorflowTrainer of several workers."""

    def __init__(self, sweep: Sweep, values: Mapping[str, Any], *, number: int) -> None:
        self._sweep, self._number = sweep, number
        layout, config = sweep.layout(values), sweep.config(values)
        self._pretrained = layout.pretrained
        self._job = TrainJob(
            run_dir=trial_directory(sweep.run_dir, number),
            spec=dataclasses.replace(layout.spec, dropout=config.dropout),
            seed=config.seed,
            stages=tuple(sweep.stage(values, name) for name in sweep.stage_names),
            card=layout.card,
            plan=sweep.plan,
            class_weights=sweep.weights_of_classes(values),
            precision=config.precision,
        )
        self._reported = 0
        self._last: dict[str, Any] = {"objective": FAILED}  # the last report

    def run(self) -> None:
        """Train all stages, and report each epoch when the workers have finished it."""
        training = Training(self._job, pretrained=self._pretrained.get(), cluster=self._sweep.base.cluster)
        self._report_rows()  # epochs of an earlier process
        training.finish(self._follow)
        self._report_rows()
        tune.report({**self._last, "status": "finished"})

    def _follow(self, message: Mapping[str, Any]) -> None:
        if message["kind"] == "epoch":
            self._report_rows()

    def _report_rows(self) -> None:
        rows = list(epoch_rows(self._job.run_dir, self._job.stages))
        for index in range(self._reported, len(rows)):
            stage, row = rows[index]
            best = min(
                (past for _, past in rows[: index + 1]),
                key=lambda past: objective(_scores(past), self._sweep.metric),
            )
            last = stage.name == self._sweep.stage_names[-1]
            budget = 1 + int(row["epoch"]) if last else int(row["epoch"] >= stage.epochs)
            self._last = {
                "objective": objective(_scores(best), self._sweep.metric),
                "stage": stage.name,
                "validation": _scores(best),
                "budget": budget if self._number else 0,
                "process": os.getpid(),
            }
            tune.report(self._last)
        self._reported = len(rows)


def epoch_rows(directory: str, stages: tuple[StageJob, ...]) -> Iterator[tuple[StageJob, Mapping[str, float]]]:
    """Yield the stage and the row of each epoch that the workers have written, stage by stage."""
    for stage in stages:
        for row in read_history(files.join(directory, stage.name)):
            yield stage, row


def _scores(row: Mapping[str, float]) -> dict[str, float]:
    return {"accuracy": row["val_acc"], "loss": row["val_loss"]}


def collect_distributed(sweep: Sweep, values: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Keep the best model of a trial, however it ended, and return its scores and those of its stages.

    A finished stage left a model. A stopped stage left a checkpoint with its best weights. All else is deleted.
    """
    directory = trial_directory(sweep.run_dir, number)
    found: dict[str, dict[str, Any]] = {}
    best: tuple[float, str] | None = None
    for name in sweep.stage_names:
        stage = sweep.stage(values, name)
        history = read_history(files.join(directory, name))
        if not history:
            continue
        mark = artifacts.completed(files.join(directory, name), inputs={})
        state = None if mark else _latest_state(directory, name)
        if mark:
            scores, epoch = mark["validation"], mark["best_epoch"]
        elif state is not None and state.history:
            epoch = state.best_epoch
            scores = _scores(state.history[epoch - 1])
        else:
            continue
        found[name] = {**scores, "epochs": len(history), "best_epoch": epoch, "history": history}
        value = objective(scores, sweep.metric)
        if best is None or value < best[0]:
            best = (value, name)
            if state is None:
                files.delete(checkpoint_path(sweep.run_dir, number, name))
                copy_model(files.join(directory, name, "model"), model_path(sweep.run_dir, number))
            else:
                checkpoint = TrialCheckpoint(stage=name, cut=stage.cut, epoch=epoch, weights=state.best_weights)
                files.write_bytes(checkpoint_path(sweep.run_dir, number, name), checkpoint.to_bytes())
                files.delete(model_path(sweep.run_dir, number))
    for leftover in ("checkpoints", *sweep.stage_names):
        files.delete(files.join(directory, leftover))
    if best is None:
        return {"stages": found}
    scores = {name: found[best[1]][name] for name in ("accuracy", "loss")}
    return {"stage": best[1], "validation": scores, "objective": best[0], "stages": found}


def _latest_state(directory: str, stage: str) -> StageState | None:
    """Return the newest of the stage's checkpoints that Ray Train kept, or None."""
    system, inside = files.open_filesystem(files.join(directory, "checkpoints"))
    entries = system.get_file_info(fs.FileSelector(inside, recursive=True, allow_not_found=True))
    paths = sorted(entry.path for entry in entries if PurePosixPath(entry.path).name == f"{stage}.npz")
    if not paths:
        return None
    with system.open_input_file(paths[-1]) as file:
        return StageState.from_bytes(file.read())
