"""A small parent process that outlives the job: it keeps native log lines off stderr and always prints a last line.

The native code of Ray ends a process that loses its cluster before Python can print anything, and it writes to stderr
before it reads any of its settings. So the job runs in a child process. The parent, which does not load Ray, filters
the child's stderr, forwards SIGINT and SIGTERM, and reports the end of a job that could not report it itself.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from catdog.console import prepare_streams
from catdog.errors import RAYLET_GONE, Terminated

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOOK_SECONDS = 0.1
# An exception can be lost when native code calls Python: so the job gets the signal twice, and is then killed.
_ASK_AGAIN_SECONDS, _KILL_SECONDS = 20.0, 40.0
_stopped = -math.inf  # when the job was asked to end
_LAST_WORDS_SECONDS = 1.0  # to read on after the child's end: Ray's processes may hold its stderr open
_NATIVE = re.compile(
    rb"\[\d{4}-\d\d-\d\d .*? [DIWEFC] \d+ \d+\] |[IWEF]\d{4} |WARNING: All log messages before absl|"
    rb"/\S*arrow/\S+\.cc:\d+: |\*\*\* SIG|PC: @|    @ +0x|\[failure_signal_handler|SIGTERM handler is not set"
)


def supervise(job: Callable[[], int], *, quiet: bool) -> int:
    """Run `job` in a child process and return its exit code; on a system without fork, run it in this process.

    `quiet` drops the log lines of native libraries from its stderr. SIGINT and SIGTERM reach the job as
    KeyboardInterrupt and Terminated. The job gets the signal again after 20 s and is killed after 40 s. Another SIGINT,
    more than a second after the first signal, kills it immediately.
    """
    if not hasattr(os, "fork"):
        return job()
    prepare_streams()
    sys.stdout.flush()
    sys.stderr.flush()
    errors, lifeline, verdict = os.pipe(), os.pipe(), os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    child = os.fork()
    if child:
        for _, inlet in (errors, verdict):
            os.close(inlet)
        os.close(lifeline[0])
        return _Parent(child, quiet=quiet, errors=errors[0], verdict=verdict[0]).wait()
    os.dup2(errors[1], 2)
    encoding = sys.stderr.encoding
    sys.stderr = open(2, "w", closefd=False, encoding=encoding, errors="backslashreplace", buffering=1)  # noqa: SIM115
    for number in (*errors, lifeline[1], verdict[0]):
        os.close(number)
    _die_with_parent(lifeline[0])
    for number in _SIGNALS:
        signal.signal(number, _stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    try:
        code = job()
    finally:
        for number in _SIGNALS:  # it has ended; Python would restore the default handlers, which kill
            signal.signal(number, signal.SIG_IGN)
        os.write(verdict[1], b"said")  # the end of the job has been reported to the user
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a console that is gone does not end the job
            stream.flush()
    # Skip the shutdown of the interpreter: a native thread that needs it then would crash a job that is done.
    os._exit(code)


def _stop(number: int, frame: FrameType | None) -> None:
    """Raise the signal's exception in the job; ignore a repeat within 10 s, as terminal and parent both send it."""
    global _stopped
    now = time.monotonic()
    if now - _stopped < _ASK_AGAIN_SECONDS / 2:
        return
    _stopped = now
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    Terminated.came = True
    raise Terminated


def _die_with_parent(lifeline: int) -> None:
    """Kill this process when its parent is gone, however the parent died: nobody would report its end."""

    def watch() -> None:
        os.read(lifeline, 1)  # returns when the other end is closed
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


class _Parent:
    """The parent's side: the child's stderr, signals, and the last line."""

    def __init__(self, child: int, *, quiet: bool, errors: int, verdict: int) -> None:
        self._child, self._quiet, self._errors, self._verdict = child, quiet, errors, verdict
        self._asked: tuple[int, float] | None = None  # the first signal, and when it came
        self._reminders = [(_ASK_AGAIN_SECONDS, 0), (_KILL_SECONDS, signal.SIGKILL)]  # 0: the same signal
        self._rest = b""  # an incomplete last line of the child's stderr
        self._native = b""  # the last line that a native library wrote
        self._open = True

    def wait(self) -> int:
        """Wait for the child and return the exit code for this process."""
        for number in _SIGNALS:
            signal.signal(number, self._forward)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        status = None
        while status is None:
            self._copy_errors(_LOOK_SECONDS)
            self._remind()
            found, ended = os.waitpid(self._child, os.WNOHANG)
            status = ended if found else None
        until = time.monotonic() + _LAST_WORDS_SECONDS
        while self._open and time.monotonic() < until and self._copy_errors(0):
            pass
        self._write(self._rest)
        code = os.waitstatus_to_exitcode(status)
        if os.read(self._verdict, 4):
            return code
        code, text = _last_words(code, asked=self._asked[0] if self._asked else 0, native=self._native)
        self._write(f"catdog: {text}\n".encode())
        return code

    def _forward(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._asked and number == signal.SIGINT and now - self._asked[1] > 1.0:
            number = signal.SIGKILL  # the user does not want to wait any longer
        self._asked = self._asked or (number, now)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child, number)

    def _remind(self) -> None:
        if self._asked and self._reminders and time.monotonic() - self._asked[1] > self._reminders[0][0]:
            os.kill(self._child, self._reminders.pop(0)[1] or self._asked[0])

    def _copy_errors(self, seconds: float) -> bool:
        """Copy what the child wrote to stderr, waiting up to `seconds`, and return whether there was anything."""
        if not self._open:
            time.sleep(seconds)
            return False
        if not select.select([self._errors], [], [], seconds)[0]:
            return False
        content = os.read(self._errors, 65536)
        self._open = bool(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in lines:
            if _NATIVE.match(line):
                self._native = line
                if self._quiet:
                    continue
            self._write(line + b"\n")
        return self._open

    def _write(self, content: bytes) -> None:
        with contextlib.suppress(OSError):  # a console that is gone does not end the job
            while content:
                content = content[os.write(2, content) :]


def _last_words(code: int, *, asked: int, native: bytes) -> tuple[int, str]:
    """Return the exit code and the last line for a child that ended without reporting its end.

    `code` is the child's exit code, negative for a signal. `asked` is the signal that was sent to it, or 0, and
    `native` is the last line of a native library.
    """
    if asked == signal.SIGINT:
        return 130, "interrupted; run the same command to resume"
    if asked == signal.SIGTERM:
        return 143, "terminated; run the same command to resume"
    if code == -signal.SIGKILL:
        return 1, "the job was killed (SIGKILL), perhaps because memory ran out; run the same command to resume"
    if code < 0:
        return 1, f"the job was killed by {signal.Signals(-code).name}; run the same command to resume"
    if b"GCS" in native or b"gcs" in native:
        return 1, "the head of the Ray cluster is gone; start it again, then run the same command to resume"
    if b"aylet" in native:
        return 1, RAYLET_GONE
    return 1, f"the job ended without a message (exit code {code}): Ray ended it; run the same command to resume"
