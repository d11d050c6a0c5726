"""What a person reads while a job runs: progress with rate and ETA, epoch lines, plain tables."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TextIO

Progress = Callable[[int, int], None]  # shows how many are done, of how many

_LINE_EVERY_SECONDS = 10.0  # where the output is a log, not a terminal


class ProgressLine:
    """One long step: done, total, rate and ETA, redrawn in place on a terminal, a line now and then in a log.

    An instance is a callable of (done, total). Work that was done before the first call does not count into
    the rate, nor does the start of processes before the first piece of work into the ETA.
    """

    def __init__(self, title: str, unit: str, *, stream: TextIO | None = None) -> None:
        self._title, self._unit = title, unit
        self._stream = stream or sys.stdout
        self._start = self._shown = time.monotonic()
        self._first: int | None = None
        self._moved: tuple[float, int] | None = None
        self._ended = False

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` are finished."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._start = done, now
        last = done >= total
        if self._moved is None and done > self._first:
            self._moved = (now, done)
        every = 0.2 if self._stream.isatty() else _LINE_EVERY_SECONDS
        if self._ended or (not last and now - self._shown < every):
            return
        self._shown, self._ended = now, last
        since, base = (self._start, self._first) if last else self._moved or (self._start, self._first)
        text = progress_text(self._title, self._unit, done=done, total=total, new=done - base, seconds=now - since)
        if self._stream.isatty():
            print(f"\r{text}\x1b[K", end="\n" if last else "", file=self._stream, flush=True)
        else:
            print(text, file=self._stream, flush=True)


def say(line: str = "") -> None:
    """Print `line`, on a terminal in the place of a progress line that is being drawn."""
    wipe = "\r\x1b[K" if sys.stdout.isatty() else ""
    print(f"{wipe}{line}", flush=True)


def prepare_streams() -> None:
    """Make the standard streams take every text, and be there: some jobs are started with closed ones.

    A file that is opened later would get the number of a closed stream, and native code would print into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name) or open(number, "w", closefd=False)  # noqa: SIM115 - stays open to the end
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # of characters that the terminal's encoding lacks
        setattr(sys, name, stream)


def progress_text(title: str, unit: str, *, done: int, total: int, new: int, seconds: float) -> str:
    """Return one progress line; `new` of the `done` took `seconds`."""
    rate = new / seconds if seconds > 0 and new > 0 else 0.0
    text = f"{title}: {done}/{total} {unit}"
    if done >= total:
        return f"{text} - {duration(seconds)}" + (f" - {rate:.0f} {unit}/s" if rate else "")
    return f"{text} - {rate:.0f} {unit}/s - ETA {duration((total - done) / rate)}" if rate else text


def epoch_text(epoch: int, epochs: int, row: Mapping[str, float]) -> str:
    """Return an epoch as Keras prints it; `row` is a row of history.csv."""
    steps, seconds = int(row["steps"]), float(row["seconds"])
    scores = " - ".join(f"{name}: {float(row[name]):.4f}" for name in ("loss", "acc", "val_loss", "val_acc"))
    pace = f"{1000 * seconds / max(1, steps):.0f}ms/step"
    return f"Epoch {epoch:>{len(str(epochs))}}/{epochs} {steps}/{steps} - {seconds:.1f}s {pace} - {scores}"


def duration(seconds: float) -> str:
    """Return a length of time as a person says it: 9s, 2m05s, 3h20m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is one: `1 photo`, `1,200 photos`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def table_text(rows: Sequence[Sequence[str]]) -> str:
    """Return `rows`, the first of them the header, as aligned columns; all but the first column to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


# What Ray's C++ core and TensorFlow write to file descriptor 2 before any of their settings is read.
_CHATTER = re.compile(rb"\[\d{4}-\d\d-\d\d .*? [DIWE] \d+ \d+\] |[IWE]\d{4} |WARNING: All log messages before absl")


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Drop the log lines of native libraries from stderr for the length of the block; all else passes."""
    sys.stderr.flush()
    kept, (outlet, inlet) = os.dup(2), os.pipe()
    os.dup2(inlet, 2)
    os.close(inlet)

    def forward() -> None:
        with os.fdopen(outlet, "rb", buffering=0) as lines:
            for line in io.BufferedReader(lines):
                if not _CHATTER.match(line):
                    os.write(kept, line)

    thread = threading.Thread(target=forward, name="stderr", daemon=True)
    thread.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)  # closes the inlet; children of ours may still hold it, so the wait is bounded
        thread.join(1.0)
