"""Programs measured from outside: how long they take, what they print and when, and the memory of their processes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

_POLL_SECONDS = 0.1
_MEMORY_SECONDS = 5.0  # longer, because adding up the pages of a process tree is slow


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessRun:
    """A finished program: its seconds, its lines with the second at which each came, its peak memory in bytes."""

    seconds: float
    lines: tuple[tuple[float, str], ...]
    peak_bytes: int


def watch_program(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    verbose: bool = False,
    poll: Callable[[float], None] = lambda seconds: None,
) -> ProcessRun:
    """Run `command` until it ends, and call `poll` ten times a second with the seconds since its start.

    `environment` has variables to set besides those of this process. The memory is that of the program and all its
    descendants. Raises RuntimeError with the last 20 lines if it fails.
    """
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    peak = [0]

    def measure_memory() -> None:
        peak[0] = max(peak[0], tree_bytes(process.pid))

    lines: list[tuple[float, str]] = []
    with _repeated(_POLL_SECONDS, lambda: poll(time.monotonic() - start)), _repeated(_MEMORY_SECONDS, measure_memory):
        for line in process.stdout or ():
            lines.append((time.monotonic() - start, line.rstrip("\n")))
            if verbose:
                print(line, end="")
        code = process.wait()
        seconds = time.monotonic() - start
    if code:
        last_lines = "\n".join(line for _, line in lines[-20:])
        raise RuntimeError(f"{' '.join(command)} ended with {code}:\n{last_lines}")
    return ProcessRun(seconds=seconds, lines=tuple(lines), peak_bytes=peak[0])


@contextlib.contextmanager
def _repeated(seconds: float, action: Callable[[], None]) -> Iterator[None]:
    """Call `action` in its own thread every `seconds` seconds while the block runs."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            action()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def tree_bytes(pid: int) -> int:
    """Return the proportional set size of a process and all its descendants, in bytes: shared pages count once."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    total, queue = 0, [pid]
    while queue:
        child = queue.pop()
        queue += parents.get(child, [])
        try:
            lines = Path(f"/proc/{child}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return total
