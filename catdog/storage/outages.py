"""Outages of object stores: short ones are retried, long ones fail the job, and none is recorded as a result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

from catdog.errors import FailureError, one_line

PATIENCE_SECONDS = 60.0  # a store that answers again within half a minute must not fail a job
PATIENCE_VARIABLE = "CATDOG_PATIENCE_SECONDS"  # in the environment, if another limit suits the store
_PAUSE_SECONDS = 1.0  # pyarrow itself makes at least three attempts before it raises
# Parts of pyarrow's error text for a store that cannot be reached, is overloaded or has an internal error.
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
    """Return whether a store gave no answer or a temporary error, rather than an answer such as "no such key"."""
    text = str(error)
    return any(sign in text for sign in _SIGNS)


def patience_seconds() -> float:
    """Return how long an outage may last: CATDOG_PATIENCE_SECONDS, or a minute if that is not a number."""
    try:
        return float(os.environ[PATIENCE_VARIABLE])
    except (KeyError, ValueError):
        return PATIENCE_SECONDS


def wait_out(action: Callable[[], T], *, where: str, on_retry: Callable[[], None] | None = None) -> T:
    """Return what `action` returns; retry it for up to `patience_seconds` while an outage makes it fail.

    `on_retry` is called before each retry. Raises FailureError, naming `where`, after a longer outage, and any other
    error of `action` as it is.
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
