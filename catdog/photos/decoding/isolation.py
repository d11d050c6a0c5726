"""Isolation of photos that kill the process that decodes them, or never end: each becomes an error of that photo alone.

On a task's first attempt, photos are decoded in its own process, which exits if one of them takes too long. Ray retries
a task whose process died. The second attempt uses a separate process for each photo that was being decoded at that
time, later attempts for all photos. This identifies the photo to blame.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import hashlib
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from catdog.errors import ImageError

_TICK_SECONDS = 0.2
_RECORD_BYTES = 128
_START_SECONDS = 60.0  # for the process of one photo to start, on a busy node
_NOWHERE = open(os.devnull, "w")  # noqa: SIM115, PTH123 - must stay open: the watchdog writes to it

T = TypeVar("T")
Decode = Callable[[bytes], T]


def decode_each(
    contents: Iterable[bytes | ImageError],
    decode: Decode[T],
    *,
    seconds: float,
    tries: int,
    journal: Journal | None = None,
) -> Iterator[T | ImageError]:
    """Yield the result of `decode` for each of `contents`, or its ImageError. Errors in `contents` are passed through.

    `seconds` is the time limit for one photo, `tries` how often this task was attempted before. From the second attempt
    on, each photo is decoded in its own process. With a `journal`, the second attempt does so only for photos that were
    being decoded when a process on this machine died. The errors found in this way have the codes crash and too-slow.
    """
    suspects = journal.suspects() if journal and tries == 1 else set()
    for number, content in enumerate(contents):
        name = str(number)
        if isinstance(content, ImageError):
            yield content
        elif tries > 1 or (tries and not journal) or name in suspects:
            yield decode_apart(content, decode, seconds)
        else:
            with journal.at_work_on(name) if journal else contextlib.nullcontext():
                found = decode_here(content, decode, seconds)
            yield found


class Journal:
    """A local file that records which photos a process is decoding, one per thread, and that outlives the process."""

    def __init__(self, job: str) -> None:
        self._pattern = f"catdog-decoding-{hashlib.sha256(job.encode()).hexdigest()[:12]}-"
        self._folder = Path(tempfile.gettempdir())
        self._file = os.open(self._folder / f"{self._pattern}{os.getpid()}", os.O_RDWR | os.O_CREAT, 0o600)
        self._records, self._local = itertools.count(), threading.local()

    @contextlib.contextmanager
    def at_work_on(self, name: str) -> Iterator[None]:
        """Record, for the duration of the block, that this thread is decoding `name`."""
        if not hasattr(self._local, "place"):
            self._local.place = next(self._records) * _RECORD_BYTES
        os.pwrite(self._file, name.encode().ljust(_RECORD_BYTES, b"\0"), self._local.place)
        try:
            yield
        finally:
            os.pwrite(self._file, bytes(_RECORD_BYTES), self._local.place)

    def suspects(self) -> set[str]:
        """Return the names that processes of this job on this machine are decoding, or were when they ended."""
        found: set[str] = set()
        for path in self._folder.glob(f"{self._pattern}*"):
            with contextlib.suppress(OSError):
                found.update(name for name in path.read_bytes().decode().split("\0") if name)
        return found

    def close(self) -> None:
        """Close the file that `at_work_on` writes to, which must not be called afterwards."""
        os.close(self._file)

    def delete(self) -> None:
        """Delete the files of all processes of the job on this machine."""
        for path in self._folder.glob(f"{self._pattern}*"):
            path.unlink(missing_ok=True)


def decode_here(content: bytes, decode: Decode[T], seconds: float) -> T | ImageError:
    """Return the result of `decode` for `content`, or its ImageError; this process exits after `seconds`."""
    watchdog = _watchdog(os.getpid())
    watchdog.expect(seconds)
    try:
        return _decoded(content, decode)
    finally:
        watchdog.done()


def _decoded(content: bytes, decode: Decode[T]) -> T | ImageError:
    try:
        return decode(content)
    except ImageError as error:
        return error
    except MemoryError:
        return ImageError("too-large", "the pixels do not fit into memory")


class _Watchdog(threading.Thread):
    """Ends this process if decoding a photo takes too long; nothing softer stops a decoder in native code.

    One thread serves all photos: starting one for each would cost as much as a tenth of the decoding.
    """

    def __init__(self) -> None:
        super().__init__(name="decode watchdog", daemon=True)
        self._ends: dict[int, float] = {}  # by thread

    def expect(self, seconds: float) -> None:
        """Give the calling thread `seconds` to call `done`."""
        self._ends[threading.get_ident()] = time.monotonic() + seconds

    def done(self) -> None:
        """Cancel the deadline of the calling thread."""
        self._ends.pop(threading.get_ident(), None)

    def run(self) -> None:
        """Check the deadlines periodically. If native code blocks Python's threads, faulthandler's own timer fires."""
        while True:
            time.sleep(_TICK_SECONDS)
            ends = min(list(self._ends.values()), default=None)
            if ends is None:
                faulthandler.cancel_dump_traceback_later()
            elif time.monotonic() > ends:
                os._exit(1)
            else:
                left = ends - time.monotonic() + 10 * _TICK_SECONDS
                faulthandler.dump_traceback_later(left, exit=True, file=_NOWHERE)


@functools.lru_cache(maxsize=1)
def _watchdog(process: int) -> _Watchdog:
    """Return the watchdog of this process, cached by its id because a forked process has no threads."""
    del process
    watchdog = _Watchdog()
    watchdog.start()
    return watchdog


def decode_apart(content: bytes, decode: Decode[T], seconds: float) -> T | ImageError:
    """Return what `decode_here` returns, from a separate process; an error if that dies at both of two attempts."""
    import ray

    # A new process each time: a thread of the old one may still be decoding a photo that took too long.
    task = ray.remote(num_cpus=0, max_retries=1, max_calls=1)(_decode_timed)
    # One after the other: several photos at the same time might run out of memory that is enough for one.
    reference = task.remote(content, decode, seconds)
    done, _ = ray.wait([reference], timeout=2 * (seconds + _START_SECONDS))
    if not done:  # native code blocks the other Python threads
        ray.cancel(reference, force=True)
        return _too_slow(seconds)
    try:
        found: T | ImageError = ray.get(reference)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        why = "ran out of memory" if isinstance(error, ray.exceptions.OutOfMemoryError) else "died"
        return ImageError("crash", f"the process that decoded it {why} in both attempts")
    return found


def _decode_timed(content: bytes, decode: Decode[Any], seconds: float) -> Any:
    """Return the result of `decode` for `content`, or the too-slow error if it takes more than `seconds`."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(_decoded(content, decode)), daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else _too_slow(seconds)


def _too_slow(seconds: float) -> ImageError:
    return ImageError("too-slow", f"decoding it took more than {seconds:g} s")
