"""A pool of actors that share work; work is retried if its process is lost."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, Self

from catdog.cluster import actors
from catdog.cluster.failures import root_cause
from catdog.console import counted, say

_LOOK_SECONDS = 1.0
_MAX_OUT_OF_MEMORY = 3  # failures of one actor in a row: it would not fit the next time either


class Work(Protocol):
    """One piece of work for an actor of ActorPool; `tries` counts how often its process was lost before."""

    tries: int

    def again(self) -> Sequence[Self]:
        """Return the same work for another attempt, in the smallest pieces that can be retried separately."""


class LostProcessesError(Exception):
    """An actor, or the process of one piece of work, was lost too often."""


@dataclasses.dataclass
class _Place:
    """A slot of the pool: its current actor, how many more calls that can take, and failures since it last did work."""

    actor: Any
    free: int = 0  # none before it is loaded
    losses: int = 0


class ActorPool:
    """Actors that share work; a lost actor is replaced, and its work goes to any free actor.

    `start` returns the handle of a new actor. Its class has `load()`, called once before any work, `work(piece)` and
    `close()`. Ray's own restarts are not used, because they keep the work for the restarted actor, without limit. A
    machine that does not come back would then hold up the job.
    """

    def __init__(self, start: Callable[[], Any], *, name: str, size: int, calls: int) -> None:
        self._start, self._name, self._calls = start, name, calls
        self._queue: Iterator[Any] = iter(())
        self._again: collections.deque[Any] = collections.deque()
        self._running: dict[Any, tuple[_Place, Any, Any]] = {}  # from reference to place, actor and work
        self._places = [_Place(start()) for _ in range(size)]
        for place in self._places:
            self._load(place)

    def map(self, pieces: Iterable[Any], *, look: Callable[[], None]) -> Iterator[tuple[Any, Any]]:
        """Yield each of `pieces` with the result of `work`, as they finish; `look` is called at least every second.

        At most `calls` pieces are in an actor at the same time. Raises what `work` and `load` raise, and
        LostProcessesError.
        """
        import ray

        self._queue = iter(pieces)
        while self._again or self._is_at_work() or self._has_more():
            done, _ = ray.wait(list(self._running), timeout=_LOOK_SECONDS)
            look()
            for reference in done:
                place, actor, piece = self._running.pop(reference)
                try:
                    result = ray.get(reference)
                except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
                    self._lose(place, actor, piece, error)
                    continue
                place.free += self._calls if piece is None else 1
                if piece is not None:
                    place.losses = 0
                    yield piece, result
            self._feed()

    def close(self) -> None:
        """Kill all actors and their work; those that answer within a second clean up first."""
        import ray

        with contextlib.suppress(Exception):
            ray.wait([place.actor.close.remote() for place in self._places], num_returns=len(self._places), timeout=1.0)
        for place in self._places:
            _kill(place.actor)
        if self._running:
            ended, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=1.0)
            for reference in ended:
                with contextlib.suppress(Exception):
                    ray.get(reference)  # Ray prints the traceback of an error that was never fetched

    def _load(self, place: _Place) -> None:
        self._running[place.actor.load.remote()] = (place, place.actor, None)

    def _is_at_work(self) -> bool:
        return any(piece is not None for _, _, piece in self._running.values())

    def _has_more(self) -> bool:
        self._again.extend(itertools.islice(self._queue, 1))
        return bool(self._again)

    def _feed(self) -> None:
        """Give work to each free actor, first to those with the least work."""
        for free in range(self._calls, 0, -1):
            for place in self._places:
                if place.free < free:
                    continue
                piece = self._again.popleft() if self._again else next(self._queue, None)
                if piece is None:
                    return
                place.free -= 1
                self._running[place.actor.work.remote(piece)] = (place, place.actor, piece)

    def _lose(self, place: _Place, actor: Any, piece: Any, error: Exception) -> None:
        import ray

        if getattr(error, "actor_init_failed", False):
            raise error
        if piece is not None:
            if piece.tries + 1 >= actors.MAX_TRIES:
                raise LostProcessesError(
                    f"the process that worked on one part died {counted(piece.tries + 1, 'time')}: {root_cause(error)}"
                )
            self._again.extendleft(reversed(piece.again()))
        if actor is not place.actor:  # another call has already reported this failure
            return
        _kill(actor)  # it may still run, if only its node is unreachable
        place.losses += 1
        out_of_memory = isinstance(error, ray.exceptions.OutOfMemoryError)
        if place.losses > (_MAX_OUT_OF_MEMORY if out_of_memory else actors.MAX_RESTARTS):
            raise LostProcessesError(f"a {self._name} died {counted(place.losses, 'time')}: {root_cause(error)}")
        say(f"A {self._name} was lost; it restarts.")
        place.actor, place.free = self._start(), 0
        self._load(place)


def _kill(actor: Any) -> None:
    import ray

    with contextlib.suppress(Exception):
        ray.kill(actor)
