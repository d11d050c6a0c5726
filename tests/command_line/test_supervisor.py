"""Jobs in the child process of a small parent, tested with real processes and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

JOB = """
import os, signal, sys, time
from functools import partial
from catdog.command_line.exit_codes import run
from catdog.command_line.supervisor import supervise
from catdog.errors import FailureError

def job():
    print("started", os.getpid(), flush=True)
    {body}

sys.exit(supervise(partial(run, job), quiet={quiet}))
"""
NATIVE = "[2026-11-24 03:07:29,149 C 9944 9944] gcs_rpc_client.h:179: Failed to connect to GCS within 60 seconds."


def start(body: str, *, quiet: bool = True) -> tuple[subprocess.Popen[str], int]:
    """Start a job that runs `body`; return its parent, and the process id of the job itself."""
    process = subprocess.Popen(
        [sys.executable, "-c", JOB.format(body=body, quiet=quiet)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert process.stdout
    return process, int(process.stdout.readline().split()[1])


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end; return the exit code and the text on stderr."""
    _, errors = process.communicate(timeout=600)
    return process.returncode, errors


@pytest.mark.parametrize("code", [0, 3])
def test_the_exit_code_is_the_job_s(code: int) -> None:
    process, _ = start(f"sys.exit({code})")
    assert end(process) == (code, "")


def test_native_chatter_is_dropped_from_stderr_and_all_else_passes() -> None:
    body = (
        "os.write(2, b'I0000 00:00:1.5 port.cc:153] oneDNN\\n');"
        "os.write(2, b'[2026-11-24 03:07:29,149 E 9944 9944] core_worker.cc:2465: noise\\n');"
        "os.write(2, b'/arrow/cpp/src/arrow/filesystem/s3fs.cc:2904: FinalizeS3 was not called\\n');"
        "os.write(2, b'SIGTERM handler is not set because current thread is not the main thread.\\n');"
        "os.write(2, b'mine, in two '); time.sleep(0.2); os.write(2, b'writes\\nand no end')"
    )
    assert end(start(body)[0]) == (0, "mine, in two writes\nand no end")
    _, everything = end(start(body, quiet=False)[0])
    assert everything.splitlines() == [
        "I0000 00:00:1.5 port.cc:153] oneDNN", "[2026-11-24 03:07:29,149 E 9944 9944] core_worker.cc:2465: noise",
        "/arrow/cpp/src/arrow/filesystem/s3fs.cc:2904: FinalizeS3 was not called",
        "SIGTERM handler is not set because current thread is not the main thread.",
        "mine, in two writes", "and no end",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
@pytest.mark.parametrize("reached", ["parent", "job", "both"])
def test_a_signal_ends_the_job_with_one_line(number: signal.Signals, code: int, line: str, reached: str) -> None:
    process, job = start("time.sleep(60)")
    # A terminal sends the signal to both, and so does `ray job stop`.
    for target in {"parent": [process.pid], "job": [job], "both": [job, process.pid]}[reached]:
        os.kill(target, number)
    assert end(process) == (code, f"catdog: {line}; run the same command to resume\n")
    assert not psutil.pid_exists(job)


def test_a_job_that_does_not_end_when_it_is_asked_to_ends_at_the_second_ctrl_c() -> None:
    body = "signal.signal(signal.SIGINT, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    process, job = start(body)
    assert process.stdout
    assert process.stdout.readline() == "deaf\n"
    os.kill(process.pid, signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.1)
    os.kill(process.pid, signal.SIGINT)
    assert end(process) == (130, "catdog: interrupted; run the same command to resume\n")
    assert not psutil.pid_exists(job)


def test_a_parent_that_is_killed_takes_the_job_along() -> None:
    process, job = start("time.sleep(60)")
    child = psutil.Process(job)
    process.kill()
    process.communicate(timeout=600)
    psutil.wait_procs([child], timeout=600)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (
            f"os.write(2, b'{NATIVE}\\n'); os._exit(1)",
            "the head of the Ray cluster is gone; start it again, then run the",
        ),
        (
            "os.write(2, b'[2026-11-24 03:07:29,149 C 1 1] x: Raylet died\\n'); os._exit(1)",
            "Ray's process on this node ",
        ),
        ("os._exit(1)", "the job ended without a message (exit code 1): Ray ended it; run the same command to resume"),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "the job was killed (SIGKILL), perhaps because memory ran out; run the same",
        ),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "the job was killed by SIGSEGV; run the same command to resume"),
    ],
)
def test_an_end_without_a_word_gets_a_line_and_exit_code_1(body: str, line: str) -> None:
    code, errors = end(start(body)[0])
    assert code == 1
    assert errors.startswith(f"catdog: {line}")
    assert errors.count("\n") == 1


def test_a_defect_keeps_its_traceback_and_gets_no_further_line() -> None:
    code, errors = end(start("1 / 0")[0])
    assert code == 1
    assert errors.startswith("Traceback")
    assert errors.endswith("ZeroDivisionError: division by zero\n")


def test_a_failure_is_the_job_s_one_line() -> None:
    assert end(start("raise FailureError('no photos')")[0]) == (1, "catdog: no photos\n")


def test_sigterm_is_known_where_native_code_replaces_the_exception() -> None:
    body = "exec('try: time.sleep(60)\\nexcept BaseException: raise KeyboardInterrupt from None')"
    process, _ = start(body)
    os.kill(process.pid, signal.SIGTERM)
    assert end(process) == (143, "catdog: terminated; run the same command to resume\n")
