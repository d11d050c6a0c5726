"""Join a Ray cluster or start one, for the length of a job; its failures become errors of one line."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator

from catdog.cluster.environment import prepare_environment, worker_environment
from catdog.cluster.failures import log_directory, root_cause
from catdog.cluster.resources import Resources, read_resources
from catdog.errors import FailureError


@contextlib.contextmanager
def connected(*, verbose: bool = False, dashboard: bool = True) -> Iterator[Resources]:
    """Join the cluster this process belongs to, or start one on this machine, for the length of the block.

    A Ray that is started has no `dashboard` unless the job needs its state API: Ray Train and Ray Tune do.

    Yields what the cluster has. A session that is already up is used and left as it is.
    Raises FailureError when a cluster is named (RAY_ADDRESS) but cannot be joined.
    """
    prepare_environment(verbose=verbose)
    import ray

    if ray.is_initialized():
        with _one_line_failures():
            yield read_resources()
        return
    try:
        ray.init(
            address=_address(),
            include_dashboard=None if dashboard else False,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            runtime_env={"env_vars": worker_environment()},
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise FailureError(f"cannot join or start a Ray cluster: {' '.join(str(error).split())}") from error
    try:
        with contextlib.nullcontext() if verbose else _silent_raylets(), _one_line_failures():
            yield read_resources()
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _silent_raylets() -> Iterator[None]:
    """Keep off the console what raylets say of lost processes and machines, up to twenty lines for each.

    Ray has no setting for it; the one line of losses.py and of Ray Train's callback stand in its place.
    """
    from ray._private import worker

    spoken = worker.print_to_stdstream
    worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        worker.print_to_stdstream = spoken


def _address() -> str | None:
    """Return what Ray is to join: None leaves the choice to it.

    Ray remembers a cluster of this machine even when that was killed, and would wait minutes for it to answer.
    """
    from ray._private.utils import read_ray_address

    if os.environ.get("RAY_ADDRESS"):
        return None
    host, _, port = (read_ray_address() or "").rpartition(":")
    if not host:
        return None
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except (OSError, ValueError):
        return "local"
    return None


@contextlib.contextmanager
def _one_line_failures() -> Iterator[None]:
    """Turn what Ray raises, which steps of a job have not caught, into a FailureError of one line."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise FailureError(f"the cluster failed: {root_cause(error)} (logs: {log_directory()})") from error


def quiet_datasets(*, verbose: bool) -> None:
    """Keep Ray Data's progress bars and log lines off the console; our own lines stand in their place."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = verbose
    context.print_on_execution_start = verbose
    context.execution_options.verbose_progress = verbose
    if not verbose:
        for name in ("ray.data", "ray.data.dataset"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # an error reaches the user once, as our one line
