"""What each worker of a trainer does: both stages, one after the other, from the last checkpoint on.

Both stages run in one group of workers, because starting a group takes longer than training one stage of cached rows;
and the group starts while the trunk pass still computes these rows.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from catdog.cluster.actors import Shared
from catdog.evaluation.held_out import build_outcomes, write_outcomes
from catdog.features.rows import CachedRows, RowSource, StreamedRows, StreamSource
from catdog.model.saved_model import spec_to_card
from catdog.storage import artifacts, files
from catdog.training.fit.checkpoint import StageState, write_history
from catdog.training.fit.train_loop import DivergedError, Scored, fit_stage, score_splits
from catdog.training.heatmaps import write_heatmaps
from catdog.training.stages import StageJob, TrainJob

FAILURE_FILE = "failure.json"  # why training again would end in the same way
ABANDONED_FILE = "abandoned.json"  # tells workers that the rows they wait for will not come
WORST = 24  # errors that are shown
HEAT_FILE, HEAT_FAILURE = "heat.parquet", "heat.json"
_NOTE_EVERY_SECONDS = 10.0
_POLL_SECONDS = 0.2


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
        write_heatmaps(job, exact, distributed=workers > 1)


def _await_rows(job: TrainJob) -> list[StageJob]:
    """Return the stages once the trunk pass has finished their caches; none where it failed."""
    for stage in job.stages:
        while not stage.is_ready():
            if files.exists(files.join(job.run_dir, ABANDONED_FILE)):
                return []
            time.sleep(_POLL_SECONDS)
    return list(job.stages)


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
