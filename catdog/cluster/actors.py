"""Pools of Ray Data actors: what they get, how often a lost one is started again."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

from catdog.errors import FailureError

# Tries of one part whose process dies, before the job gives up; a node that is lost counts as one.
MAX_TRIES = 10
MAX_RESTARTS = 20  # of one actor


def map_in_actors(
    blocks: Any,
    actor: type,
    arguments: Mapping[str, Any],
    *,
    actors: int,
    num_cpus: float,
    num_gpus: float,
) -> Any:
    """Return the Ray dataset `blocks` as `actors` actors make it, block by block, each lost one started anew.

    `arguments` are those of the class `actor`. CPUs and GPUs are what each of them books. Two blocks are in an actor at
    once, each in a thread of its own, so that one is written while the network runs on the other: the actor itself
    lets only one of them to the network. After MAX_RESTARTS of one actor, or MAX_TRIES of one block, the dataset fails
    with an exception of Ray's.
    """
    import ray
    from ray.util.annotations import RayDeprecationWarning

    with warnings.catch_warnings():
        # Ray restarts an actor for ever unless it is told so here; Ray 2.64, which we exclude, has no such setting.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return blocks.map_batches(
            actor,
            fn_constructor_kwargs=dict(arguments),
            batch_size=None,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(
                size=actors,
                max_concurrent_calls_per_actor=2,
                max_tasks_in_flight_per_actor=3,  # and one that waits; of more, more would go with a lost actor
                enable_true_multi_threading=True,
            ),
            num_cpus=num_cpus,
            num_gpus=num_gpus or None,
            max_restarts=MAX_RESTARTS,
            max_task_retries=MAX_TRIES,
        )


def count_tries() -> int:
    """Return how often Ray has tried this task before; a task of ours asks it first.

    Raises FailureError after MAX_TRIES: Ray itself would try for ever.
    """
    from ray._private.worker import global_worker  # the runtime context does not tell

    tries = int(global_worker.core_worker.get_current_task_attempt_number())
    if tries >= MAX_TRIES:
        raise FailureError(f"the process of one part died {tries} times")
    return tries


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
