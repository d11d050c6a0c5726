"""Plan what a job reserves of the cluster: never more than fits, so nothing waits without end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from catdog.cluster.resources import Resources
from catdog.config import ClusterConfig, PredictClusterConfig
from catdog.console import counted
from catdog.errors import UsageError
from catdog.storage import files

# Streamed features need a train worker and a trunk actor on each GPU at once; over a half, so that
# Ray never books two train workers on one GPU.
_WORKER_GPU = 0.6


# An actor of more threads gains little: a batch of 32 small layers does not keep them busy.
_ACTOR_CORES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a train job asks Ray for. CPUs are Ray's bookkeeping; `threads` is what TensorFlow is told."""

    workers: int
    worker_cpus: float
    worker_gpus: float
    trunk_actors: int
    trunk_cpus: float
    trunk_gpus: float
    trunk_threads: int
    task_cpus: float
    gpus: int = 0  # over all workers and actors

    def sentence(self, *, batches: Mapping[str, int], storage: str) -> str:
        """Return the plan in one line for the console.

        `batches` has the rows a step of each stage, over all workers; `storage` is the run directory.
        """
        device = "GPU" if self.worker_gpus else "CPU"
        return (
            f"Plan: {counted(self.workers, 'train worker')} on {device}, {self.pool_text()}; "
            f"{batches_text(batches)}; {storage_text(storage)}."
        )

    def pool_text(self) -> str:
        """Return what runs the trunk, and the GPUs of the job, in words."""
        each = "GPU" if self.trunk_gpus else f"{counted(self.trunk_threads, 'thread')} each"
        return f"{counted(self.trunk_actors, 'trunk actor')} ({each}), {counted(self.gpus, 'GPU')}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictPlan:
    """What a predict job asks Ray for; as in Plan."""

    actors: int
    actor_cpus: float
    actor_gpus: float
    threads: int
    batch_size: int
    task_cpus: float
    gpus: int = 0  # over all actors

    def sentence(self, engine: str, *, precision: str = "float32", storage: str) -> str:
        """Return the plan in one line for the console; `storage` is the folder of the results."""
        runner = engine if precision == "float32" else f"{engine} in {precision}"
        device = "a GPU each" if self.actor_gpus else f"{counted(self.threads, 'thread')} each"
        # OpenVINO takes one photo a thread, whatever the batch size.
        batch = f"batch {self.batch_size}" if engine == "tensorflow" else "a photo a thread"
        return (
            f"Plan: {counted(self.actors, 'model actor')} on {runner} ({device}), {counted(self.gpus, 'GPU')}; "
            f"{batch}; {storage_text(storage)}."
        )


def batches_text(batches: Mapping[str, int | str]) -> str:
    """Return the rows a step of each stage in words; a head that is solved takes no steps."""
    if not batches:
        return "the head is solved"
    return "batch " + ", ".join(f"{size} {stage}" for stage, size in batches.items())


def storage_text(place: str) -> str:
    """Return where a job stores what it makes, in words."""
    return f"stored in {'the URI' if files.is_uri(place) else 'the folder'} {place}"


def make_plan(resources: Resources, config: ClusterConfig) -> Plan:
    """Decide how many workers and actors to run, and what each reserves.

    Train workers, trunk actors and decoding tasks all run at the same time when features are streamed, so a
    quarter of the CPUs is left to the tasks, and the shares are fractions where nodes are small.
    Raises UsageError when more is asked for than the cluster has.
    """
    resources = resources.scaled(gpus=config.use_gpu == "yes")
    gpus = usable_gpus(resources, config.use_gpu)
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
    on_a_node = -(-workers // max(1, sum(node.cpus > 0 for node in resources.nodes)))
    actors, actor_cpus, threads = _actors(resources, config.trunk_actors, "--cluster.trunk-actors", gpus=gpus)
    return Plan(
        workers=workers,
        worker_cpus=actor_cpus
        if gpus
        else _share(min(resources.cpus / 4 / workers, resources.least_cpus / 4 / on_a_node)),
        worker_gpus=_WORKER_GPU if gpus else 0.0,
        trunk_actors=actors,
        trunk_cpus=actor_cpus,
        trunk_gpus=int(100 * (1 - _WORKER_GPU) * min(1.0, gpus / actors)) / 100 if gpus else 0.0,
        trunk_threads=threads,
        task_cpus=_task_cpus(resources),
        gpus=min(gpus, max(workers, actors)),
    )


def make_predict_plan(resources: Resources, config: PredictClusterConfig, *, gpus: int) -> PredictPlan:
    """Decide how many model actors to run and what each reserves; `gpus` as `usable_gpus` counts them.

    Raises UsageError when more is asked for than the cluster has.
    """
    resources = resources.scaled(gpus=config.use_gpu == "yes")
    actors, actor_cpus, threads = _actors(resources, config.actors, "--cluster.actors", gpus=gpus)
    return PredictPlan(
        actors=actors,
        actor_cpus=actor_cpus,
        actor_gpus=int(100 * min(1.0, gpus / actors)) / 100 if gpus else 0.0,
        threads=threads,
        batch_size=config.batch_size or (256 if gpus else 32),
        task_cpus=_task_cpus(resources),
        gpus=min(gpus, actors),
    )


def usable_gpus(resources: Resources, use_gpu: str) -> int:
    """Return how many GPUs a job may take: `auto` all there are, `no` none, `yes` those too that the cluster can add.

    Raises UsageError for `yes` where there is none.
    """
    gpus = int(resources.scaled(gpus=use_gpu == "yes").gpus) if use_gpu != "no" else 0
    if use_gpu == "yes" and gpus < 1:
        raise UsageError(
            "--cluster.use-gpu yes: expected a GPU, the cluster has none; use `auto` or `no`, or add GPU nodes"
        )
    return gpus


def _actors(resources: Resources, asked: int, flag: str, *, gpus: int) -> tuple[int, float, int]:
    """Return (actors, CPUs each, threads each): one for each GPU, else one for each few cores of a node.

    On CPUs the actors book half of the cores: the other half is for the tasks that feed them.
    """
    if gpus:
        # A GPU is fed by a thread or two; the cores of its node are worth more to the decoding tasks.
        cores = min(node.cpus / node.gpus for node in resources.nodes if node.gpus)
        return asked or gpus, _share(min(1.0, cores / 4 / max(1.0, asked / gpus))), 2
    if asked > 8 * resources.cpus:
        raise UsageError(f"{flag} {asked}: expected at most {int(8 * resources.cpus)}, eight for each CPU")
    unit = max(1, min(_ACTOR_CORES, int(resources.least_cpus)))
    actors = asked or max(1, sum(int(node.cpus) // unit for node in resources.nodes))
    cores = min(resources.cpus / actors, resources.least_cpus)
    return actors, _share(cores / 2), max(1, round(cores))


def _task_cpus(resources: Resources) -> float:
    """Return what a reading and decoding task books: a core, or a quarter of a small node."""
    return _share(min(1.0, resources.least_cpus / 4))


def _share(cpus: float) -> float:
    """Round a share of the CPUs to what Ray books: whole from 1 on, else in hundredths."""
    return float(int(cpus)) if cpus >= 1 else max(0.01, int(cpus * 100) / 100)
