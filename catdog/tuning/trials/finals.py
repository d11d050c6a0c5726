"""The last step of a sweep: measure the models of the winner and of trial 0 on validation, and once on test."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import ray

from catdog.features.rows import CachedRows
from catdog.model.backbone_specs import HEAD_CUT
from catdog.model.saved_model import spec_to_card
from catdog.storage import files
from catdog.training.fit.head.head_network import HeadNetwork
from catdog.training.fit.networks import Networks, Trained
from catdog.training.fit.train_loop import score_splits
from catdog.tuning.layouts import Sweep
from catdog.tuning.records import Record, checkpoint_path, model_path
from catdog.tuning.trials.checkpoint import TrialCheckpoint


@dataclasses.dataclass(frozen=True, kw_only=True)
class Final:
    """Results of a trial's best model: `scores` by split, and `losses` (N,) and `correct` (N,) on validation photos."""

    scores: Mapping[str, Mapping[str, float]]
    losses: np.ndarray
    correct: np.ndarray


def measure_finals(sweep: Sweep, records: Sequence[Record]) -> list[Final]:
    """Measure the best model of each of `records`, and write the first one, the winner's, into the run directory."""
    task = ray.remote(num_cpus=1, max_retries=3)(_measure)
    found: list[Final] = ray.get(task.remote(sweep, list(records)))
    return found


def read_rated(sweep: Sweep, record: Record) -> TrialCheckpoint | None:
    """Return the checkpoint with the per-photo results that rate a cross-validated trial, or None if it is missing."""
    path = checkpoint_path(sweep.run_dir, record["number"], record["stage"])
    return TrialCheckpoint.from_bytes(files.read_bytes(path)) if files.exists(path) else None


def _measure(sweep: Sweep, records: list[Record]) -> list[Final]:
    return [_measure_one(sweep, record, save=index == 0) for index, record in enumerate(records)]


def _measure_one(sweep: Sweep, record: Record, *, save: bool) -> Final:
    stage, networks = sweep.stage(record["values"], record["stage"]), _rebuild(sweep, record)
    splits = {"validation": CachedRows(stage.validation)}
    if stage.test is not None:
        splits["test"] = CachedRows(stage.test)
    found = score_splits(networks, cut=stage.cut, splits=splits)
    scores = {split: one.scores for split, one in found.items()}
    if save:
        layout = sweep.layout(record["values"])
        spec = dataclasses.replace(layout.spec, dropout=sweep.config(record["values"]).dropout)
        # A trial of an earlier version kept no history.
        trained = record.get("stages", {}).get(record["stage"], {})
        epochs = {name: trained[name] for name in ("epochs", "best_epoch") if name in trained}
        mark = {"name": record["stage"], **epochs, **scores}
        with files.staged_directory(files.join(sweep.run_dir, "model")) as folder:
            card = {**spec_to_card(spec), **layout.card, "stage": mark}
            networks.save(folder, card)
    validation = found["validation"]
    chosen = validation.probabilities[np.arange(len(validation.labels)), validation.labels]
    return Final(
        scores=scores,
        losses=-np.log(np.maximum(chosen, 1e-7)),
        correct=validation.probabilities.argmax(axis=1) == validation.labels,
    )


def _rebuild(sweep: Sweep, record: Record) -> Trained:
    """Return the classifier of a trial's best checkpoint, in float32. A head alone needs no TensorFlow."""
    layout = sweep.layout(record["values"])
    weights = layout.pretrained.get()
    path = checkpoint_path(sweep.run_dir, record["number"], record["stage"])
    checkpoint = TrialCheckpoint.from_bytes(files.read_bytes(path)) if files.exists(path) else None
    if checkpoint and checkpoint.cut == HEAD_CUT and weights is not None:
        head = HeadNetwork(layout.spec, weights)
        head.set(checkpoint.weights)
        return head

    from catdog.model import backbones
    from catdog.model import classifier as model

    model.configure_tensorflow(threads=1)
    classifier = model.build_classifier(layout.spec)
    if weights is not None:
        backbones.load_pretrained(classifier, weights)
    networks = Networks(trained=classifier, float32=classifier)
    if checkpoint:
        model.split_at(classifier, checkpoint.cut)[1].set_weights(checkpoint.weights)
    else:  # a distributed trial keeps a whole model
        networks.load(model_path(sweep.run_dir, record["number"]))
    return networks
