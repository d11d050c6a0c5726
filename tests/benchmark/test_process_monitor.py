import pytest

from catdog.benchmark.process_monitor import watch_program


def test_a_program_is_watched_to_its_end_and_its_failure_is_told() -> None:
    looks: list[float] = []
    seen = watch_program(["bash", "-c", "echo one; sleep 0.5; echo two"], poll=looks.append)
    assert [line for _, line in seen.lines] == ["one", "two"]
    assert seen.lines[1][0] - seen.lines[0][0] > 0.4
    assert seen.seconds >= seen.lines[1][0]
    assert looks
    with pytest.raises(RuntimeError, match=r"ended with 3:\nbroken"):
        watch_program(["bash", "-c", "echo broken >&2; exit 3"])
