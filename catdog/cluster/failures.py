"""Lost processes and nodes: the line that reports each, and the line that says why a job failed."""

from __future__ import annotations

import _thread
import contextlib
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

from catdog.cluster import messages
from catdog.console import say
from catdog.errors import RAYLET_GONE, FailureError

_EXCEPTION_LINE = re.compile(r"[\w.]*(Error|Exception|Exit|Interrupt)\b.*")
_OURS = re.compile(r"^catdog\.errors\.\w+: ")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LOOK_EVERY_SECONDS = 1.0
_ANSWER_SECONDS = 8.0  # limit for the board's answer: when memory is short, Ray may kill it repeatedly
_LAST_WORDS_SECONDS = 20.0  # for a slow cluster to report what is left: two answers of the board
_RAY_ENDS_SECONDS = 5.0  # for Ray to end a process that lost its node, or to fail the call it waits in
# DeathReason in what ray.nodes() returns.
_STOPPED, _PREEMPTED, _IDLE = 1, 3, 4
_had_a_job = threading.Event()  # set if this process ran a job before, with the same message board
_DEFAULT_LOGS = "/tmp/ray/session_latest/logs"  # the location in Ray's documentation


@contextlib.contextmanager
def report_failures() -> Iterator[None]:
    """Print each notice of the job's processes and each loss of a node as it comes, until the block ends.

    Ray must stay connected until then. Raises FailureError, only in the main thread, when this process's own node is
    lost and Ray has not ended the process after 5 s: the block would wait for work that nobody will do.
    """
    nodes, stop, gone, left = _Nodes(), threading.Event(), threading.Event(), threading.Event()
    if _had_a_job.is_set():  # otherwise the board is new and perhaps not up yet: do not wait for it
        messages.forget(messages.NOTICES)
    _had_a_job.set()
    may_interrupt = threading.current_thread() is threading.main_thread()

    def watch() -> None:
        ended, told = False, 0
        while not (ended or left.is_set()):
            ended = stop.is_set()  # after one last check
            wait, began = 0.0 if ended else _LOOK_EVERY_SECONDS, time.monotonic()
            news, notices = list[str](), list[str | None]()
            # A cluster that does not answer fails the job itself. If one call fails, the other's news is still printed.
            with contextlib.suppress(Exception):
                notices = messages.read(messages.NOTICES, start=told, wait_seconds=wait, answer_seconds=_ANSWER_SECONDS)
                told += len(notices)
            if left.is_set():  # Ray ends a process that calls it after the connection was closed
                return
            with contextlib.suppress(Exception):
                news = nodes.news()
            with contextlib.suppress(Exception):
                for line in [*news, *notices]:
                    if line:
                        say(line)
                if nodes.own_is_lost and may_interrupt and not gone.is_set() and not stop.wait(_RAY_ENDS_SECONDS):
                    gone.set()
                    _thread.interrupt_main()
            if not ended and time.monotonic() < began + wait / 2:  # nothing waited: the board may be gone, too
                stop.wait(wait)

    thread = threading.Thread(target=watch, name="failures", daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt:
        if gone.is_set():
            raise FailureError(RAYLET_GONE) from None
        raise
    finally:
        stop.set()
        with contextlib.suppress(Exception):
            messages.wake(messages.NOTICES)
        thread.join(_LAST_WORDS_SECONDS)
        left.set()


class _Nodes:
    """The lost nodes of the cluster, and which of them have not been reported yet."""

    def __init__(self) -> None:
        import ray

        # This process's own node counts as known: when it is lost, no work restarts elsewhere.
        self._own = ray.get_runtime_context().get_node_id()
        self._known = {node["NodeID"] for node in ray.nodes() if not node["Alive"]} | {self._own}
        self.own_is_lost = False

    def news(self) -> list[str]:
        """Return a line for each node that was lost since the last call."""
        import ray

        dead = [node for node in ray.nodes() if not node["Alive"]]
        self.own_is_lost = self._own in (node["NodeID"] for node in dead)
        lost = [node for node in dead if node["NodeID"] not in self._known]
        self._known.update(node["NodeID"] for node in lost)
        return [line for line in map(_loss_text, lost) if line]


def _loss_text(node: dict[str, Any]) -> str:
    """Return the line for a lost node, or "" for one that was stopped on purpose or for being idle."""
    name, reason = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})", node.get("DeathReason")
    if reason in (_STOPPED, _IDLE):
        return ""
    how = "preempted" if reason == _PREEMPTED else "lost"
    return f"Node {name} was {how}; its work restarts elsewhere."


def root_cause(error: BaseException) -> str:
    """Return the line of an exception from another process that says what happened."""
    failures = getattr(error, "worker_failures", None) or {}
    error = next(iter(failures.values()), error)
    error = getattr(error, "controller_failure", None) or error  # Ray Train's own text puts a heading before it
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    # Ray's text is a chain of tracebacks, the root cause first; each ends in a line "module.Class: message".
    causes = [line for line in lines if _EXCEPTION_LINE.match(line) and not line.startswith("ray.")]
    # A process that died leaves no traceback; Ray's text about it begins with the main point.
    plain = lines[:1]
    if lines and lines[0].startswith("ray::"):
        lost = [line.partition(": ")[2] for line in lines if line.startswith("ray.exceptions.")]
        plain = [text for text in lost if text] or lines[-1:]
    # The last CatdogError is complete: its text includes the error that it was raised from.
    ours = [line for line in causes if _OURS.match(line)]
    line = (ours[-1:] or causes or plain or [type(error).__name__])[0]
    # For a dead process, Ray appends a list of possible causes.
    line = line.partition(" Worker exit type:")[0]
    return _OURS.sub("", line)  # our own texts are written for the user


def log_directory() -> str:
    """Return where Ray keeps the logs of this session, on each node of the cluster."""
    import ray

    if not ray.is_initialized():
        return _DEFAULT_LOGS
    context = ray.init(ignore_reinit_error=True, configure_logging=False)  # the existing one
    return f"{context.address_info['session_dir']}/logs"
