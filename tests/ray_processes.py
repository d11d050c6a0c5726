"""Ray processes that tests start, find and kill."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

RAY = str(Path(sys.executable).parent / "ray")


def free_port() -> int:
    """A port that nobody gets by chance: systems choose those that they hand out from 32768 on."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def started_head(*flags: str, environment: Mapping[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A `ray start --head` that is up, and its temporary folder; in the end every process that it started is killed."""
    # Of its own, or Ray would remember this cluster as the machine's; short, because it has sockets in it.
    folder = tempfile.mkdtemp(prefix="catdog-")
    head = subprocess.Popen(
        [RAY, "start", "--head", "--block", f"--temp-dir={folder}", "--min-worker-port=0", "--max-worker-port=0",
         # Ray's own numbers for these may be taken by the Ray that the other tests share.
         "--dashboard-agent-listen-port=0", f"--ray-client-server-port={free_port()}", *flags],
        env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        while not Path(folder, "ray_current_cluster").exists():  # the last that Ray writes when it starts
            assert head.poll() is None
            assert time.monotonic() < deadline, "Ray did not start"
            time.sleep(0.1)
        yield head, Path(folder)
    finally:
        for process in psutil.process_iter(["cmdline"]):
            if folder in " ".join(process.info["cmdline"] or []):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def find_processes(title: str, *, address: str) -> list[psutil.Process]:
    """The processes that Ray calls `title`, of the cluster at `address` alone; a parent is the raylet of its node."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if title not in " ".join(process.info["cmdline"] or []):
            continue  # first: to look up every process's parent takes five times as long, and there are tests that poll
        with contextlib.suppress(psutil.NoSuchProcess):
            raylet = process.parent()
            if raylet and any(address in word for word in raylet.cmdline()):
                found.append(process)
    return found


def kill_process(title: str, *, address: str) -> bool:
    """kill -9 the first process that `find_processes` finds; tell whether there was one."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in find_processes(title, address=address):
            process.kill()
            return True
    return False
