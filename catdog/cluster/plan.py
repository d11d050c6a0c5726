"""Connect to Ray and plan what a job uses of it: never more than fits, so nothing waits for ever."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import re
import socket
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from catdog.cluster.environment import keras_environment
from catdog.config import ClusterConfig, PredictClusterConfig
from catdog.errors import FailureError, UsageError
from catdog.storage import artifacts

# Set before Ray is imported, in the driver and through it in every process of the cluster.
_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a report waits for the controller's poll: 2 s by default
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_task_oom_retries": "5",  # Ray tries a task for ever whose processes it ends for want of memory
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune prints boxes in it whatever its verbosity; our own lines stand in their place
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


# Where `ray up` puts cluster.yaml, with Ray's defaults filled in, on the head.
_AUTOSCALER_FILE = "~/ray_bootstrap_config.yaml"
_UNLIMITED = 16  # nodes that are planned for of a group without a limit

# An actor of more threads gains little: a batch of 32 small layers does not keep them busy.
_ACTOR_CORES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """One machine of the cluster: CPU cores and GPUs that Ray may use."""

    cpus: float
    gpus: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limit:
    """What an autoscaler lets the whole cluster become: nodes, CPU cores and GPUs over all of them."""

    nodes: float = math.inf
    cpus: float = math.inf
    gpus: float = math.inf

    def holds(self, nodes: Sequence[Node]) -> bool:
        """Tell whether a cluster of these `nodes` is within the limit."""
        cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        return len(nodes) <= self.nodes and cpus <= self.cpus and gpus <= self.gpus


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources:
    """What the cluster has, node by node: nothing that is asked for may be larger than a node.

    `upcoming` are nodes that its autoscaler would add when they are asked for, as many of each group as it may have;
    `limit` is what all groups share.
    """

    nodes: tuple[Node, ...]
    upcoming: tuple[Node, ...] = ()
    limit: Limit = Limit()

    def scaled(self, *, gpus: bool) -> Resources:
        """Return the cluster as large as it can become, nodes with GPUs first and only with `gpus`."""
        nodes = list(self.nodes)
        for node in sorted(self.upcoming, key=lambda node: -node.gpus):
            if (gpus or not node.gpus) and self.limit.holds([*nodes, node]):
                nodes.append(node)
        return Resources(nodes=tuple(nodes))

    @property
    def is_alone(self) -> bool:
        """Whether there is one machine, and no autoscaler that would add another."""
        return len(self.nodes) == 1 and not self.upcoming

    @property
    def cpus(self) -> float:
        """CPU cores over all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs over all nodes."""
        return sum(node.gpus for node in self.nodes)

    @property
    def least_cpus(self) -> float:
        """CPU cores of the smallest node that has any; a head without CPUs runs nothing."""
        return min((node.cpus for node in self.nodes if node.cpus), default=0.0)


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
            f"Plan: {_count(self.workers, 'train worker')} on {device}, {self.pool_text()}; "
            f"{batches_text(batches)}; {storage_text(storage)}."
        )

    def pool_text(self) -> str:
        """Return what runs the trunk, and the GPUs of the job, in words."""
        each = "GPU" if self.trunk_gpus else f"{_count(self.trunk_threads, 'thread')} each"
        return f"{_count(self.trunk_actors, 'trunk actor')} ({each}), {_count(self.gpus, 'GPU')}"


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
        device = "a GPU each" if self.actor_gpus else f"{_count(self.threads, 'thread')} each"
        # OpenVINO takes one photo a thread, whatever the batch size.
        batch = f"batch {self.batch_size}" if engine == "tensorflow" else "a photo a thread"
        return (
            f"Plan: {_count(self.actors, 'model actor')} on {runner} ({device}), {_count(self.gpus, 'GPU')}; "
            f"{batch}; {storage_text(storage)}."
        )


def batches_text(batches: Mapping[str, int | str]) -> str:
    """Return the rows a step of each stage in words."""
    return "batch " + ", ".join(f"{size} {stage}" for stage, size in batches.items())


def storage_text(place: str) -> str:
    """Return where a job stores what it makes, in words."""
    return f"stored in {'the URI' if artifacts.is_uri(place) else 'the folder'} {place}"


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


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


@contextlib.contextmanager
def connected(*, verbose: bool = False, dashboard: bool = True) -> Iterator[Resources]:
    """Join the cluster this process belongs to, or start one on this machine, for the length of the block.

    A Ray that is started has no `dashboard` unless the job needs its state API: Ray Train and Ray Tune do.

    Yields what the cluster has. A session that is already up is used and left as it is.
    Raises FailureError when a cluster is named (RAY_ADDRESS) but cannot be joined.
    """
    prepare_environment(verbose=verbose)
    import ray

    if ray.is_initialized():
        with _one_line_failures():
            yield _resources()
        return
    try:
        ray.init(
            address=_address(),
            include_dashboard=None if dashboard else False,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            runtime_env={
                "env_vars": {
                    name: os.environ[name]
                    for name in (*_ENVIRONMENT, *keras_environment(), *_QUIET)
                    if name in os.environ
                }
            },
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise FailureError(f"cannot join or start a Ray cluster: {' '.join(str(error).split())}") from error
    try:
        with contextlib.nullcontext() if verbose else _silent_raylets(), _one_line_failures():
            yield _resources()
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _silent_raylets() -> Iterator[None]:
    """Keep off the console what raylets say of lost processes and machines, up to twenty lines for each.

    Ray has no setting for it; the one line of losses.py and of Ray Train's callback stand in its place.
    """
    from ray._private import worker

    spoken = worker.print_to_stdstream
    worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        worker.print_to_stdstream = spoken


def _address() -> str | None:
    """Return what Ray is to join: None leaves the choice to it.

    Ray remembers a cluster of this machine even when that was killed, and would wait minutes for it to answer.
    """
    from ray._private.utils import read_ray_address

    if os.environ.get("RAY_ADDRESS"):
        return None
    host, _, port = (read_ray_address() or "").rpartition(":")
    if not host:
        return None
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except (OSError, ValueError):
        return "local"
    return None


@contextlib.contextmanager
def _one_line_failures() -> Iterator[None]:
    """Turn what Ray raises, which steps of a job have not caught, into a FailureError of one line."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise FailureError(f"the cluster failed: {root_cause(error)} (logs: {log_directory()})") from error


