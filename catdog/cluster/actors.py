"""Pools of Ray Data actors: what each of them gets, and how often lost work is tried again."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from catdog.cluster import messages
from catdog.errors import FailureError

# Tries of one block whose process dies, before the job gives up; a node that is lost counts as one.
MAX_TRIES = 10
MAX_RESTARTS = 20  # of one actor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restarts:
    """How often an actor may be started again after its process was lost; an actor calls `count` first.

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
            raise FailureError(f"a {self.actor} died {self.limit + 1} times")
        messages.notify(f"A {self.actor} was lost; it restarts.")


def count_tries(block: int | str) -> int:
    """Return how often Ray tried this task on `block` before; a task of ours asks this first.

    Raises FailureError after MAX_TRIES, because Ray itself tries without limit.
    """
    import ray

    tries = messages.count(f"tries of {ray.get_runtime_context().get_task_id()} on {block}") - 1
    if tries >= MAX_TRIES:
        raise FailureError(f"the process of one part died {tries} times")
    return tries


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

    `arguments` are those of the class `actor`, which also gets `restarts` and counts them, and calls `count_tries` for
    each block; `name` is what a person calls it. CPUs and GPUs are what each actor books. Two blocks are in an actor at
    once, each in a thread of its own, so that one is written while the network runs on the other: the actor itself
    lets only one of them to the network. After MAX_RESTARTS of one actor, or MAX_TRIES of one block, the dataset fails
    with an exception of Ray's.
    """
    import ray

    strategy = ray.data.ActorPoolStrategy
    threads = accepted(
        strategy,
        max_concurrent_calls_per_actor=2,
        enable_true_multi_threading=True,
        max_tasks_in_flight_per_actor=3,  # and one that waits; of more, more would be lost with an actor
    )
    # Before it had a name of its own, the number of threads was an argument of Ray's for any actor.
    older = {} if "max_concurrent_calls_per_actor" in threads else {"max_concurrency": 2}
    return blocks.map_batches(
        actor,
        fn_constructor_kwargs={**arguments, "restarts": Restarts(actor=name, limit=MAX_RESTARTS)},
        batch_size=None,
        batch_format="numpy",
        compute=strategy(size=actors, **threads),
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

        return ray.get(ray.cloudpickle.loads(self.reference))

    def __reduce__(self) -> tuple[Any, ...]:
        return Shared, (self.reference,)


def share(value: Any) -> Shared:
    """Put `value` into Ray's object store for as long as the result is held."""
    import ray

    reference = ray.put(value)
    return Shared(ray.cloudpickle.dumps(reference), reference)
