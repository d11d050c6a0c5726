"""What every job does around its one function: errors become one line and an exit code."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from catdog.console import quiet_stderr
from catdog.errors import CatdogError


def run(main: Callable[[], None], arguments: Sequence[str]) -> int:
    """Call `main`, which reads `arguments`; return the exit code: 0, 2 for a user's mistake, 1 for a failure, 3 for too
    many bad photos, 130 for Ctrl-C.

    Unless `--verbose` is given, the log lines of native libraries are kept from stderr.

    A CatdogError becomes one line on stderr. Any other exception is a defect of ours and keeps its traceback.
    """
    if shipped := _shipped_text(Path.cwd()):
        print(shipped)
    try:
        with contextlib.nullcontext() if "--verbose" in arguments else quiet_stderr():
            main()
    except CatdogError as error:
        print(f"catdog: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("catdog: interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


def _shipped_text(directory: Path) -> str:
    """Return how much `ray job submit` shipped, where `directory` is the copy that a submitted job runs in, else ""."""
    if directory.parent.name != "working_dir_files":
        return ""
    sizes = [path.stat().st_size for path in directory.rglob("*") if path.is_file()]
    return f"Shipped to the cluster: {len(sizes)} files, {sum(sizes) / 2**20:.1f} MiB."
