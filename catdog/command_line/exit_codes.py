"""What runs around the main function of every job: it turns errors into one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from catdog.console import flush_stdout, prepare_streams, say
from catdog.errors import CatdogError, Terminated, UsageError


def run(main: Callable[[], None]) -> int:
    """Call `main` and return the exit code of this process.

    The code is 0, 1 for a failure, 2 for a user's mistake, 3 for too many bad photos, 130 for Ctrl-C, 143 for SIGTERM.
    A CatdogError becomes one line on stderr. Any other exception is a bug of catdog and keeps its traceback.
    """
    prepare_streams()
    try:
        if shipped := _shipped_text(_working_directory()):
            say(shipped)
        main()
    except CatdogError as error:
        print(f"catdog: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop:
        is_terminated = isinstance(stop, Terminated) or Terminated.came
        print(
            f"catdog: {'terminated' if is_terminated else 'interrupted'}; run the same command to resume",
            file=sys.stderr,
        )
        return 143 if is_terminated else 130
    finally:
        flush_stdout()
    return 0


def _working_directory() -> Path:
    """Return the directory that relative paths on the command line refer to; Ray's processes start in it, too.

    Raises UsageError if it has been deleted.
    """
    try:
        return Path.cwd()
    except OSError as error:
        raise UsageError("the working directory does not exist any more: cd to another one") from error


def _shipped_text(directory: Path) -> str:
    """Return how much `ray job submit` shipped if `directory` is the copy that a submitted job runs in, else ""."""
    if directory.parent.name != "working_dir_files":
        return ""
    sizes = [path.stat().st_size for path in directory.rglob("*") if path.is_file()]
    return f"Shipped to the cluster: {len(sizes)} files, {sum(sizes) / 2**20:.1f} MiB."
