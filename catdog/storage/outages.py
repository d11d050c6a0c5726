"""Outages of object stores: short ones are waited out, long ones end the job; they never become results."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

from catdog.errors import FailureError, one_line

PATIENCE_SECONDS = 60.0  # a store that answers again within half a minute ends no job
PATIENCE_VARIABLE = "CATDOG_PATIENCE_SECONDS"  # of the environment, where another length suits the store
_PAUSE_SECONDS = 1.0  # pyarrow itself tries three times or more before it raises
# What pyarrow says of a store that cannot be reached, is overloaded or has a fault of its own.
_SIGNS = (
    "NETWORK_CONNECTION",
    "curlCode",
    "SLOW_DOWN",
    "SERVICE_UNAVAILABLE",
    "INTERNAL_FAILURE",
    "REQUEST_TIMEOUT",
    "THROTTLING",
    "(HTTP status 5",
)

T = TypeVar("T")


def is_outage(error: OSError) -> bool:
    """Tell a store that does not answer, or not just now, from an answer such as "no such key"."""
    text = str(error)
    return any(sign in text for sign in _SIGNS)


def patience_seconds() -> float:
    """Return how long an outage may last: CATDOG_PATIENCE_SECONDS, or a minute where that is no number."""
    try:
        return float(os.environ[PATIENCE_VARIABLE])
    except (KeyError, ValueError):
        return PATIENCE_SECONDS


def wait_out(action: Callable[[], T], *, where: str, on_retry: Callable[[], None] | None = None) -> T:
    """Return what `action` returns; it is called again for `patience_seconds` while an outage makes it fail.

    `on_retry` is called before each further try. Raises FailureError, naming `where`, after an outage that lasts
    longer; any other error of `action` as it is.
    """
    begun, patience = time.monotonic(), patience_seconds()
    while True:
        try:
            return action()
        except OSError as error:
            if not is_outage(error):
                raise
            if time.monotonic() - begun > patience:
                raise FailureError(
                    f"cannot reach {where} for {patience:.0f} s: {one_line(error)}; run the same command to resume"
                ) from error
        if on_retry:
            on_retry()
        time.sleep(_PAUSE_SECONDS)
