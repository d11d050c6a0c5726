"""Photos laid out in a folder for each label: what is refused, and the names that a photo may get there."""

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

UNREADABLE = "unreadable"  # the folder of photos that have an error in place of a label
# What ends the name of an archive in the key of its member.
_ARCHIVE = re.compile("|".join(re.escape(f"{suffix}!") for suffix in (*ZIP_SUFFIXES, *TAR_SUFFIXES)), re.IGNORECASE)
_MAX_NAME_BYTES = 255  # of a name on the file systems in use
_DIGITS = 8  # more for each further name


def check_sorting(directory: str, *, mode: str, classes: Sequence[str], sample_paths: Iterable[str]) -> None:
    """Refuse what cannot work, before any photo is labelled.

    Raises UsageError for links and moves of what is no local file, and for a class whose name is no folder's: a
    stranger's model must not write outside of `directory`.
    """
    for name in classes:
        if not name or name in (".", "..") or any(mark in name for mark in "/\\\0"):
            raise UsageError(f"--sort-into: the model has a class {name!r}, which cannot be a folder's name")
        if name.casefold() in (UNREADABLE, UNSURE):
            raise UsageError(f"--sort-into: the model has a class {name!r}, the name of a folder of ours")
    if mode == "copy":
        return
    strange = next((path for path in [directory, *sample_paths] if files.is_uri(path) or _member(path) is not None), "")
    if strange:
        raise UsageError(
            f"--sort {mode}: expected local files and a local --sort-into, found {strange}; give --sort copy"
        )


def name_of(path: str, level: int = 0) -> str:
    """Return the name that the photo at `path` wants: its own first, at level 0.

    Where others have that, it gets `-` and the first hex digits of its path's sha256 before the suffix: 8 at level 1,
    8 more at each level after that.
    """
    addition = f"-{hashlib.sha256(path.encode()).hexdigest()[: _DIGITS * level]}" if level else ""
    return _shortened(_own_name(path), addition)


def as_compared(name: str) -> str:
    """Return `name` as some file systems compare names: without case, and in Unicode's NFC."""
    return unicodedata.normalize("NFC", name).casefold()


def _own_name(path: str) -> str:
    base, _ = files.split_query(path)
    member = _member(base)
    # In an archive any mark may part folders.
    name = (base if member is None else member.replace("\\", "/")).rpartition("/")[2]
    name = unquote(name) if files.is_uri(path) else name
    return name.replace("/", "_").replace("\0", "_") if name not in ("", ".", "..") else "photo"


def _member(path: str) -> str | None:
    """Return the part of a key that names a member of an archive, None for a file by itself."""
    if "!" not in path:
        return None
    return next((path[mark.end() :] for mark in _ARCHIVE.finditer(path)), None)


def _shortened(name: str, addition: str) -> str:
    """Return `name` with `addition` before its suffix, cut to what a file system takes."""
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix.encode()) > 16:
        stem, dot, suffix = name, "", ""
    room = _MAX_NAME_BYTES - len(f"{addition}{dot}{suffix}".encode())
    return stem.encode()[:room].decode("utf-8", "ignore") + f"{addition}{dot}{suffix}"
