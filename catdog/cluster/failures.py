"""Lost processes and nodes: the line that tells of each, and the line that says why a job failed."""

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
_ANSWER_SECONDS = 8.0  # for a board that a short memory ends again and again: nobody waits for it for good
_LAST_WORDS_SECONDS = 20.0  # in which a slow cluster tells what is left to say: two answers of the board
_RAY_ENDS_SECONDS = 5.0  # in which Ray ends a process that has lost its node, or fails what it waits for
# DeathReason in what ray.nodes() returns.
_STOPPED, _PREEMPTED, _IDLE = 1, 3, 4
_had_a_job = threading.Event()  # this process, with the same message board
_DEFAULT_LOGS = "/tmp/ray/session_latest/logs"  # where Ray's documentation finds them


@contextlib.contextmanager
def report_failures() -> Iterator[None]:
    """Say each notice of the job's processes, and each loss of a node, as it comes, for the length of the block.

    Ray must be connected until the block ends. Raises FailureError, in the main thread, where the block waits for work
    that nobody will do: this process's own node is lost, and Ray has not ended the process.
    """
    nodes, stop, gone, left = _Nodes(), threading.Event(), threading.Event(), threading.Event()
    if _had_a_job.is_set():  # else the board is new, and perhaps not up yet: nobody should wait for it
        messages.forget(messages.NOTICES)
    _had_a_job.set()
    may_interrupt = threading.current_thread() is threading.main_thread()

    def watch() -> None:
        ended, told = False, 0
        while not ended:
            ended = stop.is_set()  # and a last look then
            wait, began = 0.0 if ended else _LOOK_EVERY_SECONDS, time.monotonic()
            news, notices = list[str](), list[str | None]()
            # A cluster that does not answer fails the job itself; what one call tells is said where the other fails.
            with contextlib.suppress(Exception):
                notices = messages.read(messages.NOTICES, start=told, wait_seconds=wait, answer_seconds=_ANSWER_SECONDS)
                told += len(notices)
            if left.is_set():  # Ray ends a process that calls it when the connection is closed
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
            if not ended and time.monotonic() < began + wait / 2:  # nobody waited for news: the board is gone, too
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
    """Which nodes of the cluster were lost, and which of them is news."""

    def __init__(self) -> None:
        import ray

        # Nothing restarts elsewhere when this process's own node is lost.
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
    """Return the line for a lost node; none for one that was stopped when it had nothing to do."""
    name, reason = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})", node.get("DeathReason")
    if reason in (_STOPPED, _IDLE):
        return ""
    how = "preempted" if reason == _PREEMPTED else "lost"
    return f"Node {name} was {how}; its work restarts elsewhere."


def root_cause(error: BaseException) -> str:
    """Return the line that says what happened in an exception that Ray brought from another process."""
    failures = getattr(error, "worker_failures", None) or {}
    error = next(iter(failures.values()), error)
    error = getattr(error, "controller_failure", None) or error  # Ray Train's own text has it behind a heading
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    # Ray's text is a chain of tracebacks, the first cause first; each ends in a line "module.Class: message".
    causes = [line for line in lines if _EXCEPTION_LINE.match(line) and not line.startswith("ray.")]
    # A process that died leaves no traceback: what Ray says of it begins with the main thing.
    plain = lines[:1]
    if lines and lines[0].startswith("ray::"):
        lost = [line.partition(": ")[2] for line in lines if line.startswith("ray.exceptions.")]
        plain = [text for text in lost if text] or lines[-1:]
    # Of ours the last one is whole: what it was raised from is in it.
    ours = [line for line in causes if _OURS.match(line)]
    line = (ours[-1:] or causes or plain or [type(error).__name__])[0]
    # Of a dead process Ray goes on to list what may have been the cause.
    line = line.partition(" Worker exit type:")[0]
    return _OURS.sub("", line)  # our own words are for the user as they are


def log_directory() -> str:
    """Return where Ray keeps the logs of this session, on each node of the cluster."""
    import ray

    if not ray.is_initialized():
        return _DEFAULT_LOGS
    context = ray.init(ignore_reinit_error=True, configure_logging=False)  # the one there is
    return f"{context.address_info['session_dir']}/logs"
