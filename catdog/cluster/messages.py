"""The message board of a job: an actor through which its processes report to the driver and to each other.

Nothing is polled and no file is written: a reader waits inside the actor until there is a message. Every process of a
job finds the board by its name. If there is no board, as in a program that uses only a part of catdog, messages are
dropped and no call waits.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from typing import Any

NOTICES = "notices"  # lines for the console
_NAME = "catdog-messages"
_SHOWN_SECONDS = 0.5


class _MessageBoard:
    """Lists of messages by topic, counters by name, and the last state that was shown under each name."""

    def __init__(self) -> None:
        self._topics: dict[str, list[Any]] = collections.defaultdict(list)
        self._counts: collections.Counter[str] = collections.Counter()
        self._shown: dict[str, int] = {}
        self._changed = asyncio.Condition()

    async def post(self, topic: str, message: Any) -> None:
        async with self._changed:
            self._topics[topic].append(message)
            self._changed.notify_all()

    async def read(self, topic: str, start: int, wait_seconds: float) -> list[Any]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_seconds), self._changed:
                await self._changed.wait_for(lambda: len(self._topics[topic]) > start)
        return self._topics[topic][start:]

    async def forget(self, topic: str) -> None:
        self._topics.pop(topic, None)

    async def show(self, name: str, state: int | None) -> None:
        if state is None:
            self._shown.pop(name, None)
        else:
            self._shown[name] = state

    async def shown(self, names: list[str]) -> list[int]:
        return [self._shown[name] for name in names if name in self._shown]

    async def count(self, name: str) -> int:
        self._counts[name] += 1
        return self._counts[name]


def open_board() -> Any:
    """Start or find the board of this job, which ends when the result is dropped; call this in the driver."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    return (
        ray.remote(_MessageBoard)
        .options(
            name=_NAME,
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=1000,  # readers wait inside
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=True),
        )
        .remote()
    )


def post(topic: str, message: Any) -> None:
    """Append `message` to `topic`, and return when it is there."""
    _call("post", topic, message)


def notify(line: str) -> None:
    """Let the driver print `line`; ignore a line that cannot be delivered."""
    with contextlib.suppress(Exception):
        post(NOTICES, line)


def read(topic: str, *, start: int = 0, wait_seconds: float = 0.0, answer_seconds: float | None = None) -> list[Any]:
    """Return the messages of `topic` from number `start` on; wait up to `wait_seconds` until there is one.

    Raises ray.exceptions.GetTimeoutError if the board itself does not answer within `answer_seconds` after that.
    """
    timeout = None if answer_seconds is None else wait_seconds + answer_seconds
    return _call("read", topic, start, wait_seconds, timeout=timeout) or []


def forget(topic: str) -> None:
    """Drop the messages of `topic`, and return when they are gone.

    The call waits because an asynchronous actor may run later calls first.
    """
    _call("forget", topic)


def wake(topic: str) -> None:
    """Wake the readers of `topic` with a message that is None; the call does not wait."""
    _send("post", topic, None)


def count(name: str) -> int:
    """Return how often this was called for `name`, including this call; 1 if there is no board."""
    return _call("count", name) or 1


def show(name: str, state: int | None) -> None:
    """Replace the state shown under `name` with `state`, or remove it if that is None; the call does not wait."""
    _send("show", name, state)


def shown(names: list[str]) -> list[int]:
    """Return the states shown under `names`, skipping names without one; [] if there is no answer within 0.5 s."""
    import ray

    # When memory runs out, Ray kills the board first, and repeatedly. Work must not wait for a mere display.
    with contextlib.suppress(ray.exceptions.GetTimeoutError):
        return _call("shown", names, timeout=_SHOWN_SECONDS) or []
    return []


def _call(method: str, *arguments: Any, timeout: float | None = None) -> Any:
    import ray

    sent = _send(method, *arguments)
    return None if sent is None else ray.get(sent, timeout=timeout)


def _send(method: str, *arguments: Any) -> Any:
    import ray

    with contextlib.suppress(ValueError):  # no actor of this name
        return getattr(ray.get_actor(_NAME), method).remote(*arguments)
    return None
