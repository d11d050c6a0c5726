"""Tasks and actors, those of Ray Data too: what each of them gets, and how often lost work is tried again.

What they run travels packed. So a try is counted before anything is imported, and a process that dies of an import is
not started again without limit.
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

# Tries of one block whose process dies, before the job gives up; a node that is lost counts as one.
MAX_TRIES = 10
MAX_RESTARTS = 20  # of one actor
_LEAST_TASKS = 8  # of run_in_tasks, on their way at once
TASKS_AT_ONCE = 1000

# Calls a function with the arguments of each call, and yields what it returns, in order: itertools.starmap does so in
# this process, map_in_order in tasks.
Map = Callable[[Callable[..., Any], Iterable[Sequence[Any]]], Iterator[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restarts:
    """How often an actor may be started again after its process was lost; `count` is called first.

    Ray Data itself restarts actors and tries their work again without limit, and its settings for that go with Ray
    2.64: so the actors count.
    """

    actor: str  # what a person calls it, such as "trunk actor"
    limit: int

    def count(self) -> None:
        """Tell the driver that the actor was lost, if it was; raise FailureError after `limit` restarts."""
        import ray

        context = ray.get_runtime_context()
        if not context.was_current_actor_reconstructed:
            return
        if messages.count(f"restarts of {context.get_actor_id()}") > self.limit:
            raise FailureError(f"a {self.actor} died {counted(self.limit + 1, 'time')}")
        messages.notify(f"A {self.actor} was lost; it restarts.")


def count_tries(block: int | str, *, limit: int = MAX_TRIES) -> int:
    """Return how often Ray tried this task on `block` before; a task of ours asks this first.

    Raises FailureError after `limit` tries, because Ray itself tries without limit.
    """
    import ray

    tries = messages.count(f"tries of {ray.get_runtime_context().get_task_id()} on {block}") - 1
    if tries >= limit:
        raise FailureError(f"the process of one part died {counted(tries, 'time')}")
    return tries


def map_in_order(
    function: Callable[..., Any], calls: Iterable[Sequence[Any]], *, num_cpus: float, at_once: int = TASKS_AT_ONCE
) -> Iterator[Any]:
    """Yield what `function` returns for the arguments of each of `calls`, in their order, as Ray tasks.

    At most `at_once` of them are on their way: more wait in `calls`, not in Ray. Each books `num_cpus`.
    Raises an error of ours as the function raised it, and FailureError for any other.
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
    """Raise errors of ours, which Ray brings from tasks, as they were raised there; others as FailureError."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        _raise_ours(error)
        raise FailureError(root_cause(error)) from error


def _raise_ours(error: Exception) -> None:
    """Raise the error of ours that `error` brings from a task; return where it brings none."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, CatdogError):
        raise cause from error


def map_in_tasks(blocks: Any, function: Callable[[Any], Any], *, batch_format: str, num_cpus: float) -> Any:
    """Return the Ray dataset `blocks` as tasks map it, a block each, by `function`; lost tasks are tried again.

    `batch_format` is pyarrow or numpy, what `function` takes; `num_cpus` is what each task books. A task whose process
    dies before it comes to `function` is given up after MAX_TRIES, with an exception of Ray's; once there, `function`
    counts by itself.
    """
    import ray

    packed, limit = ray.cloudpickle.dumps(function), MAX_TRIES

    def work(block: Any) -> Any:
        return _unpack(packed, limit)(block)

    return blocks.map_batches(work, batch_size=None, batch_format=batch_format, num_cpus=num_cpus)


@functools.lru_cache(maxsize=8)
def _unpack(packed: bytes, limit: int) -> Any:
    """Return what `map_in_tasks` packed; once a process."""
    import ray

    count_tries("its imports", limit=limit)
    return ray.cloudpickle.loads(packed)


def run_in_tasks(
    function: Callable[[Any, int], Any], pieces: Iterable[Any], *, num_cpus: float
) -> Iterator[tuple[Any, Any]]:
    """Yield each of `pieces` with what a Ray task made of it by `function`, as they are done; lost tasks run again.

    `function` takes a piece and how often its task was tried before. Two tasks for each of the cluster's CPUs are
    handed to Ray at once, however many pieces there are. Raises errors of ours as the function raised them,
    FailureError for a piece whose process dies MAX_TRIES times, and exceptions of Ray's.
    """
    import ray

    packed, limit = ray.cloudpickle.dumps(function), MAX_TRIES

    def work(piece: Any) -> Any:
        return _unpack(packed, limit)(piece, count_tries("its piece", limit=limit))

    task = ray.remote(num_cpus=num_cpus, max_retries=-1)(work)
    waiting, running = iter(pieces), dict[Any, Any]()
    try:
        while True:
            most = max(_LEAST_TASKS, int(2 * ray.cluster_resources().get("CPU", 1.0) / num_cpus))
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
    """Stands where an actor does, until its start is counted."""

    def __init__(self, *, packed: bytes, restarts: Restarts) -> None:
        import ray

        restarts.count()
        actor, arguments = ray.cloudpickle.loads(packed)
        self._actor = actor(**arguments)

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Do what the actor does."""
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
) -> Any:
    """Return the Ray dataset `blocks` as `actors` actors map it, block by block; lost actors restart.

    `arguments` are those of the class `actor`, which calls `count_tries` for each block; `name` is what a person calls
    it. CPUs and GPUs are what each actor books. Two blocks are in an actor at once, each in a thread of its own, so
    that one is written while the network runs on the other: the actor itself lets only one of them to the network.
    After MAX_RESTARTS of one actor, or MAX_TRIES of one block, the dataset fails with an exception of Ray's.
    """
    import ray

    threads = accepted(
        ray.data.ActorPoolStrategy,
        max_concurrent_calls_per_actor=2,
        enable_true_multi_threading=True,
        max_tasks_in_flight_per_actor=3,  # and one that waits; of more, more would be lost with an actor
    )
    # Before it had a name of its own, the number of threads was an argument of Ray's for any actor.
    older = {} if "max_concurrent_calls_per_actor" in threads else {"max_concurrency": 2}
    return blocks.map_batches(
        CountedActor,
        fn_constructor_kwargs={
            "packed": ray.cloudpickle.dumps((actor, dict(arguments))),
            "restarts": Restarts(actor=name, limit=MAX_RESTARTS),
        },
        batch_size=None,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=actors, **threads),
        num_cpus=num_cpus,
        num_gpus=num_gpus or None,
        **older,
    )


def accepted(call: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """Return those of `arguments` that `call` of the installed Ray knows; older versions lack some."""
    known = inspect.signature(call).parameters
    return {name: value for name, value in arguments.items() if name in known}


def avoid_fusion(cpus: float, task_cpus: float) -> float:
    """Return `cpus`, a little less where it equals `task_cpus`.

    Ray Data fuses actors with tasks that book the same, and then decoding waits for the model.
    """
    return cpus if cpus != task_cpus else cpus - 0.001


# Ray 2.51 loses the connection to its store where several threads of an actor read from it at once.
_ONE_READER = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Shared:
    """An object that the driver put into Ray's store once, for actors to fetch when they start.

    The reference travels pickled: Ray logs an error for every restartable actor with a reference among its
    arguments, because they could go out of scope; ours lives as long as the driver, which holds this object.
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
