"""What a person reads while a job runs: progress with rate and ETA, epoch lines, plain tables."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

Progress = Callable[[int, int], None]  # shows how many are done, of how many

_LINE_EVERY_SECONDS = 10.0  # where the output is a log, not a terminal
_ours: TextIO | None = None  # where our lines go while those of others do not


class ProgressLine:
    """One long step: done, total, rate and ETA, redrawn in place on a terminal, a line now and then in a log.

    An instance is a callable of (done, total). Work that was done before the first call does not count into
    the rate, nor does the start of processes before the first piece of work into the ETA.
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
    """Print `line`, on a terminal in the place of a progress line that is being drawn."""
    stream = _stream()
    wipe = "\r\x1b[K" if stream.isatty() else ""
    _print(f"{wipe}{line}\n", stream)


def _stream() -> TextIO:
    return _ours or sys.stdout


def _print(text: str, stream: TextIO) -> None:
    """Write `text`; a console that is closed or full gets nothing more, and the job goes on."""
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
    """Write out what others have printed, such as a help text, where there is anybody to read it."""
    try:
        sys.stdout.flush()
    except OSError:
        _silence(sys.stdout)


@contextlib.contextmanager
def only_our_lines() -> Iterator[None]:
    """Keep off stdout what other code prints, for the length of the block; `say` and progress lines reach it.

    Ray's raylets tell of lost processes and nodes there, in up to twenty lines for each, and Ray has no setting for it.
    """
    global _ours
    kept, _ours = _ours, _stream()
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            yield
        finally:
            _ours = kept


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
        if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
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
