import threading
import time
from pathlib import Path

import pytest
from ray_processes import find_processes

from catdog.cluster import messages
from catdog.cluster.failures import _loss_text, log_directory, report_failures, root_cause
from catdog.errors import FailureError


def test_the_root_cause_is_the_first_exception_that_is_not_ray_s() -> None:
    text = (
        "ray::Worker.run() (pid=1)\n  File 'x.py', line 3\nValueError: bad shape\n\n"
        "The above exception was the direct cause\nray.exceptions.UserCodeException: UDF failed\nTo change retry"
    )
    assert root_cause(RuntimeError(text)) == "ValueError: bad shape"
    chain = (
        "ray::read() (pid=1)\nOSError: curlCode: 7\n\nThe above exception was the direct cause\n"
        "catdog.errors.FailureError: cannot reach s3://b for 60 s: curlCode: 7; run the same command to resume\n\n"
        "ray.exceptions.UserCodeException: UDF failed"
    )
    assert root_cause(RuntimeError(chain)).startswith("cannot reach s3://b for 60 s: curlCode: 7; run the same")
    coloured = "\x1b[36mray::read()\x1b[39m (pid=1, ip=10.0.0.1)\n  File 'x.py', line 3\nNo module named catdog.new"
    assert root_cause(RuntimeError(coloured)) == "No module named catdog.new"
    lost = "ray::read() (pid=1)\nray.exceptions.OwnerDiedError: The object's owner has exited.\nOwner worker ID: 02"
    assert root_cause(RuntimeError(lost)) == "The object's owner has exited."
    assert root_cause(RuntimeError("plain words")) == "plain words"
    assert root_cause(RuntimeError()) == "RuntimeError"


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        (FileNotFoundError(2, "No such file or directory", "/run"), "[Errno 2] No such file or directory: '/run'"),
        (FailureError("no room in /run"), "no room in /run"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_a_failure_of_ray_train_s_controller_is_named_and_not_its_heading(failure: Exception, line: str) -> None:
    from ray.train import ControllerError

    assert root_cause(ControllerError(failure)) == line


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        (0, "Node a (10.0.0.1) was lost; its work restarts elsewhere."),
        (1, ""),  # stopped on purpose
        (2, "Node a (10.0.0.1) was lost; its work restarts elsewhere."),
        (3, "Node a (10.0.0.1) was preempted; its work restarts elsewhere."),
        (4, ""),  # it was idle
    ],
)
def test_the_line_for_a_lost_node_says_why(reason: int, line: str) -> None:
    node = {"NodeManagerHostname": "a", "NodeManagerAddress": "10.0.0.1", "DeathReason": reason}
    assert _loss_text(node) == line


def test_a_notice_of_any_process_is_said_once(ray_session: None, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("A trunk actor was lost; it restarts.", "A model actor was lost; it restarts."):
        with report_failures():
            messages.post(messages.NOTICES, line)
        assert capsys.readouterr().out == f"{line}\n"  # and nothing from the previous job


def test_a_board_that_does_not_answer_holds_up_no_end_and_nobody_calls_ray_after_it(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    # Ray silently ends a process that calls it after the connection is closed, as a leftover thread would.
    monkeypatch.setattr("catdog.cluster.failures._ANSWER_SECONDS", 0.5)
    (board,) = find_processes("ray::_MessageBoard", address=ray.get_runtime_context().gcs_address)
    messages.post("test of an end", "the board answers")
    try:
        with report_failures():
            board.suspend()
            start = time.monotonic()
        assert time.monotonic() - start < 10
        assert "failures" not in [thread.name for thread in threading.enumerate()]
    finally:
        board.resume()
    assert messages.read("test of an end") == ["the board answers"]


def test_the_logs_are_in_the_folder_of_the_session(ray_session: None) -> None:
    assert any(Path(log_directory()).glob("raylet*"))


def test_work_that_waits_on_a_lost_node_of_one_s_own_ends_in_one_line(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    # Ray ends a process whose raylet died, but only once it notices. Until then, only the head knows.
    nodes = [{**node, "Alive": False} for node in ray.nodes()]
    never = ray.remote(num_cpus=0, num_gpus=1)(lambda: None).remote()

    def wait() -> None:
        with report_failures():
            monkeypatch.setattr(ray, "nodes", lambda: nodes)
            ray.get(never)

    with pytest.raises(FailureError, match=r"Ray's process on this node \(the raylet\) is gone"):
        wait()
    ray.cancel(never)
