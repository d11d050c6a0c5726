"""The exceptions that catdog raises on purpose.

CatdogError
├── UsageError      the user's mistake: exit code 2
├── FailureError    a cause outside the command (network, disk, a lost cluster): exit code 1
├── BadPhotosError  the job is done, but more photos had errors than --max-errors allows: exit code 3
└── ImageError      one photo that cannot be used; has a code, never stops a job
"""

from __future__ import annotations

RAYLET_GONE = "Ray's process on this node (the raylet) is gone; run the same command to resume"


class CatdogError(Exception):
    """Base of every error raised on purpose; its text is one line for the user."""

    exit_code = 1


class UsageError(CatdogError):
    """The user's mistake: a flag, a path, a setting."""

    exit_code = 2


class FailureError(CatdogError):
    """A cause outside the user's command: network, disk, cluster."""

    exit_code = 1


class BadPhotosError(CatdogError):
    """The job is done and its results are complete, but too large a fraction of the photos had errors."""

    exit_code = 3


class ImageError(CatdogError):
    """One photo that cannot be used.

    `code` is one of `IMAGE_ERROR_CODES`; `str(error)` is "code: message".
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        # This error is sent between processes, and unpickling would call the class with the text only.
        return ImageError, (self.code, self.message)


IMAGE_ERROR_CODES = (
    "empty",
    "not-an-image",
    "truncated",
    "too-large",
    "unsupported",  # a photo of a format that needs a plug-in
    "too-slow",  # it took longer than any photo should
    "missing",
    "folder",  # a list of photos names a folder
    "not-a-file",  # a pipe, socket or device
    "encrypted",
    "permission",
    "io",  # a disk or network error that remained after the retries
    "changed",  # its bytes are no longer those that ingest checked
    "crash",  # decoding it killed the process, more than once
)


class Terminated(KeyboardInterrupt):
    """SIGTERM: what Kubernetes and `ray job stop` send; exit code 143.

    `came` records that the signal came, because native code of Ray replaces this exception by a plain
    KeyboardInterrupt.
    """

    came = False


def one_line(error: BaseException) -> str:
    """Return the text of `error` on one line, or its type if it has no text."""
    return " ".join(str(error).split()) or type(error).__name__
