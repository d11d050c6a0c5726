"""Join a Ray cluster or start one for the duration of a job, and turn its failures into errors of one line."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from catdog.cluster.environment import prepare_environment, prepare_local_ray, worker_environment
from catdog.cluster.failures import log_directory, root_cause
from catdog.cluster.messages import open_board
from catdog.cluster.resources import Resources, read_resources
from catdog.console import only_our_lines
from catdog.errors import FailureError, one_line

_CONNECT_SECONDS = 10.0
_VERSIONS = re.compile(r"Version mismatch: .*?Ray: (\S+)\s+Python: (\S+).*?Ray: (\S+)\s+Python: (\S+)", re.DOTALL)


@contextlib.contextmanager
def connected(*, verbose: bool = False, meanwhile: Callable[[], object] = lambda: None) -> Iterator[Resources]:
    """Join the cluster that this process belongs to, or start one on this machine, for the duration of the block.

    Yields the resources of the cluster. A session that is already connected is used and left as it is.
    `meanwhile` runs on a thread while Ray starts, which takes seconds in which this process has nothing to do. It ends
    before the block begins. With a session that is already connected, it is not called.
    Raises FailureError when a named cluster (RAY_ADDRESS) cannot be joined, or none can be started, and what
    `meanwhile` raises.
    """
    prepare_environment(verbose=verbose)
    import ray

    own = not ray.is_initialized()
    with contextlib.nullcontext() if verbose else only_our_lines():
        try:
            if own:
                with ThreadPoolExecutor(1) as thread:
                    prepared = thread.submit(meanwhile)
                    _connect(verbose=verbose)
                    prepared.result()
            with _one_line_failures():
                board = open_board()  # held until the block ends
                yield read_resources()
                del board
        finally:
            if own:
                ray.shutdown()


def _connect(*, verbose: bool) -> None:
    import ray

    address = _address()
    starts = address == "local"
    if starts:
        prepare_local_ray()
    in_main_thread = threading.current_thread() is threading.main_thread()
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            include_dashboard=False if starts else None,  # a Ray of one job does not need its processes
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            # Processes of a Ray that is started here inherit the variables. Ray can use the processes that it starts in
            # advance only without a runtime environment.
            runtime_env=None if starts else {"env_vars": worker_environment()},
        )
    except Exception as error:  # Ray raises anything from ConnectionError to a bare Exception here
        raise FailureError(connection_failure(error)) from error
    if in_main_thread:  # ray.init has set its own handlers, which exit silently or dump the native stack
        signal.signal(signal.SIGTERM, on_terminate)


def connection_failure(error: Exception) -> str:
    """Return one line that says why Ray could not be joined or started, and what to do."""
    text = one_line(error)
    if versions := _VERSIONS.search(str(error)):
        ray_there, python_there, ray_here, python_here = versions.groups()
        return (
            f"the cluster runs Ray {ray_there} on Python {python_there}, this program Ray {ray_here} on Python "
            f"{python_here}: use the same versions on both"
            + (f" (pip install 'ray=={ray_there}')" if ray_there != ray_here else "")
        )
    if "AF_UNIX" in text:
        remedy = "set RAY_TMPDIR to a folder with a shorter path"
    elif isinstance(error, OSError) and not isinstance(error, ConnectionError):
        remedy = "check that HOME and RAY_TMPDIR (by default /tmp) can be written"
    elif os.environ.get("RAY_ADDRESS"):
        remedy = "check RAY_ADDRESS"
    else:
        remedy = (
            "run the same command again; Ray waits 30 seconds for its processes, so close what keeps the machine busy"
        )
    return f"cannot join or start Ray: {text.rstrip('.')}; {remedy}"


def _address() -> str | None:
    """Return "local" if Ray must be started, or None if there is a cluster to join, which Ray finds in the same way.

    Ray remembers a cluster of this machine even after it was killed, and would wait minutes for an answer from it or
    from a named cluster. So this function asks first. Raises FailureError when a named cluster does not answer.
    """
    named = os.environ.get("RAY_ADDRESS", "")
    if named == "local":
        return named
    if named:
        host, port = _host_and_port(named)
        if host and not _answers(host, port, seconds=_CONNECT_SECONDS):
            raise FailureError(
                f"RAY_ADDRESS {named}: expected a Ray cluster, nothing answers at {host}:{port}; start it, or unset "
                "RAY_ADDRESS to run on this machine"
            )
        return None
    # The location given in the documentation of ray.init.
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    with contextlib.suppress(OSError):
        host, port = _host_and_port(Path(folder, "ray", "ray_current_cluster").read_text().strip())
        if not host or _answers(host, port, seconds=2.0):
            return None
    return "local"


def _host_and_port(address: str) -> tuple[str, int]:
    """Return host and port of host:port or scheme://host:port, or ("", 0) for anything else, such as auto."""
    found = re.fullmatch(r"(?:\w+://)?(?:\[([^\]]+)\]|([^:/\s]+)):(\d+)/?", address)
    return (found[1] or found[2], int(found[3])) if found else ("", 0)


def _answers(host: str, port: int, *, seconds: float) -> bool:
    """Return whether anything listens there; retry for `seconds`, for a cluster that is just starting."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=max(0.1, deadline - time.monotonic())).close()
            return True
        except (OSError, OverflowError):
            if time.monotonic() + 0.5 > deadline:
                return False
            time.sleep(0.5)


@contextlib.contextmanager
def _one_line_failures() -> Iterator[None]:
    """Turn a RayError that no step of the job has caught into a FailureError of one line."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise FailureError(f"the cluster failed: {root_cause(error)} (logs: {log_directory()})") from error
