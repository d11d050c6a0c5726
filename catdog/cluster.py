"""Connect to Ray and plan what a job uses of it: never more than fits, so nothing waits for ever."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Iterator

from catdog.config import ClusterConfig
from catdog.errors import FailureError, UsageError

# Set before Ray is imported, in the driver and through it in every process of the cluster.
_ENVIRONMENT = {
    "TF_USE_LEGACY_KERAS": "1",  # Ray's TensorFlow workers set it too: one Keras everywhere
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a report waits for the controller's poll: 2 s by default
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}
_QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "1",  # its value is the default; naming it silences a line about it
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # asked for by a warning of Ray's
    "PYTHONWARNINGS": "ignore",
}
_EXCEPTION_LINE = re.compile(r"[\w.]*(Error|Exception|Exit|Interrupt)\b.*")

# Streamed features need a train worker and a trunk actor on each GPU at once; over a half, so that
# Ray never books two train workers on one GPU.
_WORKER_GPU = 0.6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources:
    """What the cluster has: CPU cores and GPUs over all nodes."""

    cpus: float
    gpus: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a job asks Ray for. CPUs are Ray's bookkeeping; `threads` is what TensorFlow is told."""

    workers: int
    worker_cpus: float
    worker_gpus: float
    trunk_actors: int
    trunk_cpus: float
    trunk_gpus: float
    trunk_threads: int
    task_cpus: float

    def sentence(self) -> str:
        """Return the plan in one line for the console."""
        device = "GPU" if self.worker_gpus else "CPU"
        return (
            f"Plan: {self.workers} train worker{'s' if self.workers > 1 else ''} on {device}, "
            f"{self.trunk_actors} trunk actor{'s' if self.trunk_actors > 1 else ''} "
            f"({'GPU' if self.trunk_gpus else f'{self.trunk_threads} threads each'})."
        )


def make_plan(resources: Resources, config: ClusterConfig) -> Plan:
    """Decide how many workers and actors to run, and what each reserves.

    Train workers, trunk actors and decoding tasks all run at the same time when features are streamed, so a
    quarter of the CPUs is left to the tasks, and the shares are fractions where the cluster is small.
    Raises UsageError when more is asked for than the cluster has.
    """
    gpus = int(resources.gpus) if config.use_gpu != "no" else 0
    if config.use_gpu == "yes" and gpus < 1:
        raise UsageError(
            "--cluster.use-gpu yes: expected a GPU, the cluster has none; use `auto` or `no`, or add GPU nodes"
        )
    workers = config.workers or max(1, gpus)
    if gpus and workers > gpus:
        raise UsageError(
            f"--cluster.workers {workers}: expected at most {gpus}, one for each GPU; or give --cluster.use-gpu no"
        )
    if workers > 4 * resources.cpus:
        raise UsageError(
            f"--cluster.workers {workers}: expected at most {int(4 * resources.cpus)}, four for each CPU, "
            f"the cluster has {resources.cpus:g}"
        )
    worker_cpus = _share(resources.cpus / 4 / workers)
    actors, trunk_gpus, threads = _trunk_actors(resources, config, gpus=gpus)
    return Plan(
        workers=workers,
        worker_cpus=worker_cpus,
        worker_gpus=_WORKER_GPU if gpus else 0.0,
        trunk_actors=actors,
        trunk_cpus=_share(resources.cpus / 2 / actors),
        trunk_gpus=trunk_gpus,
        trunk_threads=threads,
        task_cpus=_share(resources.cpus / 4),
    )


def _trunk_actors(resources: Resources, config: ClusterConfig, *, gpus: int) -> tuple[int, float, int]:
    """Return (actors, GPUs each, threads each): one for each GPU, else one for each four cores."""
    if gpus:
        actors = config.trunk_actors or gpus
        return actors, int(100 * (1 - _WORKER_GPU) * min(1.0, gpus / actors)) / 100, 2
    actors = config.trunk_actors or max(1, int(resources.cpus) // 4)
    if actors > 8 * resources.cpus:
        raise UsageError(
            f"--cluster.trunk-actors {actors}: expected at most {int(8 * resources.cpus)}, eight for each CPU"
        )
    return actors, 0.0, max(1, round(resources.cpus / actors))


def _share(cpus: float) -> float:
    """Round a share of the CPUs to what Ray books: whole from 1 on, else in hundredths."""
    return float(int(cpus)) if cpus >= 1 else max(0.01, int(cpus * 100) / 100)


@contextlib.contextmanager
def connected(*, verbose: bool = False) -> Iterator[Resources]:
    """Join the cluster this process belongs to, or start one on this machine, for the length of the block.

    Yields what the cluster has. A session that is already up is used and left as it is.
    Raises FailureError when a cluster is named (RAY_ADDRESS) but cannot be joined.
    """
    prepare_environment(verbose=verbose)
    import ray

    if ray.is_initialized():
        yield _resources()
        return
    try:
        ray.init(
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            runtime_env={
                "env_vars": {name: os.environ[name] for name in (*_ENVIRONMENT, *_QUIET) if name in os.environ}
            },
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise FailureError(f"cannot join or start a Ray cluster: {' '.join(str(error).split())}") from error
    try:
        yield _resources()
    finally:
        ray.shutdown()


def prepare_environment(*, verbose: bool) -> None:
    """Set the variables that Ray and TensorFlow read when they are imported; quiet unless `verbose`."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere unless the user asks for it
    if not verbose:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        for name in ("ray", "ray.data", "ray.train", "ray.tune"):
            logging.getLogger(name).setLevel(logging.ERROR)


def quiet_datasets(*, verbose: bool) -> None:
    """Keep Ray Data's progress bars and log lines off the console; our own lines stand in their place."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = verbose
    context.print_on_execution_start = verbose
    context.execution_options.verbose_progress = verbose
    if not verbose:
        for name in ("ray.data", "ray.data.dataset"):
            logging.getLogger(name).setLevel(logging.ERROR)


def root_cause(error: BaseException) -> str:
    """Return the line that says what happened in an exception that Ray brought from another process."""
    failures = getattr(error, "worker_failures", None) or {}
    error = next(iter(failures.values()), error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Ray's text is a chain of tracebacks, the first cause first; each ends in a line "module.Class: message".
    causes = [line for line in lines if _EXCEPTION_LINE.match(line) and not line.startswith("ray.")]
    return (causes or lines[-1:] or [type(error).__name__])[0]


def _resources() -> Resources:
    import ray

    total = ray.cluster_resources()
    return Resources(cpus=float(total.get("CPU", 0)), gpus=float(total.get("GPU", 0)))
