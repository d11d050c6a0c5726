"""Photos laid out in a folder for each label: what is refused, and which place each photo gets."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

from catdog.console import ProgressLine, counted, say
from catdog.errors import UsageError
from catdog.photos.sources.archives import TAR_SUFFIXES, ZIP_SUFFIXES
from catdog.prediction.output import SORTED_FILE
from catdog.prediction.placement import place_photos
from catdog.prediction.results.commit import read_rows
from catdog.prediction.results.rows import LabelRule
from catdog.storage import files
from catdog.storage.schemas import UNSURE

UNREADABLE = "unreadable"  # the folder of photos that have an error in place of a label
# What ends the name of an archive in the key of its member.
_ARCHIVE = re.compile("|".join(re.escape(f"{suffix}!") for suffix in (*ZIP_SUFFIXES, *TAR_SUFFIXES)), re.IGNORECASE)
_MAX_NAME_BYTES = 255  # of a name on the file systems in use


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


def is_sorted(out: str, *, directory: str, mode: str) -> bool:
    """Tell whether the photos of the job in `out` were laid out below the absolute `directory` already."""
    mark = files.join(out, SORTED_FILE)
    return files.exists(mark) and {"directory": directory, "mode": mode}.items() <= files.read_json(mark).items()


def sort_photos(out: str, *, rule: LabelRule, directory: str, mode: str, num_cpus: float) -> None:
    """Lay the photos of the committed rows in `out` out below the absolute `directory`, and say how many."""
    paths: list[str] = []
    folders: list[str] = []
    for table in read_rows(out, rule=rule):
        paths += table["path"].to_pylist()
        folders += [label or UNREADABLE for label in table["label"].to_pylist()]
    result = place_photos(
        paths,
        plan_sorting(paths, folders),
        directory=directory,
        mode=mode,
        num_cpus=num_cpus,
        progress=ProgressLine("Sorting", "photos"),
    )
    verb = {"copy": "copied", "link": "linked", "move": "moved"}[mode]
    say(f"{counted(result.placed, 'photo')} {verb} into {directory}, {result.already} already there.")
    for line in result.failed[:10]:
        say(f"  not {verb}: {line}")
    if len(result.failed) > 10:
        say(f"  and {len(result.failed) - 10} more")
    files.write_json(
        files.join(out, SORTED_FILE),
        {
            "directory": directory,
            "mode": mode,
            "placed": result.placed + result.already,
            "failed": list(result.failed),
        },
    )


def plan_sorting(paths: Sequence[str], folders: Sequence[str]) -> list[str]:
    """Return the place of each photo, `folder/name`, decided from the arguments alone.

    Of names that are the same within a folder, compared without case and in Unicode's NFC as some file systems do,
    the first keeps its name; the others get `-` and the first hex digits of their path's sha256 before the suffix.
    """
    taken: set[tuple[str, str]] = set()
    places = []
    for path, folder in zip(paths, folders, strict=True):
        name = _name(path)
        digest, digits = hashlib.sha256(path.encode()).hexdigest(), 8
        place = _shortened(name, "")
        while (folder, _folded(place)) in taken:
            place, digits = _shortened(name, f"-{digest[:digits]}"), digits + 8
        taken.add((folder, _folded(place)))
        places.append(f"{folder}/{place}")
    return places


def _name(path: str) -> str:
    base, _ = files.split_query(path)
    member = _member(base)
    # In an archive any mark may part folders.
    name = (base if member is None else member.replace("\\", "/")).rpartition("/")[2]
    name = unquote(name) if files.is_uri(path) else name
    return name.replace("/", "_").replace("\0", "_") if name not in ("", ".", "..") else "photo"


def _member(path: str) -> str | None:
    """Return the part of a key that names a member of an archive, None for a file by itself."""
    return next((path[mark.end() :] for mark in _ARCHIVE.finditer(path)), None)


def _shortened(name: str, addition: str) -> str:
    """Return `name` with `addition` before its suffix, cut to what a file system takes."""
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix.encode()) > 16:
        stem, dot, suffix = name, "", ""
    room = _MAX_NAME_BYTES - len(f"{addition}{dot}{suffix}".encode())
    return stem.encode()[:room].decode("utf-8", "ignore") + f"{addition}{dot}{suffix}"


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