def prepare_environment(*, verbose: bool) -> None:
    """Set the variables that Ray and TensorFlow read when they are imported; quiet unless `verbose`."""
    for name, value in {**_ENVIRONMENT, **keras_environment()}.items():
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
            logging.getLogger(name).setLevel(logging.CRITICAL)  # an error reaches the user once, as our one line


def root_cause(error: BaseException) -> str:
    """Return the line that says what happened in an exception that Ray brought from another process."""
    failures = getattr(error, "worker_failures", None) or {}
    error = next(iter(failures.values()), error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Ray's text is a chain of tracebacks, the first cause first; each ends in a line "module.Class: message".
    causes = [line for line in lines if _EXCEPTION_LINE.match(line) and not line.startswith("ray.")]
    # A process that died leaves no traceback: what Ray says of it begins with the main thing.
    plain = lines[-1:] if lines and lines[0].startswith("ray::") else lines[:1]
    line = (causes or plain or [type(error).__name__])[0]
    # Of a dead process Ray goes on to list what may have been the cause.
    line = line.partition(" Worker exit type:")[0]
    return line.removeprefix("catdog.errors.FailureError: ")  # our own words are for the user as they are


def unlike(cpus: float, task_cpus: float) -> float:
    """Return `cpus`, a little less where it equals `task_cpus`.

    Ray Data fuses actors with tasks that book the same, and then decoding waits for the model.
    """
    return cpus if cpus != task_cpus else cpus - 0.001


def log_directory() -> str:
    """Return where Ray keeps the logs of this session, on each machine of the cluster."""
    import ray

    return f"{ray._private.worker._global_node.get_session_dir_path()}/logs"


def check_shared(*, written: Mapping[str, str], read: Mapping[str, str]) -> None:
    """Raise UsageError where a local place, given by its flag, is not the same on every node of the cluster.

    A folder in `written` is made, and must show on the other nodes what is put there; what is in `read` must be there.
    URIs are taken to be reachable from everywhere.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    written, read = (
        {flag: artifacts.absolute(place) for flag, place in places.items() if place and not artifacts.is_uri(place)}
        for places in (written, read)
    )
    if not others or not (written or read):
        return
    marks = {flag: Path(place) / f".catdog-{uuid.uuid4().hex}" for flag, place in written.items()}
    for mark in marks.values():
        artifacts.make_directory(str(mark.parent))
        mark.touch()
    look = ray.remote(num_cpus=0)(_missing)
    sought = {**marks, **{flag: Path(place) for flag, place in read.items() if Path(place).exists()}}
    try:
        strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=True) for node in others]
        found = ray.get([look.options(scheduling_strategy=strategy).remote(sought) for strategy in strategies])
    finally:
        for mark in marks.values():
            mark.unlink(missing_ok=True)
    for node, missing in zip(others, found, strict=True):
        if missing:
            for mark in marks.values():
                with contextlib.suppress(OSError):  # what was made for the question alone
                    mark.parent.rmdir()
            flag, place = missing[0], {**written, **read}[missing[0]]
            machine = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            raise UsageError(
                f"{flag} {place}: expected a place that all machines of the cluster share, but it is not to be seen on "
                f"{machine}; give a URI (s3://…, gs://…) or a folder that is mounted on all of them"
            )


def _missing(sought: Mapping[str, Path]) -> list[str]:
    """Return the flags whose places are not to be seen on this machine."""
    return [flag for flag, place in sought.items() if not place.exists()]


def _resources() -> Resources:
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    nodes = tuple(_node(node["Resources"]) for node in alive)
    groups: Sequence[tuple[Node, int]] = ()
    limit = Limit()
    with contextlib.suppress(Exception):  # what no public API tells is a bonus, never a reason to fail
        found = ray._private.state.state.get_cluster_config()
        if found and found.node_group_configs:
            groups = [(_node(group.resources), int(group.max_count)) for group in found.node_group_configs]
            most = found.max_resources
            limit = Limit(cpus=most.get("CPU", math.inf), gpus=most.get("GPU", math.inf))
        elif _is_head(alive, ray.get_runtime_context().get_node_id()):
            groups, limit = read_autoscaler(Path(_AUTOSCALER_FILE).expanduser())
    return Resources(nodes=nodes, upcoming=upcoming_nodes(nodes, groups), limit=limit)


def _is_head(nodes: Sequence[Mapping[str, Any]], own: str) -> bool:
    """Tell whether this process is on the head, whose autoscaler's file is then on this machine."""
    return any(node["NodeID"] == own and "node:__internal_head__" in node["Resources"] for node in nodes)


def read_autoscaler(path: Path) -> tuple[list[tuple[Node, int]], Limit]:
    """Return the groups of workers, each with its greatest count, and the limit over all of them.

    `path` is the file that `ray up` leaves on the head for its autoscaler, which tells nobody else what it says.
    Raises OSError, KeyError or ValueError where there is none or it is another file.
    """
    import yaml

    settings = yaml.safe_load(path.read_text())
    most = int(settings["max_workers"])
    groups = [
        (_node(group["resources"]), int(group.get("max_workers", most)))
        for name, group in settings["available_node_types"].items()
        if name != settings["head_node_type"]
    ]
    return groups, Limit(nodes=most + 1)


def upcoming_nodes(nodes: Sequence[Node], groups: Sequence[tuple[Node, int]]) -> tuple[Node, ...]:
    """Return the nodes that an autoscaler may add to `nodes`: up to the greatest count of each group.

    A group without a limit (-1) counts as 16 nodes.
    """
    left = Counter(nodes)
    added: list[Node] = []
    for node, most in groups:
        there = min(left[node], max(most, 0)) if most >= 0 else left[node]
        left[node] -= there
        added += [node] * max(0, (most if most >= 0 else _UNLIMITED) - there)
    return tuple(added)


def _node(resources: Mapping[str, float]) -> Node:
    return Node(cpus=float(resources.get("CPU", 0)), gpus=float(resources.get("GPU", 0)))
