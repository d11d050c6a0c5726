"""Jobs that are asked to end, and jobs whose cluster dies: each prints one line, and the exit code tells them apart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

# A job that is connected and running, with Ray's own settings except for the timeout for a lost head.
PROGRAM = """
import sys, time
from functools import partial
from catdog.cluster.connection import connected
from catdog.cluster.environment import prepare_environment
from catdog.cluster.failures import report_failures
from catdog.command_line.exit_codes import run
from catdog.command_line.supervisor import supervise
from catdog.console import say
from catdog.errors import FailureError

def meanwhile():
    say("Ray starts")
    if "--fail" in sys.argv:
        raise FailureError("the disk is full")

def job():
    prepare_environment(verbose=False)
    with connected(meanwhile=meanwhile), report_failures():
        import ray
        say("at work")
        ray.get(ray.remote(num_cpus=0)(lambda: time.sleep(600)).remote())

sys.exit(supervise(partial(run, job), quiet=True))
"""


def start_job(address: str, *arguments: str) -> subprocess.Popen[str]:
    """Start the program on the cluster at `address`, and return its process once Ray starts."""
    job = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={
            **os.environ, "PYTHONPATH": str(Path.cwd()), "RAY_ADDRESS": address,
            "RAY_gcs_rpc_server_reconnect_timeout_s": "3",
        },
    )  # fmt: skip
    assert job.stdout
    assert job.stdout.readline() == "Ray starts\n", job.communicate()
    return job


def job_at_work(address: str) -> subprocess.Popen[str]:
    """Start the program on the cluster at `address`, and return its process once it is at work."""
    job = start_job(address)
    assert job.stdout
    assert job.stdout.readline() == "at work\n", job.communicate()
    return job


def end(job: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        output, errors = job.communicate(timeout=600)
    finally:
        job.kill()  # leave no hung job behind
    return job.returncode, output, errors


@pytest.mark.parametrize(("number", "code", "line"), [(2, 130, "interrupted"), (15, 143, "terminated")])
def test_a_job_at_work_ends_with_one_line_and_leaves_no_process(
    ray_session: None, number: int, code: int, line: str
) -> None:
    import ray

    job = job_at_work(ray.get_runtime_context().gcs_address)
    children = psutil.Process(job.pid).children(recursive=True)
    job.send_signal(number)
    assert end(job) == (code, "", f"catdog: {line}; run the same command to resume\n")
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(("name", "word"), [("raylet", "raylet"), ("gcs_server", "head of the Ray cluster")])
def test_a_job_whose_ray_dies_says_so(name: str, word: str) -> None:
    job = job_at_work("local")
    (process,) = (child for child in psutil.Process(job.pid).children(recursive=True) if child.name() == name)
    process.send_signal(signal.SIGKILL)
    code, output, errors = end(job)
    assert (code, output) == (1, ""), errors
    # If the job is quick enough, it reports the loss before Ray ends it. Otherwise its parent reports it.
    assert errors.startswith("catdog: ")
    assert word in errors or "the cluster failed: " in errors
    assert errors.count("\n") == 1


def test_a_failure_while_ray_starts_ends_the_job(ray_session: None) -> None:
    import ray

    job = start_job(ray.get_runtime_context().gcs_address, "--fail")
    assert end(job) == (1, "", "catdog: the disk is full\n")
