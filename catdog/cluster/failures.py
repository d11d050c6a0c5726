"""Lost processes and machines: how often their work is tried again, and the line that tells of each."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from catdog.console import clear_line
from catdog.errors import FailureError

# Tries of one part whose process dies, before the job gives up; a node that is lost counts as one.
MAX_TRIES = 10
MAX_RESTARTS = 20  # of one actor
_LOOK_EVERY_SECONDS = 1.0
# What a person calls the actors that Ray starts anew by itself; of the others Ray Train and Ray Tune tell.
_ACTORS = {"TrunkWriter": "trunk actor", "TrunkStreamer": "trunk actor", "PartWriter": "model actor"}


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


@contextlib.contextmanager
def told_losses(say: Callable[[str], None]) -> Iterator[None]:
    """Say in a line, as it happens, that an actor or a machine was lost, for the length of the block.

    Ray must be connected until the block ends.
    """
    watch, stop = _Watch(), threading.Event()

    def look() -> None:
        ended = False
        while not ended:
            ended = stop.wait(_LOOK_EVERY_SECONDS)  # and a last look then
            with contextlib.suppress(Exception):  # a cluster that does not answer fails the job itself
                for line in watch.news():
                    clear_line()
                    say(line)

    thread = threading.Thread(target=look, name="losses", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)


class _Watch:
    """What is known of the cluster's machines and of this job's actors, and what of it is new."""

    def __init__(self) -> None:
        import ray

        self._known = {node["NodeID"] for node in ray.nodes() if not node["Alive"]}
        self._told: set[str] = set()  # nodes that a line was about
        self._seen: dict[str, tuple[int, str]] = {}  # restarts of an actor, and its node
        list(self._actors())  # of an earlier job in the same Ray: no news

    def news(self) -> list[str]:
        """Return a line for each loss since the last call."""
        return [*self._machines(), *self._actors()]

    def _machines(self) -> Iterator[str]:
        import ray

        state = ray._private.state.state
        leaving = {node for node, deadline in state.get_draining_nodes().items() if deadline}
        for node in ray.nodes():
            name, place = node["NodeID"], f"{node['NodeManagerHostname']}, {node['NodeManagerAddress']}"
            if name in self._known or (node["Alive"] and name not in leaving):
                continue
            self._known.add(name)
            if name in leaving or node["DeathReason"] == _death("AUTOSCALER_DRAIN_PREEMPTED"):
                self._told.add(name)
                yield f"The cloud takes back a machine ({place}): what runs there starts again on the others."
            # One that had nothing to do goes without a word.
            elif node["DeathReason"] not in (_death("EXPECTED_TERMINATION"), _death("AUTOSCALER_DRAIN_IDLE")):
                self._told.add(name)
                yield f"A machine was lost ({place}): what ran there starts again on the others."

    def _actors(self) -> Iterator[str]:
        import ray

        job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
        for name, actor in ray._private.state.state.actor_table(None, job).items():
            kinds = [kind for part, kind in _ACTORS.items() if f"({part})" in actor["ActorClassName"]]
            if not kinds:
                continue
            restarts, node = actor["NumRestarts"], actor["Address"]["NodeID"]
            before, place = self._seen.get(name, (0, node))
            self._seen[name] = (restarts, node or place)
            if restarts > before and place not in self._told:  # else the line of its machine tells
                yield f"A {kinds[0]} was lost and starts again."


def _death(reason: str) -> int:
    from ray.core.generated import common_pb2

    return int(common_pb2.NodeDeathInfo.Reason.Value(reason))
