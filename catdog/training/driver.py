"""The driver's side of a training: the trainer in a thread, the messages of its workers, and how it ends."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

from catdog.cluster import messages
from catdog.cluster.actors import share
from catdog.cluster.failures import log_directory, root_cause
from catdog.config import ClusterConfig
from catdog.console import epoch_text, say
from catdog.errors import CatdogError, FailureError
from catdog.storage import files
from catdog.training.fit.checkpoint import read_history
from catdog.training.fit.stage_job import TrainJob
from catdog.training.fit.train_loop import DivergedError
from catdog.training.worker import ROWS_ABANDONED, ROWS_READY, progress_topic, rows_topic, run_stages

_WAIT_SECONDS = 10.0  # for a message; the trainer posts one when it ends
_ABANDON_SECONDS = 20.0


class Training:
    """A TensorflowTrainer that runs a job in a thread of this process.

    Its workers start immediately and wait for the caches of the stages. If the same job is started again, even in
    another process, it resumes where the last one stopped. `single_node` says that Ray has one node and gets no other.
    """

    def __init__(self, job: TrainJob, *, pretrained: Any, cluster: ClusterConfig, single_node: bool = False) -> None:
        from catdog.training.trainer import make_trainer  # imports Ray Train

        self._job = job
        shared = share(pretrained)
        # Made here and not in the thread, because no other thread imports TensorFlow now.
        self._trainer = make_trainer(
            lambda: run_stages(job, shared),
            run_dir=job.run_dir,
            plan=job.plan,
            cluster=cluster,
            single_node=single_node,
        )
        self._outcome: list[BaseException | None] = []
        for topic in (progress_topic(job.run_dir), rows_topic(job.run_dir)):
            messages.forget(topic)  # left by an earlier training in the same Ray job
        self._thread = threading.Thread(target=self._fit, name="trainer", daemon=True)
        self._thread.start()

    def finish(self, follow: Callable[[Mapping[str, Any]], None]) -> None:
        """Announce that the rows are ready, and wait for the end; `follow` gets each message of the workers.

        Raises FailureError, with the root cause in one line, when the workers fail more often than allowed. Raises
        DivergedError when they report that training again would end in the same way.
        """
        messages.post(rows_topic(self._job.run_dir), ROWS_READY)
        diverged, heard, ended = "", 0, False
        while not ended:
            ended = bool(self._outcome)  # workers post before the trainer ends: read once more
            wait = 0.0 if ended else _WAIT_SECONDS
            found = messages.read(progress_topic(self._job.run_dir), start=heard, wait_seconds=wait)
            heard += len(found)
            for message in found:
                if message["kind"] == "diverged":
                    diverged = message["text"]
                elif message["kind"] != "end":
                    follow(message)
        self._thread.join()
        error = self._outcome[0]
        if isinstance(error, CatdogError):
            raise error
        if error is not None:
            raise FailureError(f"training failed: {root_cause(error)} (logs: {log_directory()}/train)") from error
        if diverged:
            raise DivergedError(diverged)

    def abandon(self) -> None:
        """Tell the workers to stop because their rows will not come; wait for them up to 20 seconds."""
        messages.post(rows_topic(self._job.run_dir), ROWS_ABANDONED)
        self._thread.join(_ABANDON_SECONDS)

    def _fit(self) -> None:
        try:
            self._trainer.fit()
            outcome = None
        except BaseException as error:
            outcome = error
        self._outcome.append(outcome)
        with contextlib.suppress(Exception):  # if the cluster is gone, the job fails anyway
            messages.post(progress_topic(self._job.run_dir), {"kind": "end"})


class EpochFollower:
    """Prints what the workers report: a line for each epoch, and the progress of long ones."""

    def __init__(self, job: TrainJob) -> None:
        self._stages = {stage.name: stage for stage in job.stages}
        # Epochs that a restart repeats were already shown.
        self._shown = {name: len(read_history(files.join(job.run_dir, name))) for name in self._stages}
        self._named = ""

    def __call__(self, message: Mapping[str, Any]) -> None:
        """Print one message, unless its epoch was already shown."""
        stage, epoch = message["stage"], int(message["epoch"])
        if epoch <= self._shown[stage]:
            return
        if message["kind"] == "step":
            say(f"  {stage} stage, epoch {epoch}: step {message['step']}/{message['steps']}")
            return
        if self._named != stage:
            self._named = stage
            say(f"{stage.capitalize()} stage:")
        say(epoch_text(epoch, self._stages[stage].epochs, message))
        self._shown[stage] = epoch
