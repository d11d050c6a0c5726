from __future__ import annotations

import dataclasses
import os
import signal

import pytest
import ray

from catdog.cluster import actors
from catdog.console import only_our_lines
from catdog.prediction.labelling.pool import ActorPool, LostProcessesError


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of work for an ActorPool; the process dies at the first `deadly` attempts."""

    number: int
    deadly: int = 0
    tries: int = 0

    def again(self) -> list[Piece]:
        return [dataclasses.replace(self, tries=self.tries + 1)]


class Squarer:
    """An actor of an ActorPool."""

    def __init__(self, fault: str = "") -> None:
        self._fault = fault

    def load(self) -> None:
        if self._fault:
            raise ValueError(self._fault)

    def work(self, piece: Piece) -> int:
        if piece.tries < piece.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return piece.number**2

    def close(self) -> None:
        pass


def squares(pieces: list[Piece], *, fault: str = "") -> list[int]:
    options = ray.remote(Squarer).options(num_cpus=0, max_concurrency=3)
    pool = ActorPool(lambda: options.remote(fault), name="squarer", size=2, calls=2)
    try:
        return sorted(result for _, result in pool.map(iter(pieces), look=lambda: None))
    finally:
        pool.close()


def test_a_pool_does_all_work_also_where_its_processes_die(
    ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert squares([Piece(number) for number in range(9)]) == [0, 1, 4, 9, 16, 25, 36, 49, 64]
    with only_our_lines():
        assert squares([Piece(1), Piece(2, deadly=2), Piece(3)]) == [1, 4, 9]
    assert set(capsys.readouterr().out.splitlines()) == {"A squarer was lost; it restarts."}
    assert squares([]) == []


def test_a_pool_ends_where_its_processes_always_die(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "MAX_TRIES", 2)
    with pytest.raises(LostProcessesError, match=r"^the process that worked on one part died 2 times: The actor died"):
        squares([Piece(1, deadly=9)])
    monkeypatch.setattr(actors, "MAX_TRIES", 9)
    monkeypatch.setattr(actors, "MAX_RESTARTS", 0)
    with pytest.raises(LostProcessesError, match=r"^a squarer died 1 time: The actor died"):
        squares([Piece(1, deadly=9)])


def test_what_an_actor_of_a_pool_raises_ends_the_work(ray_session: None) -> None:
    with pytest.raises(ray.exceptions.RayTaskError, match="no model"):
        squares([Piece(1)], fault="no model")
