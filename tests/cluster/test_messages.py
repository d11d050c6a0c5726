import threading
import time

import pytest
import ray
from ray_processes import find_processes

from catdog.cluster import messages

pytestmark = pytest.mark.usefixtures("ray_session")


def test_a_reader_gets_what_another_process_posts_as_soon_as_it_does() -> None:
    topic = "test of waiting"

    @ray.remote(num_cpus=0)
    def tell() -> None:
        messages.post(topic, "first")
        messages.post(topic, {"second": 2})

    found: list[object] = []
    reader = threading.Thread(target=lambda: found.extend(messages.read(topic, start=1, wait_seconds=60)))
    reader.start()
    ray.get(tell.remote())
    reader.join(30)
    assert found == [{"second": 2}]
    assert messages.read(topic) == ["first", {"second": 2}]
    messages.forget(topic)
    assert messages.read(topic) == []


def test_a_reader_waits_no_longer_than_it_said() -> None:
    start = time.monotonic()
    assert messages.read("test of silence", wait_seconds=0.2) == []
    assert time.monotonic() - start >= 0.2


def test_counters_count_over_all_processes() -> None:
    @ray.remote(num_cpus=0)
    def call() -> int:
        return messages.count("test of counting")

    assert sorted(ray.get([call.remote() for _ in range(3)])) == [1, 2, 3]


def test_what_is_only_looked_at_is_not_waited_for() -> None:
    (board,) = find_processes("ray::_MessageBoard", address=ray.get_runtime_context().gcs_address)
    messages.post("test of looking", "the board answers")
    board.suspend()
    try:
        assert messages.shown(["photos"]) == []
    finally:
        board.resume()
    assert messages.read("test of looking") == ["the board answers"]
