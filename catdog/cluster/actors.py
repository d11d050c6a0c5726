"""Tasks and actors, including those of Ray Data: what each of them gets, and how often lost work is retried.

The functions and classes that they run are sent pickled. So an attempt is counted before unpickling imports any module,
and a process that dies during an import is not restarted without limit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from catdog.cluster import messages
from catdog.cluster.failures import root_cause
from catdog.console import counted
from catdog.errors import CatdogError, FailureError

# Attempts at one block whose process dies, before the job gives up; a lost node counts as one attempt.
MAX_TRIES = 10
MAX_RESTARTS = 20  # of one actor
_MIN_TASKS = 8  # of run_in_tasks, in flight at the same time
TASKS_AT_ONCE = 1000

# Calls a function with the arguments of each call and yields the results in order: itertools.starmap in this process,
# map_in_order in tasks.
Map = Callable[[Callable[..., Any], Iterable[Sequence[Any]]], Iterator[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restarts:
    """How often an actor may restart after its process was lost; the actor calls `count` first.

    Ray Data itself restarts actors and retries their work without limit. Its settings for that will be removed in Ray
    2.64, so the actors count their restarts themselves.
    """

    actor: str  # its name in messages, such as "trunk actor"
    limit: int

    def count(self) -> None:
        """Notify the driver if this is a restart of the actor; raise FailureError after `limit` restarts."""
        import ray

        context = ray.get_runtime_context()
        if not context.was_current_actor_reconstructed:
            return
        if messages.count(f"restarts of {context.get_actor_id()}") > self.limit:
            raise FailureError(f"a {self.actor} died {counted(self.limit + 1, 'time')}")
        messages.notify(f"A {self.actor} was lost; it restarts.")


def count_tries(block: int | str, *, limit: int = MAX_TRIES) -> int:
    """Return the number of earlier attempts of this task at `block`; each task of ours calls this first.

    Raises FailureError after `limit` attempts, because Ray itself retries without limit.
    """
    import ray

    tries = messages.count(f"tries of {ray.get_runtime_context().get_task_id()} on {block}") - 1
    if tries >= limit:
        raise FailureError(f"the process that worked on one part died {counted(tries, 'time')}")
    return tries


def map_in_order(
    function: Callable[..., Any], calls: Iterable[Sequence[Any]], *, num_cpus: float, at_once: int = TASKS_AT_ONCE
) -> Iterator[Any]:
    """Call `function` in a Ray task with the arguments of each of `calls`, and yield the results in order.

    At most `at_once` tasks are in flight; further calls wait in `calls`, not in Ray. Each task books `num_cpus`.
    Raises a CatdogError as the function raised it, and FailureError for any other error.
    """
    import ray

    task, waiting = ray.remote(num_cpus=num_cpus)(function), iter(calls)
    running: deque[Any] = deque()
    while True:
        running += (task.remote(*call) for call in itertools.islice(waiting, at_once - len(running)))
        if not running:
            return
        with task_errors():
            found = ray.get(running.popleft())
        yield found


@contextlib.contextmanager
def task_errors() -> Iterator[None]:
    """Raise a CatdogError that Ray brings from a task as it was raised there, and any other as FailureError."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        _raise_ours(error)
        raise FailureError(root_cause(error)) from error


