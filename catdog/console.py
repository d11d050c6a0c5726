"""Console output of a running job: progress with rate and ETA, epoch lines, plain tables."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

Progress = Callable[[int, int], None]  # called with (done, total)

_LINE_EVERY_SECONDS = 10.0  # if the output is a log, not a terminal
_ours: TextIO | None = None  # the stream of our own lines while other output is dropped


class ProgressLine:
    """The progress of one long step: done, total, rate and ETA.

    An instance is a callable of (done, total). On a terminal the line is redrawn in place; a log gets one every 10 s.
    Work done before the first call does not count towards the rate. The time that processes take to start, before the
    first piece of work is done, does not count towards the ETA.
    """

    def __init__(self, title: str, unit: str, *, stream: TextIO | None = None) -> None:
        self._title, self._unit = title, unit
        self._stream = stream or _stream()
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
            text = f"\r{text}\x1b[K"
            _print(f"{text}\n" if last else text, self._stream)
        else:
            _print(f"{text}\n", self._stream)


def say(line: str = "") -> None:
    """Print `line`; on a terminal it replaces a progress line that is being drawn."""
    stream = _stream()
    wipe = "\r\x1b[K" if stream.isatty() else ""
    _print(f"{wipe}{line}\n", stream)


def _stream() -> TextIO:
    return _ours or sys.stdout


def _print(text: str, stream: TextIO) -> None:
    """Write `text`; if the console is closed or full, drop all later output and let the job continue."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        _silence(stream)


def _silence(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def flush_stdout() -> None:
    """Flush what other code has printed, such as a help text; ignore a console that is closed or full."""
    try:
        sys.stdout.flush()
    except OSError:
        _silence(sys.stdout)


@contextlib.contextmanager
def only_our_lines() -> Iterator[None]:
    """Drop what other code prints to stdout during the block; `say` and progress lines still reach it.

    Ray's raylets report lost processes and nodes there, in up to twenty lines for each. Ray has no setting against it.
    """
    global _ours
    kept, _ours = _ours, _stream()
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            yield
        finally:
            _ours = kept


def prepare_streams() -> None:
    """Make sure that the standard streams exist and accept any text; some jobs are started with closed streams.

    A file that is opened later would get the descriptor of a closed stream, and native code would print into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name) or open(number, "w", closefd=False)  # noqa: SIM115 - stays open to the end
        if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
            stream.reconfigure(errors="backslashreplace")  # for characters that the terminal's encoding lacks
        setattr(sys, name, stream)


def progress_text(title: str, unit: str, *, done: int, total: int, new: int, seconds: float) -> str:
    """Return one progress line; `new` of the `done` took `seconds`."""
    rate = new / seconds if seconds > 0 and new > 0 else 0.0
    text = f"{title}: {done}/{total} {unit}"
    if done >= total:
        return f"{text} - {duration(seconds)}" + (f" - {rate:.0f} {unit}/s" if rate else "")
    return f"{text} - {rate:.0f} {unit}/s - ETA {duration((total - done) / rate)}" if rate else text


def epoch_text(epoch: int, epochs: int, row: Mapping[str, float]) -> str:
    """Return the line of an epoch in the format of Keras; `row` is a row of history.csv."""
    steps, seconds = int(row["steps"]), float(row["seconds"])
    scores = " - ".join(f"{name}: {float(row[name]):.4f}" for name in ("loss", "acc", "val_loss", "val_acc"))
    pace = f"{1000 * seconds / max(1, steps):.0f}ms/step"
    return f"Epoch {epoch:>{len(str(epochs))}}/{epochs} {steps}/{steps} - {seconds:.1f}s {pace} - {scores}"


def duration(seconds: float) -> str:
    """Return a duration in short form: 9s, 2m05s, 3h20m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is 1: `1 photo`, `1,200 photos`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def table_text(rows: Sequence[Sequence[str]]) -> str:
    """Return `rows` as aligned columns; the first row is the header, and only the first column is left-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
