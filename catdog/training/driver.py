"""A training seen from the driver: the trainer in a thread, what it tells of losses, how it ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from catdog.cluster.actors import share
from catdog.cluster.failures import log_directory, root_cause
from catdog.config import ClusterConfig
from catdog.console import epoch_text, say
from catdog.errors import CatdogError, FailureError
from catdog.storage import files
from catdog.training.fit.checkpoint import read_history
from catdog.training.fit.train_loop import DivergedError
from catdog.training.stages import TrainJob
from catdog.training.worker import ABANDONED_FILE, FAILURE_FILE, run_stages

LOSSES_FILE = "lost.json"
_POLL_SECONDS = 0.2
_ABANDON_SECONDS = 20.0


class Training:
    """A TensorflowTrainer at work on a job, in a thread of this process.

    Its workers start at once, and wait for the caches of its stages. The same job again, in another process too,
    goes on where the last one was stopped. `alone` tells that Ray has this machine only, and will have no other.
    """

    def __init__(self, job: TrainJob, *, pretrained: Any, cluster: ClusterConfig, alone: bool = False) -> None:
        self._job, self._cluster, self._alone = job, cluster, alone
        self._shared = share(pretrained)
        self._outcome: list[BaseException | None] = []
        files.delete(files.join(job.run_dir, ABANDONED_FILE))
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
        note = files.join(self._job.run_dir, FAILURE_FILE)
        if files.exists(note):
            message = files.read_json(note)["message"]
            files.delete(note)
            raise DivergedError(message)

    def abandon(self) -> None:
        """End the workers, whose rows will not come."""
        note = files.join(self._job.run_dir, ABANDONED_FILE)
        files.write_json(note, {})
        self._thread.join(_ABANDON_SECONDS)
        if not self._thread.is_alive():
            files.delete(note)

    def _fit(self) -> None:
        try:
            self._make_trainer().fit()
            self._outcome.append(None)
        except BaseException as error:
            self._outcome.append(error)

    def _make_trainer(self) -> Any:
        from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig

        from catdog.training.tensorflow_trainer import LeanTensorflowTrainer

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
            path = files.join(run_dir, LOSSES_FILE)
            count = files.read_json(path)["count"] if files.exists(path) else 0
            files.write_json(path, {"count": count + 1, "cause": _first_loss(worker_exceptions)})

    return LossNote()


def _first_loss(errors: Mapping[int, Exception]) -> str:
    """Return in a line which worker went first: the others fail because it no longer answers."""
    causes = {rank: root_cause(error) for rank, error in sorted(errors.items())}
    own = {rank: cause for rank, cause in causes.items() if "Collective" not in cause}
    for rank, cause in own.items():
        return f"worker {rank}: {cause.partition('. ')[0]}"
    return f"worker {', '.join(map(str, causes))} lost the connection to the others"


class EpochFollower:
    """Prints what the workers leave in the run directory: an epoch line each, and the progress of long ones."""

    def __init__(self, job: TrainJob) -> None:
        self._job = job
        self._shown = {stage.name: len(read_history(self._directory(stage.name))) for stage in job.stages}
        self._noted = ""
        self._named = ""
        files.delete(files.join(job.run_dir, LOSSES_FILE))  # of an earlier command
        self._losses = 0

    def __call__(self) -> None:
        """Print what is new since the last call."""
        self._tell_losses()
        for stage in self._job.stages:
            history = read_history(self._directory(stage.name))
            if history and self._named != stage.name and len(history) > self._shown[stage.name]:
                self._named = stage.name
                say(f"{stage.name.capitalize()} stage:")
            for row in history[self._shown[stage.name] :]:
                say(epoch_text(int(row["epoch"]), stage.epochs, row))
            self._shown[stage.name] = len(history)
            self._note(stage.name)

    def _note(self, stage: str) -> None:
        path = files.join(self._directory(stage), "progress.json")
        if not files.exists(path):
            return
        found = files.read_json(path)
        text = f"  {stage} stage, epoch {found['epoch']}: step {found['step']}/{found['steps']}"
        if text != self._noted and found["epoch"] > self._shown[stage]:
            self._noted = text
            say(text)

    def _tell_losses(self) -> None:
        path = files.join(self._job.run_dir, LOSSES_FILE)
        found = files.read_json(path) if files.exists(path) else {"count": 0}
        if found["count"] > self._losses:
            say(f"Workers were lost and start again from the last checkpoint: {found['cause']}")
        self._losses = found["count"]

    def _directory(self, stage: str) -> str:
        return files.join(self._job.run_dir, stage)
