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
    """Yield a port for one of our servers, which no other process gets until the block ends.

    The system chooses the port, and a socket here stays bound to it without listening. So the system gives it to no
    program that asks for any free port or opens a connection, and to no `held_port` of another test. A server can
    listen on it only if it asks for this number with SO_REUSEADDR, as every server of Ray does. Our socket sets the
    flag only after it is bound, so it never shares a port that is already in use. This holds on Linux, where these
    tests run.
    """
    with socket.socket() as holder:
        holder.bind(("", 0))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        yield holder.getsockname()[1]


@contextlib.contextmanager
def started_head(*flags: str, environment: Mapping[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Yield a running `ray start --head` and its temporary folder; afterwards, kill every process that it started."""
    # Its own folder, or Ray would record this cluster as the machine's; a short path, because it has sockets in it.
    folder = tempfile.mkdtemp(prefix="catdog-")
    with held_port() as client_port:
        command = [
            RAY, "start", "--head", "--block", f"--temp-dir={folder}", "--min-worker-port=0", "--max-worker-port=0",
            # The default ports may be in use by the Ray that the other tests share.
            "--dashboard-agent-listen-port=0", f"--ray-client-server-port={client_port}", *flags,
        ]  # fmt: skip

        def start() -> subprocess.Popen[bytes]:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            return subprocess.Popen(command, env=environment, start_new_session=True, **quiet)

        head, starts = start(), 1
        try:
            deadline = time.monotonic() + 600
            while not Path(folder, "ray_current_cluster").exists():  # the last file that Ray writes when it starts
                if head.poll() is not None:  # Ray gives up after 30 seconds, which a busy machine may need
                    assert starts < 3, "Ray did not start"
                    head, starts = start(), starts + 1
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
    """Return the processes that Ray calls `title` in the cluster at `address`, found by their parent, the raylet."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if title not in " ".join(process.info["cmdline"] or []):
            continue  # checked first: looking up every parent takes five times as long, and some tests poll
        with contextlib.suppress(psutil.NoSuchProcess):
            raylet = process.parent()
            if raylet and any(address in word for word in raylet.cmdline()):
                found.append(process)
    return found


def kill_process(title: str, *, address: str) -> bool:
    """Send SIGKILL to the first process that `find_processes` finds; return whether there was one."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in find_processes(title, address=address):
            process.kill()
            return True
    return False
