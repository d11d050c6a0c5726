"""Plan what a job reserves on the cluster: never more than fits, so that nothing waits forever."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from catdog.cluster.resources import Resources
from catdog.config import ClusterConfig, PredictClusterConfig
from catdog.console import counted
from catdog.errors import UsageError
from catdog.storage import files

# Streamed features need a train worker and a trunk actor on each GPU at the same time. The share is over a half so
# that Ray never books two train workers on one GPU.
_WORKER_GPU = 0.6


# An actor with more threads gains little: a batch of 32 small layers does not keep them busy.
ACTOR_CORES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a job asks Ray for: a pool of actors, tasks that feed it, and the workers of a trainer.

    CPUs and GPUs are Ray's bookkeeping, each for one actor, task or worker; `threads` is what an actor's engine uses.
    """

    actors: int
    actor_cpus: float
    actor_gpus: float
    threads: int
    task_cpus: float
    workers: int = 0  # of a train job
    worker_cpus: float = 0.0
    worker_gpus: float = 0.0
    batch_size: int = 0  # photos in a step of a model actor
    decoders: int = 0  # threads of an actor that decode; 0: tasks decode for it
    gpus: int = 0  # over all workers and actors
    is_capacity_known: bool = True  # whether nodes that an autoscaler adds are counted


def make_plan(resources: Resources, config: ClusterConfig) -> Plan:
    """Decide how many workers and actors to run, and what each reserves.

    Train workers, trunk actors and tasks, such as those that decode for GPUs, run at the same time when features are
    streamed. So a quarter of the CPUs is left to the tasks, and on small nodes the shares are fractions of a CPU.
    Raises UsageError when more is requested than the cluster has.
    """
    known, resources = resources.is_capacity_known, resources.scaled(gpus=config.use_gpu == "yes")
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
        is_capacity_known=known,
        workers=workers,
        worker_cpus=actor_cpus
        if gpus
        else _share(min(resources.cpus / 4 / workers, resources.least_cpus / 4 / on_a_node)),
        worker_gpus=_WORKER_GPU if gpus else 0.0,
        actors=actors,
        actor_cpus=actor_cpus,
        actor_gpus=int(100 * (1 - _WORKER_GPU) * min(1.0, gpus / actors)) / 100 if gpus else 0.0,
        threads=threads,
        decoders=0 if gpus else threads,
        task_cpus=_task_cpus(resources),
        gpus=min(gpus, max(workers, actors)),
    )


def make_predict_plan(resources: Resources, config: PredictClusterConfig, *, gpus: int) -> Plan:
    """Decide how many model actors to run and what each reserves; `gpus` is what `usable_gpus` returns.

    Raises UsageError when more is requested than the cluster has.
    """
    known, resources = resources.is_capacity_known, resources.scaled(gpus=config.use_gpu == "yes")
    actors, actor_cpus, threads = _actors(resources, config.actors, "--cluster.actors", gpus=gpus)
    return Plan(
        is_capacity_known=known,
        actors=actors,
        actor_cpus=actor_cpus,
        actor_gpus=int(100 * min(1.0, gpus / actors)) / 100 if gpus else 0.0,
        threads=threads,
        decoders=max(1, round(min(resources.cpus / actors, resources.least_cpus))),
        batch_size=config.batch_size or (256 if gpus else 32),
        task_cpus=_task_cpus(resources),
        gpus=min(gpus, actors),
    )


def usable_gpus(resources: Resources, use_gpu: str) -> int:
    """Return how many GPUs a job may use: `auto` all that exist, `no` none, `yes` also those that the cluster can add.

    Raises UsageError for `yes` if there are none.
    """
    gpus = int(resources.scaled(gpus=use_gpu == "yes").gpus) if use_gpu != "no" else 0
    if use_gpu == "yes" and gpus < 1:
        raise UsageError(
            "--cluster.use-gpu yes: expected a GPU, the cluster has none; use `auto` or `no`, or add GPU nodes"
        )
    return gpus


def _actors(resources: Resources, asked: int, flag: str, *, gpus: int) -> tuple[int, float, int]:
    """Return (actors, CPUs each, threads each): an actor per GPU or, without GPUs, per ACTOR_CORES cores or fewer.

    Without GPUs the actors book half of the cores; the other half is for tasks and train workers.
    """
    if gpus:
        # One or two threads keep a GPU busy; the decoding tasks make better use of the other cores of its node.
        cores = min(node.cpus / node.gpus for node in resources.nodes if node.gpus)
        return asked or gpus, _share(min(1.0, cores / 4 / max(1.0, asked / gpus))), 2
    if asked > 8 * resources.cpus:
        raise UsageError(f"{flag} {asked}: expected at most {int(8 * resources.cpus)}, eight for each CPU")
    unit = max(1, min(ACTOR_CORES, int(resources.least_cpus)))
    actors = asked or max(1, sum(int(node.cpus) // unit for node in resources.nodes))
    cores = min(resources.cpus / actors, resources.least_cpus)
    return actors, _share(cores / 2), max(1, round(cores))


def _task_cpus(resources: Resources) -> float:
    """Return the CPUs that a reading and decoding task books: a core, or a quarter of a small node."""
    return _share(min(1.0, resources.least_cpus / 4))


def _share(cpus: float) -> float:
    """Round a share of the CPUs down to what Ray can book: whole CPUs from 1 on, hundredths below."""
    return float(int(cpus)) if cpus >= 1 else max(0.01, int(cpus * 100) / 100)


# What the console says about a plan


def train_plan_text(plan: Plan, *, batches: Mapping[str, int], storage: str) -> str:
    """Return the plan of a train job in one line.

    `batches` has the rows per step of each stage, over all workers; `storage` is the run directory.
    """
    device = "GPU" if plan.worker_gpus else "CPU"
    return (
        f"Plan: {counted(plan.workers, 'train worker')} on {device}, {pool_text(plan, 'trunk actor')}; "
        f"{batches_text(batches)}; {storage_text(storage)}{capacity_text(plan)}."
    )


def predict_plan_text(plan: Plan, engine: str, *, precision: str = "float32", storage: str) -> str:
    """Return the plan of a predict job in one line; `storage` is the folder of the results."""
    runner = engine if precision == "float32" else f"{engine} in {precision}"
    # OpenVINO runs one photo per thread, whatever the batch size.
    batch = f"batch {plan.batch_size}" if engine == "tensorflow" else "a photo a thread"
    return (
        f"Plan: {pool_text(plan, 'model actor', runner=runner)}; {batch}; {storage_text(storage)}{capacity_text(plan)}."
    )


def pool_text(plan: Plan, actor: str, *, runner: str = "") -> str:
    """Return a text with the pool of actors and the GPUs of the job."""
    each = "a GPU each" if plan.actor_gpus else f"{counted(plan.threads, 'thread')} each"
    return f"{counted(plan.actors, actor)}{runner and f' on {runner}'} ({each}), {counted(plan.gpus, 'GPU')}"


def batches_text(batches: Mapping[str, int | str]) -> str:
    """Return a text with the rows per step of each stage; a head that is solved takes no steps."""
    if not batches:
        return "the head is solved"
    return "batch " + ", ".join(f"{size} {stage}" for stage, size in batches.items())


def storage_text(place: str) -> str:
    """Return a text that says where a job stores its results."""
    return f"stored in {'the URI' if files.is_uri(place) else 'the folder'} {place}"


def capacity_text(plan: Plan) -> str:
    """Return a warning if an autoscaler may add nodes that this plan does not know about, else ""."""
    return "" if plan.is_capacity_known else "; nodes that an autoscaler may add are unknown and not counted"
