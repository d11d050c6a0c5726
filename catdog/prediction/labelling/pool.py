"""A pool of actors of our own: work is shared out among them, and tried again where a process is lost."""

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
_MAX_OUT_OF_MEMORY = 3  # times in a row that one actor is ended for that: it would not fit the next time either


class Work(Protocol):
    """What an actor of ActorPool gets at a time; `tries` tells how often its process was lost before."""

    tries: int

    def again(self) -> Sequence[Self]:
        """Return the same work to be tried again, in pieces as small as are tried by themselves."""


class LostProcessesError(Exception):
    """An actor, or the process of one piece of work, was lost too often."""


@dataclasses.dataclass
class _Place:
    """The place of one actor in the pool: the one that has it now, calls it is free for, losses since it did work."""

    actor: Any
    free: int = 0  # none before it is loaded
    losses: int = 0


class ActorPool:
    """Actors that share out work; a lost one is replaced, and its work goes to whichever is free.

    `start` returns the handle of a new actor, whose class has `load()`, called once before any work, `work(piece)` and
    `close()`. Ray would restart an actor in its place and keep its work for it, without limit: a machine that does
    not come back would hold up the job.
    """

    def __init__(self, start: Callable[[], Any], *, name: str, size: int, calls: int) -> None:
        self._start, self._name, self._calls = start, name, calls
        self._queue: Iterator[Any] = iter(())
        self._again: collections.deque[Any] = collections.deque()
        self._running: dict[Any, tuple[_Place, Any, Any]] = {}  # by reference: its place, its actor, its work
        self._places = [_Place(start()) for _ in range(size)]
        for place in self._places:
            self._load(place)

    def map(self, pieces: Iterable[Any], *, look: Callable[[], None]) -> Iterator[tuple[Any, Any]]:
        """Yield each of `pieces` with what `work` returned for it, as they are done; `look` is called each second.

        At most `calls` of them are in an actor at once. Raises what `work` and `load` raise, and LostProcessesError.
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
        """End all actors, and what they do; those that answer tidy up first."""
        import ray

        with contextlib.suppress(Exception):
            ray.wait([place.actor.close.remote() for place in self._places], num_returns=len(self._places), timeout=1.0)
        for place in self._places:
            _kill(place.actor)
        if self._running:
            ended, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=1.0)
            for reference in ended:
                with contextlib.suppress(Exception):
                    ray.get(reference)  # of errors that nobody has looked at Ray prints the traceback

    def _load(self, place: _Place) -> None:
        self._running[place.actor.load.remote()] = (place, place.actor, None)

    def _is_at_work(self) -> bool:
        return any(piece is not None for _, _, piece in self._running.values())

    def _has_more(self) -> bool:
        self._again.extend(itertools.islice(self._queue, 1))
        return bool(self._again)

    def _feed(self) -> None:
        """Give work to each actor that is free, first to those that have least."""
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
                    f"the process of one part died {counted(piece.tries + 1, 'time')}: {root_cause(error)}"
                )
            self._again.extendleft(reversed(piece.again()))
        if actor is not place.actor:  # another call has told of the loss
            return
        _kill(actor)  # it may live, and only its node be out of reach
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
