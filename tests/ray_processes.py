"""Ray processes that tests start, find and kill."""

from __future__ import annotations

import contextlib
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


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """A port for a server of ours to listen on, which nobody else gets for the length of the block.

    The system itself chooses it, and it stays bound here without listening. So the system gives it to nobody, neither
    to a program that asks for any port nor to one that connects to somewhere, another test's `held_port` among them.
    Only who names this number and says SO_REUSEADDR may listen on it, as every server of Ray does. The flag is set
    after our own binding, which therefore shares the port with nobody. So it is on Linux, where these tests run.
    """
    with socket.socket() as holder:
        holder.bind(("", 0))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        yield holder.getsockname()[1]


@contextlib.contextmanager
def started_head(*flags: str, environment: Mapping[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A `ray start --head` that is up, and its temporary folder; in the end every process that it started is killed."""
    # Of its own, or Ray would remember this cluster as the machine's; short, because it has sockets in it.
    folder = tempfile.mkdtemp(prefix="catdog-")
    with held_port() as client_port:
        head = subprocess.Popen(
            [RAY, "start", "--head", "--block", f"--temp-dir={folder}", "--min-worker-port=0", "--max-worker-port=0",
             # Ray's own numbers for these may be taken by the Ray that the other tests share.
             "--dashboard-agent-listen-port=0", f"--ray-client-server-port={client_port}", *flags],
            env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 600
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
