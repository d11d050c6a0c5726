from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from catdog.cluster import actors
from catdog.cluster.actors import (
    MAX_TRIES,
    accepted,
    avoid_fusion,
    count_tries,
    map_in_actors,
    map_in_order,
    map_in_tasks,
    run_in_tasks,
    share,
)
from catdog.cluster.failures import report_failures, root_cause
from catdog.console import only_our_lines
from catdog.errors import FailureError, UsageError


class Dying:
    """An actor whose process dies on every block."""

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        os.kill(os.getpid(), signal.SIGKILL)
        return block


class DiesOfImport:
    """Kills the process that unpickles it, as an import that crashes does."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)",)


def older(size: int) -> None:
    """Take the arguments that an older Ray has."""


def newer(size: int, *, max_concurrent_calls_per_actor: int) -> None:
    """Take the arguments that a newer Ray has."""


def test_arguments_that_an_older_ray_lacks_are_left_out() -> None:
    assert accepted(older, max_concurrent_calls_per_actor=2) == {}
    assert accepted(newer, max_concurrent_calls_per_actor=2) == {"max_concurrent_calls_per_actor": 2}


def test_actors_and_tasks_never_book_the_same() -> None:
    assert [avoid_fusion(cpus, 0.5) for cpus in (1.0, 0.5)] == [1.0, 0.499]


def test_a_shared_object_reaches_another_process(ray_session: None) -> None:
    shared = share({"weights": [1, 2, 3]})
    assert ray.get(ray.remote(num_cpus=0)(lambda one: one.get()).remote(shared)) == {"weights": [1, 2, 3]}


def test_a_task_knows_how_often_its_process_died(ray_session: None, tmp_path: Path) -> None:
    @ray.remote(num_cpus=0, max_retries=-1)
    def work() -> list[int]:
        tries = [count_tries(block) for block in (7, 8)]
        if not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return tries

    assert ray.get(work.remote()) == [1, 1]


def test_a_task_that_always_dies_is_given_up(ray_session: None) -> None:
    @ray.remote(num_cpus=0)
    def work() -> None:
        for _ in range(MAX_TRIES + 1):
            count_tries(0)

    with pytest.raises(FailureError, match="the process that worked on one part died 10 times"):
        ray.get(work.remote())


def test_pieces_are_handed_to_tasks_a_few_at_a_time_and_lost_ones_run_again(ray_session: None) -> None:
    taken: list[int] = []

    def pieces() -> Iterator[int]:
        for piece in range(40):
            taken.append(piece)
            yield piece

    def work(piece: int, tries: int) -> tuple[int, int]:
        if piece == 3 and tries == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return 10 * piece, tries

    results = run_in_tasks(work, pieces(), num_cpus=1)
    first = next(results)
    assert len(taken) < 40
    found = dict([first, *results])
    assert found == {piece: (10 * piece, int(piece == 3)) for piece in range(40)}


def test_what_a_piece_raises_comes_as_itself(ray_session: None) -> None:
    def work(piece: int, tries: int) -> None:
        raise UsageError(f"piece {piece} after {tries} tries")

    with pytest.raises(UsageError, match=r"^piece 7 after 0 tries$"):
        list(run_in_tasks(work, [7], num_cpus=1))


def test_an_actor_that_always_dies_is_given_up_and_each_restart_is_told(
    ray_session: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(actors, "MAX_RESTARTS", 1)
    blocks = map_in_actors(ray.data.range(2), Dying, {}, name="trunk actor", actors=1, num_cpus=0.5, num_gpus=0)
    with only_our_lines(), report_failures(), pytest.raises(Exception, match="trunk actor") as caught:
        blocks.materialize()
    assert root_cause(caught.value) == "a trunk actor died 2 times"
    assert capsys.readouterr().out == "A trunk actor was lost; it restarts.\n"


def test_a_process_that_dies_of_its_imports_is_not_started_without_limit(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors, "MAX_RESTARTS", 1)
    monkeypatch.setattr(actors, "MAX_TRIES", 1)
    dies = DiesOfImport()
    tasks = map_in_tasks(ray.data.range(1), lambda block: (dies, block)[1], batch_format="numpy", num_cpus=0.5)
    with only_our_lines(), pytest.raises(Exception, match="one part") as caught:
        tasks.materialize()
    assert root_cause(caught.value) == "the process that worked on one part died 1 time"
    pool = map_in_actors(
        ray.data.range(1), Dying, {"dies": dies}, name="model actor", actors=1, num_cpus=0.5, num_gpus=0
    )
    with only_our_lines(), pytest.raises(Exception, match="model actor") as caught:
        pool.materialize()
    assert root_cause(caught.value) == "a model actor died 2 times"


def halved(number: int) -> int:
    if number % 2:
        raise UsageError(f"{number} is odd")
    return 100 // number


def test_tasks_answer_in_order_and_no_more_are_on_their_way_than_may_be(ray_session: None) -> None:
    drawn: list[int] = []

    def calls() -> Iterator[tuple[int]]:
        for number in (2, 4, 10, 20, 50):
            drawn.append(number)
            yield (number,)

    found = map_in_order(halved, calls(), num_cpus=0.5, at_once=2)
    assert next(found) == 50
    assert drawn == [2, 4]
    assert list(found) == [25, 10, 5, 2]


def test_an_error_of_ours_comes_from_a_task_as_it_was_raised(ray_session: None) -> None:
    with pytest.raises(UsageError, match=r"^3 is odd$"):
        list(map_in_order(halved, [(2,), (3,)], num_cpus=0.5))
    with pytest.raises(FailureError, match=r"^ZeroDivisionError: "):
        list(map_in_order(halved, [(0,)], num_cpus=0.5))
