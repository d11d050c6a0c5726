"""Which requests to sort are refused, and the file names that a photo may get in its label folder."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

from catdog.errors import UsageError
from catdog.photos.sources.containers.archives import TAR_SUFFIXES, ZIP_SUFFIXES
from catdog.storage import files
from catdog.storage.schemas import UNSURE

UNREADABLE = "unreadable"  # the folder of photos that have an error instead of a label
# The end of an archive's name within the key of one of its members.
_ARCHIVE = re.compile("|".join(re.escape(f"{suffix}!") for suffix in (*ZIP_SUFFIXES, *TAR_SUFFIXES)), re.IGNORECASE)
_MAX_NAME_BYTES = 255  # of a file name, on common file systems
_DIGITS = 8  # hex digits in the first added name, and as many more in each further one


def check_sorting(directory: str, *, mode: str, classes: Sequence[str], sample_paths: Iterable[str]) -> None:
    """Check that the sorting can work, before any photo is labelled.

    Raises UsageError for links and moves unless the photos are local files and `directory` is local. Also raises it for
    a class whose name is reserved or cannot name a folder: an untrusted model must not write outside of `directory`.
    """
    for name in classes:
        if not name or name in (".", "..") or any(mark in name for mark in "/\\\0"):
            raise UsageError(f"--sort-into: the model has a class {name!r}, which cannot be a folder's name")
        if name.casefold() in (UNREADABLE, UNSURE):
            raise UsageError(
                f"--sort-into: the model has a class {name!r}, a name that catdog reserves for its own folders"
            )
    if mode == "copy":
        return
    strange = next((path for path in [directory, *sample_paths] if files.is_uri(path) or _member(path) is not None), "")
    if strange:
        raise UsageError(
            f"--sort {mode}: expected local files and a local --sort-into, found {strange}; give --sort copy"
        )


def name_of(path: str, level: int = 0) -> str:
    """Return the file name that the photo at `path` claims: at level 0, its own.

    If other photos have that name, `-` and the first hex digits of the SHA-256 of `path` go before the suffix. There
    are 8 digits at level 1, and 8 more at each further level.
    """
    addition = f"-{hashlib.sha256(path.encode()).hexdigest()[: _DIGITS * level]}" if level else ""
    return _shortened(_own_name(path), addition)


def as_compared(name: str) -> str:
    """Return `name` as some file systems compare names: without case, and in Unicode's NFC."""
    return unicodedata.normalize("NFC", name).casefold()


def _own_name(path: str) -> str:
    base, _ = files.split_query(path)
    member = _member(base)
    # In an archive, either slash may separate folders.
    name = (base if member is None else member.replace("\\", "/")).rpartition("/")[2]
    name = unquote(name) if files.is_uri(path) else name
    return name.replace("/", "_").replace("\0", "_") if name not in ("", ".", "..") else "photo"


def _member(path: str) -> str | None:
    """Return the part of a key that names a member of an archive, or None if the file is not in one."""
    if "!" not in path:
        return None
    return next((path[mark.end() :] for mark in _ARCHIVE.finditer(path)), None)


def _shortened(name: str, addition: str) -> str:
    """Return `name` with `addition` before its suffix, cut to the length that file systems allow."""
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix.encode()) > 16:
        stem, dot, suffix = name, "", ""
    room = _MAX_NAME_BYTES - len(f"{addition}{dot}{suffix}".encode())
    return stem.encode()[:room].decode("utf-8", "ignore") + f"{addition}{dot}{suffix}"
