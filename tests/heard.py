"""Captures what a job prints, as a list of lines."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def heard(lines: list[str], function: Callable[..., T], *arguments: Any, **more: Any) -> T:
    """Call `function` and add the lines that it prints to `lines`, even if it raises."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            return function(*arguments, **more)
        finally:
            lines += printed.getvalue().splitlines()