def _raise_ours(error: Exception) -> None:
    """Raise the CatdogError that `error` brings from a task; return if it brings none."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, CatdogError):
        raise cause from error


def map_in_tasks(blocks: Any, function: Callable[[Any], Any], *, batch_format: str, num_cpus: float) -> Any:
    """Return the Ray dataset `blocks` mapped by `function`, one task for each block; lost tasks are retried.

    `batch_format` is pyarrow or numpy, what `function` takes; `num_cpus` is what each task books. A task whose process
    dies before it calls `function` fails after MAX_TRIES attempts, with a Ray exception. From then on `function` counts
    the attempts itself.
    """
    import ray

    packed, limit = ray.cloudpickle.dumps(function), MAX_TRIES

    def work(block: Any) -> Any:
        return _unpack(packed, limit)(block)

    return blocks.map_batches(work, batch_size=None, batch_format=batch_format, num_cpus=num_cpus)


@functools.lru_cache(maxsize=8)
def _unpack(packed: bytes, limit: int) -> Any:
    """Return what `map_in_tasks` or `run_in_tasks` pickled; cached in each process."""
    import ray

    count_tries("its imports", limit=limit)
    return ray.cloudpickle.loads(packed)


def run_in_tasks(
    function: Callable[[Any, int], Any], pieces: Iterable[Any], *, num_cpus: float
) -> Iterator[tuple[Any, Any]]:
    """Call `function` in a Ray task for each of `pieces`, and yield (piece, result) as tasks finish.

    `function` takes a piece and the number of earlier attempts at it; lost tasks are retried. Ray gets at most twice as
    many tasks as the cluster's CPUs can run, or 8 if that is more, however many pieces there are. Raises a CatdogError
    as the function raised it, FailureError for a piece whose process dies MAX_TRIES times, and Ray's exceptions.
    """
    import ray

    packed, limit = ray.cloudpickle.dumps(function), MAX_TRIES

    def work(piece: Any) -> Any:
        return _unpack(packed, limit)(piece, count_tries("its piece", limit=limit))

    task = ray.remote(num_cpus=num_cpus, max_retries=-1)(work)
    waiting, running = iter(pieces), dict[Any, Any]()
    try:
        while True:
            most = max(_MIN_TASKS, int(2 * ray.cluster_resources().get("CPU", 1.0) / num_cpus))
            for piece in itertools.islice(waiting, most - len(running)):
                running[task.remote(piece)] = piece
            if not running:
                return
            ray.wait(list(running))
            done, _ = ray.wait(list(running), num_returns=len(running), timeout=0)
            for reference in done:
                piece = running.pop(reference)
                try:
                    found = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    _raise_ours(error)
                    raise
                yield piece, found
    finally:
        for reference in running:
            ray.cancel(reference)


class CountedActor:
    """A wrapper around an actor that counts its start before it unpickles and builds the actor."""

    def __init__(self, *, packed: bytes, restarts: Restarts) -> None:
        import ray

        restarts.count()
        actor, arguments = ray.cloudpickle.loads(packed)
        self._actor = actor(**arguments)

    def __call__(self, block: Any) -> dict[str, np.ndarray]:
        """Call the actor."""
        mapped: dict[str, np.ndarray] = self._actor(block)
        return mapped


def map_in_actors(
    blocks: Any,
    actor: type,
    arguments: Mapping[str, Any],
    *,
    name: str,
    actors: int,
    num_cpus: float,
    num_gpus: float,
    batch_format: str = "numpy",
) -> Any:
    """Return the Ray dataset `blocks` mapped by `actors` actors, block by block; lost actors restart.

    `arguments` are those of the class `actor`, which calls `count_tries` for each block. `name` is for messages;
    `num_cpus` and `num_gpus` are what each actor books; `batch_format` is pyarrow or numpy, what the actor takes. An
    actor processes two blocks at the same time, each in its own thread, so that one is decoded or written while the
    network runs on the other. The actor itself lets only one thread use the network. After MAX_RESTARTS restarts of one
    actor, or MAX_TRIES attempts at one block, the dataset fails with a Ray exception.
    """
    import ray

    threads = accepted(
        ray.data.ActorPoolStrategy,
        max_concurrent_calls_per_actor=2,
        enable_true_multi_threading=True,
        max_tasks_in_flight_per_actor=3,  # and one that waits; with more, a lost actor would lose more
    )
    # Older versions of Ray lack this argument; there the actor option max_concurrency sets the number of threads.
    older = {} if "max_concurrent_calls_per_actor" in threads else {"max_concurrency": 2}
    return blocks.map_batches(
        CountedActor,
        fn_constructor_kwargs={
            "packed": ray.cloudpickle.dumps((actor, dict(arguments))),
            "restarts": Restarts(actor=name, limit=MAX_RESTARTS),
        },
        batch_size=None,
        batch_format=batch_format,
        compute=ray.data.ActorPoolStrategy(size=actors, **threads),
        num_cpus=num_cpus,
        num_gpus=num_gpus or None,
        **older,
    )


def accepted(call: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """Return those of `arguments` that `call` accepts in the installed Ray; older versions lack some."""
    known = inspect.signature(call).parameters
    return {name: value for name, value in arguments.items() if name in known}


def avoid_fusion(cpus: float, task_cpus: float) -> float:
    """Return `cpus`, slightly reduced if it equals `task_cpus`.

    Ray Data fuses actors with tasks that book the same resources, and then decoding waits for the model.
    """
    return cpus if cpus != task_cpus else cpus - 0.001


# Ray 2.51 loses the connection to its object store when several threads of an actor read at the same time.
_ONE_READER = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Shared:
    """An object that the driver put into Ray's object store once, for actors to fetch when they start.

    The reference is sent pickled. Ray logs an error for every restartable actor with a reference among its arguments,
    because the reference could go out of scope. Ours lives as long as the driver, which holds this object.
    """

    reference: bytes
    keep: Any = dataclasses.field(default=None, compare=False)

    def get(self) -> Any:
        """Return the object."""
        import ray

        with _ONE_READER:
            return ray.get(ray.cloudpickle.loads(self.reference))

    def __reduce__(self) -> tuple[Any, ...]:
        return Shared, (self.reference,)


def share(value: Any) -> Shared:
    """Put `value` into Ray's object store for as long as the result is held."""
    import ray

    reference = ray.put(value)
    return Shared(ray.cloudpickle.dumps(reference), reference)
