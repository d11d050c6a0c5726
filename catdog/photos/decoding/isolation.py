"""Photos that kill the process which decodes them, or never end: each becomes an error of that photo alone.

At a task's first try photos are decoded in its own process, which ends itself where one takes too long. Ray tries again
a task whose process died: then the photos that were at work are decoded in processes of their own, later all of them,
so that the one to blame is known.
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
    """Yield what `decode` makes of each of `contents`, or its ImageError; those that are errors stay as they are.

    `seconds` is the most that one photo may take; `tries` tells how often this task was tried before: from the second
    try on each photo is decoded in a process of its own; with a `journal`, at the second try only those that were at
    work when a process of this machine died. Codes of what is found out so: crash, too-slow.
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
    """Which photos a process decodes just now, in a local file that outlasts it: a record for each thread."""

    def __init__(self, job: str) -> None:
        self._pattern = f"catdog-decoding-{hashlib.sha256(job.encode()).hexdigest()[:12]}-"
        self._folder = Path(tempfile.gettempdir())
        self._file = os.open(self._folder / f"{self._pattern}{os.getpid()}", os.O_RDWR | os.O_CREAT, 0o600)
        self._records, self._local = itertools.count(), threading.local()

    @contextlib.contextmanager
    def at_work_on(self, name: str) -> Iterator[None]:
        """Have it on record, for the length of the block, that this thread is at work on `name`."""
        if not hasattr(self._local, "place"):
            self._local.place = next(self._records) * _RECORD_BYTES
        os.pwrite(self._file, name.encode().ljust(_RECORD_BYTES, b"\0"), self._local.place)
        try:
            yield
        finally:
            os.pwrite(self._file, bytes(_RECORD_BYTES), self._local.place)

    def suspects(self) -> set[str]:
        """Return the names that processes of this job on this machine were at work on when they ended, or are."""
        found: set[str] = set()
        for path in self._folder.glob(f"{self._pattern}*"):
            with contextlib.suppress(OSError):
                found.update(name for name in path.read_bytes().decode().split("\0") if name)
        return found

    def close(self) -> None:
        """Give back the file that `at_work_on` writes to, which then may not be used any more."""
        os.close(self._file)

    def delete(self) -> None:
        """Delete the files of all processes of the job on this machine."""
        for path in self._folder.glob(f"{self._pattern}*"):
            path.unlink(missing_ok=True)


def decode_here(content: bytes, decode: Decode[T], seconds: float) -> T | ImageError:
    """Return what `decode` makes of `content`, or its ImageError; after `seconds` this process ends itself."""
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
    """Ends this process where a photo is decoded for too long; nothing softer stops a decoder that is in native code.

    One thread for all photos: to start one for each would cost as much as a tenth of the decoding.
    """

    def __init__(self) -> None:
        super().__init__(name="decode watchdog", daemon=True)
        self._ends: dict[int, float] = {}  # by thread

    def expect(self, seconds: float) -> None:
        """Give the calling thread so long until it calls `done`."""
        self._ends[threading.get_ident()] = time.monotonic() + seconds

    def done(self) -> None:
        """Take back what the calling thread expected."""
        self._ends.pop(threading.get_ident(), None)

    def run(self) -> None:
        """Look now and then; where native code lets no thread of Python run, faulthandler's own timer goes off."""
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
    """Return the watchdog of this process; a forked one has no threads."""
    del process
    watchdog = _Watchdog()
    watchdog.start()
    return watchdog


def decode_apart(content: bytes, decode: Decode[T], seconds: float) -> T | ImageError:
    """Return what `decode_here` does, decoded in a process that may die of it: at two tries, then it is an error."""
    import ray

    # A process of its own each time: a photo that takes too long may still be decoded in a thread of it.
    task = ray.remote(num_cpus=0, max_retries=1, max_calls=1)(_decode_timed)
    # One after the other: together photos might run out of the memory that one by itself has.
    reference = task.remote(content, decode, seconds)
    done, _ = ray.wait([reference], timeout=2 * (seconds + _START_SECONDS))
    if not done:  # in native code that lets no other thread of Python run
        ray.cancel(reference, force=True)
        return _too_slow(seconds)
    try:
        found: T | ImageError = ray.get(reference)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        why = "ran out of memory" if isinstance(error, ray.exceptions.OutOfMemoryError) else "died"
        return ImageError("crash", f"the process that decoded it {why}, at each of 2 tries")
    return found


def _decode_timed(content: bytes, decode: Decode[Any], seconds: float) -> Any:
    """Return what `decode` makes of `content`, or that it took more than `seconds`."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(_decoded(content, decode)), daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else _too_slow(seconds)


def _too_slow(seconds: float) -> ImageError:
    return ImageError("too-slow", f"decoding it took more than {seconds:g} s")
