"""What every job does around its one function: errors become one line and an exit code."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from catdog.console import prepare_streams, quiet_stderr, say
from catdog.errors import CatdogError, UsageError


def run(main: Callable[[], None], arguments: Sequence[str]) -> int:
    """Call `main`, which reads `arguments`; return the exit code: 0, 2 for a user's mistake, 1 for a failure, 3 for too
    many bad photos, 130 for Ctrl-C.

    Unless `--verbose` is given, the log lines of native libraries are kept from stderr.

    A CatdogError becomes one line on stderr. Any other exception is a defect of ours and keeps its traceback.
    """
    prepare_streams()
    try:
        if shipped := _shipped_text(_working_directory()):
            say(shipped)
        with contextlib.nullcontext() if "--verbose" in arguments else quiet_stderr():
            main()
    except CatdogError as error:
        print(f"catdog: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("catdog: interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


def _working_directory() -> Path:
    """Return the directory that relative paths of the command line begin in; Ray's processes start in it, too.

    Raises UsageError where it has been deleted.
    """
    try:
        return Path.cwd()
    except OSError as error:
        raise UsageError("the working directory does not exist any more: cd to another one") from error


def _shipped_text(directory: Path) -> str:
    """Return how much `ray job submit` shipped, where `directory` is the copy that a submitted job runs in, else ""."""
    if directory.parent.name != "working_dir_files":
        return ""
    sizes = [path.stat().st_size for path in directory.rglob("*") if path.is_file()]
    return f"Shipped to the cluster: {len(sizes)} files, {sum(sizes) / 2**20:.1f} MiB."
