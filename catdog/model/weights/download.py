"""Downloads a file whole or not at all: it is resumed, retried, checked, and renamed into place last."""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from catdog.errors import FailureError

_ATTEMPTS = 4  # in a row without progress; one that gains a block does not count
_BLOCK_BYTES = 64 * 1024
_TIMEOUT_SECONDS = 30.0  # without a byte
_TRANSIENT_CLIENT_ERRORS = (408, 425, 429)  # time-out, too early, too many requests


def has_checksum(content: bytes, *, checksums: Sequence[str]) -> bool:
    """Return whether `content` has one of the `checksums`, each "md5:<hex>" or "sha256:<hex>"."""
    return any(
        hashlib.new(algorithm, content, usedforsecurity=False).hexdigest() == digest
        for algorithm, _, digest in (checksum.partition(":") for checksum in checksums)
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DownloadLimits:
    """The largest size and the longest time of one download; beyond either it is given up."""

    size_bytes: int = 8 * 2**30
    seconds: float = 1800.0


DEFAULT_LIMITS = DownloadLimits()


def download(
    url: str,
    *,
    destination: Path,
    checksums: Sequence[str],
    limits: DownloadLimits = DEFAULT_LIMITS,
    first_pause_seconds: float = 0.5,
) -> None:
    """Download `url` to `destination`, in an existing directory, and check that the file has one of `checksums`.

    What arrives is kept in `destination` + ".part", from which this or a later call resumes. Without checksums every
    attempt starts from the beginning, because a mixture of two versions would not be noticed. The pause doubles with
    each failure in a row.
    Raises FailureError, "URL (reason)", when the server refuses, when four attempts in a row make no progress, or when
    the download exceeds `limits`. In the last case nothing is left behind.
    """
    part = destination.with_name(destination.name + ".part")
    failures = furthest = 0
    deadline = time.monotonic() + limits.seconds
    while True:
        try:
            if not checksums:
                part.unlink(missing_ok=True)
            _fetch_rest(url, part=part, size_bytes=limits.size_bytes, deadline=deadline)
            if not checksums or has_checksum(part.read_bytes(), checksums=checksums):
                part.replace(destination)
                return
            part.unlink()
            reason = "its checksum is not the published one"
        except _BeyondLimitsError as error:
            part.unlink(missing_ok=True)
            raise FailureError(f"{url} ({error})") from error
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"HTTP {error.code} {error.reason}"
            if error.code < 500 and error.code not in _TRANSIENT_CLIENT_ERRORS:
                raise FailureError(f"{url} ({reason})") from error
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        except ValueError as error:
            raise FailureError(f"{url} ({error})") from error
        gained = _size(part) - furthest
        furthest += max(gained, 0)
        failures = 0 if gained >= _BLOCK_BYTES else failures + 1
        if failures == _ATTEMPTS:
            raise FailureError(f"{url} ({' '.join(reason.split())})")
        time.sleep(first_pause_seconds * 2 ** (failures - 1))


class _BeyondLimitsError(Exception):
    """The file is too large or takes too long."""


def _fetch_rest(url: str, *, part: Path, size_bytes: int, deadline: float) -> None:
    """Append the missing bytes to `part`, or rewrite it from the beginning if the server does not resume.

    Raises OSError when the connection breaks before the announced end, _BeyondLimitsError beyond the limits.
    """
    start = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "catdog", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if start and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is left to fetch; the checksum shows whether the part is the file
        raise
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumed and not str(response.headers["Content-Range"]).startswith(f"bytes {start}-"):
            part.unlink(missing_ok=True)
            raise OSError("the server sent a different range than was requested")
        announced = response.headers["Content-Length"]
        kept = start if resumed else 0
        if announced is not None and kept + int(announced) > size_bytes:
            raise _BeyondLimitsError(f"{kept + int(announced):,} bytes, at most {size_bytes:,} are expected")
        received = 0
        with part.open("ab" if resumed else "wb") as file:
            # Not read(), which waits for a whole block, however slowly it arrives.
            while block := response.read1(_BLOCK_BYTES):
                file.write(block)
                received += len(block)
                if kept + received > size_bytes:
                    raise _BeyondLimitsError(f"more than {size_bytes:,} bytes, which is more than expected")
                if time.monotonic() > deadline:
                    raise _BeyondLimitsError(f"{kept + received:,} bytes after the time limit")
    # http.client does not raise when a body ends early.
    if announced is not None and received < int(announced):
        raise OSError(f"broke off after {received} of {announced} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
