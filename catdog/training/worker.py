"""What each worker of a trainer does: it runs the stages in order and resumes from the last checkpoint.

All stages run in one worker group, because starting a group takes longer than training one stage on cached rows.
The group starts while the trunk pass still computes these rows.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from catdog.cluster import messages
from catdog.cluster.actors import Shared
from catdog.cluster.environment import import_tensorflow
from catdog.features.rows import MEMORY_BYTES
from catdog.model.weights.pretrained import Pretrained
from catdog.storage import files
from catdog.training.fit.checkpoint import StageState, write_history
from catdog.training.fit.head.head_network import HeadNetwork, needs_tensorflow
from catdog.training.fit.networks import Networks, Trained
from catdog.training.fit.stage_job import StageJob, TrainJob
from catdog.training.fit.stage_runner import Place, open_share, train_stages
from catdog.training.fit.train_loop import DivergedError
from catdog.training.fit.workers import Workers
from catdog.training.page.heatmaps import write_heatmaps

# Messages from the driver to workers that wait for the rows of the trunk pass.
ROWS_READY, ROWS_ABANDONED = "ready", "abandoned"
_NOTE_EVERY_SECONDS = 10.0
_LOOK_EVERY_SECONDS = 10.0  # for the rows, if no message comes from the driver


def progress_topic(run_dir: str) -> str:
    """Return the topic of the message board where workers report their epochs."""
    return f"progress of {run_dir}"


def rows_topic(run_dir: str) -> str:
    """Return the topic where the driver reports that the rows of the trunk pass are ready, or will not come."""
    return f"rows of {run_dir}"


def run_stages(job: TrainJob, pretrained: Shared) -> None:
    """Run every unfinished stage, from its last checkpoint if there is one; every train worker runs this."""
    import ray.train

    context = ray.train.get_context()
    place = Place(rank=context.get_world_rank(), workers=context.get_world_size())
    threads = max(1, (os.cpu_count() or 1) // max(1, context.get_local_world_size()))
    weights = pretrained.get()
    networks: Trained
    if needs_tensorflow(job, workers=place.workers, pretrained=weights):
        networks = _build_networks(job, weights, place=place, threads=threads)
    else:
        networks = HeadNetwork(job.spec, weights)
    resumed = _read_checkpoint(ray.train.get_checkpoint())
    if not _await_rows(job):
        return
    try:
        train_stages(
            job,
            networks,
            place=place,
            open_rows=lambda stage: open_share(
                job, stage, place=place, pretrained=pretrained, memory_bytes=MEMORY_BYTES
            ),
            observe=lambda stage: RayTrainObserver(job, stage, rank=place.rank, state=resumed.get(stage.name)),
        )
    except DivergedError as error:
        # A restart would end in the same way. All workers raise this at the same point, so none waits for another.
        messages.post(progress_topic(job.run_dir), {"kind": "diverged", "text": str(error)})
        return
    if job.explain and place.rank == 0:
        write_heatmaps(job, networks, threads=threads)


def _build_networks(job: TrainJob, weights: Pretrained | None, *, place: Place, threads: int) -> Networks:
    import_tensorflow()
    import tensorflow as tf
    import tf_keras

    from catdog.model import backbones
    from catdog.model import classifier as model

    model.configure_tensorflow(threads=threads)
    # Before any other use of TensorFlow, because collectives must be set up first.
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if place.workers > 1 else None
    workers = Workers(strategy, rank=place.rank)
    tf_keras.utils.set_random_seed(job.seed)
    precision = model.choose_precision(job.precision, model.gpu_capabilities())
    trained = model.build_classifier(job.spec, precision=precision)
    # Reported scores must be those of the saved model, which computes in float32.
    float32 = trained if precision == "float32" else model.build_classifier(job.spec)
    if weights is not None:
        backbones.load_pretrained(trained, weights)
    loaded = weights.tensors if weights is not None else {}
    for layer in trained.layers:
        if layer.weights and layer.name not in loaded:
            layer.set_weights(workers.broadcast(layer.get_weights()))
    return Networks(trained=trained, float32=float32, workers=workers)


def _await_rows(job: TrainJob) -> bool:
    """Wait until the trunk pass has finished the caches of all stages; return False if it failed."""
    heard = 0
    for stage in job.stages:
        while not stage.is_ready():
            told = messages.read(rows_topic(job.run_dir), start=heard, wait_seconds=_LOOK_EVERY_SECONDS)
            heard += len(told)
            if ROWS_ABANDONED in told:
                return False
    return True


class RayTrainObserver:
    """Observer of a stage for Ray Train: rank 0 writes checkpoints and history.csv and reports long epochs."""

    def __init__(self, job: TrainJob, stage: StageJob, *, rank: int, state: StageState | None) -> None:
        self._stage, self._rank, self._state = stage, rank, state
        self._directory = files.join(job.run_dir, stage.name)
        self._topic = progress_topic(job.run_dir)
        self._shown = time.monotonic()

    def resume(self) -> StageState | None:
        """Return the state in Ray Train's last checkpoint, or None if that does not belong to this stage."""
        return self._state

    def on_step(self, epoch: int, step: int, steps: int) -> None:
        """Report the progress of a long epoch to the driver."""
        now = time.monotonic()
        if self._rank or now - self._shown < _NOTE_EVERY_SECONDS:
            return
        self._shown = now
        self._post({"kind": "step", "epoch": epoch + 1, "step": step, "steps": steps})

    def on_epoch(self, state: StageState, *, checkpoint: bool) -> None:
        """Write the history; report a checkpoint if `checkpoint` is true, which is the same on every worker."""
        import ray.train

        self._shown = time.monotonic()
        if self._rank == 0:
            write_history(self._directory, state.history)
            self._post({"kind": "epoch", **state.history[-1]})
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

    def on_end(self) -> None:
        """Wait until rank 0 has written the stage, so that no worker starts the next one earlier."""
        from ray.train.collective import barrier

        barrier()

    def _post(self, message: dict[str, Any]) -> None:
        messages.post(self._topic, {**message, "stage": self._stage.name})


def _read_checkpoint(checkpoint: Any) -> dict[str, StageState]:
    """Return the state in the checkpoint that Ray Train hands to a worker, keyed by the name of its stage."""
    if checkpoint is None:
        return {}
    with checkpoint.as_directory() as folder:
        return {file.stem: StageState.from_bytes(file.read_bytes()) for file in Path(folder).glob("*.npz")}
