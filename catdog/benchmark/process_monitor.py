"""Programs seen from outside: how long they take, what they print and when, how much memory their processes hold."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_POLL_SECONDS = 0.1
_MEMORY_SECONDS = 5.0  # adding up the pages of a process tree takes it a while


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessRun:
    """One program from its start to its end: each line with the second it came at, and the greatest memory in bytes."""

    seconds: float
    lines: tuple[tuple[float, str], ...]
    peak_bytes: int


def watch_program(
    command: Sequence[str],
    *,
    verbose: bool = False,
    environment: Mapping[str, str] | None = None,
    poll: Callable[[float], None] = lambda seconds: None,
) -> ProcessRun:
    """Run `command` to its end; `poll` is called with the seconds since its start, ten times a second.

    The memory is that of the program and all its descendants. Raises RuntimeError, with its last lines, when it fails.
    """
    start = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **(environment or {})}
    )
    peak, ended = [0], threading.Event()

    def repeat(every: float, action: Callable[[], None]) -> None:
        while not ended.wait(every):
            action()

    def measure() -> None:
        peak[0] = max(peak[0], tree_bytes(process.pid))

    threads = [
        threading.Thread(target=repeat, args=pair, daemon=True)
        for pair in ((_POLL_SECONDS, lambda: poll(time.monotonic() - start)), (_MEMORY_SECONDS, measure))
    ]
    for thread in threads:
        thread.start()
    lines: list[tuple[float, str]] = []
    for line in process.stdout or ():
        lines.append((time.monotonic() - start, line.rstrip("\n")))
        if verbose:
            print(line, end="")
    code = process.wait()
    seconds = time.monotonic() - start
    ended.set()
    for thread in threads:
        thread.join()
    if code:
        last_lines = "\n".join(line for _, line in lines[-20:])
        raise RuntimeError(f"{' '.join(command)} ended with {code}:\n{last_lines}")
    return ProcessRun(seconds=seconds, lines=tuple(lines), peak_bytes=peak[0])


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
