"""Copies, links or moves photos to their places in Ray tasks, each exactly once, even if tasks or jobs are killed."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import filecmp
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from catdog.cluster.actors import map_in_order
from catdog.console import Progress
from catdog.errors import FailureError, ImageError, one_line
from catdog.photos.sources.files import read_photo
from catdog.photos.sources.keys import local_path
from catdog.prediction.results.commit import ResultFile
from catdog.prediction.sorting.claims import Levels, read_places, settle_names
from catdog.prediction.sorting.names import UNREADABLE, name_of
from catdog.storage import files

SHOWN = 10  # failures that the console shows
_MIN_IN_A_CALL, _MAX_IN_A_CALL = 256, 4096
_CALLS = 256  # calls aimed at for few photos: every core of a large machine gets some
# The temporary name that _beside gives to an incomplete copy.
_HALF = re.compile(r"\.[0-9a-f]{32}\.part")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placed:
    """How many photos were placed now, had been placed before, or failed; and the first failures: "path: reason"."""

    placed: int
    already: int
    failed: int
    first_failed: tuple[str, ...]


def place_photos(
    results: Sequence[ResultFile], *, directory: str, mode: str, failures: str, num_cpus: float, progress: Progress
) -> Placed:
    """Place the photos of all rows of `results` in the folders of their labels below `directory`, by Ray tasks.

    The call is idempotent. A photo that cannot be placed, for example because another file is already there, does
    not stop the others. Files in the folder `failures`, which is deleted first, list all such photos.
    Raises FailureError if the disk is full.
    """
    files.delete(failures)
    directory, total = files.absolute(directory), sum(result.rows for result in results)
    length = min(_MAX_IN_A_CALL, max(_MIN_IN_A_CALL, total // _CALLS))
    levels = settle_names(results, num_cpus=num_cpus)
    calls = (
        (result, start, min(start + length, result.rows), level, directory, mode, failures)
        for result, level in zip(results, levels, strict=True)
        for start in range(0, result.rows, length)
    )
    states: Counter[str] = Counter()
    first: list[str] = []
    for counts, problems in map_in_order(place_rows, calls, num_cpus=num_cpus):
        states.update(counts)
        first = sorted([*first, *problems])[:SHOWN]
        progress(states.total(), total)
    return Placed(
        placed=states["placed"], already=states["already"], failed=states["failed"], first_failed=tuple(first)
    )


def place_rows(
    result: ResultFile, start: int, stop: int, levels: Levels, directory: str, mode: str, failures: str
) -> tuple[dict[str, int], list[str]]:
    """Place the photos of the rows [start, stop) of `result`, under the names that `levels` gives.

    Returns how many were placed, were already there or failed, and the first failures.
    """
    rows = read_places(result).slice(start, stop - start)
    paths, labels = rows["path"].to_pylist(), rows["label"].to_pylist()
    wanted = [0] * len(paths) if levels is None else levels[start:stop].tolist()
    places = [
        f"{label or UNREADABLE}/{name_of(path, level)}"
        for path, label, level in zip(paths, labels, wanted, strict=True)
    ]
    states, failed = place_some(paths, places, directory, mode)
    if failed:
        name = f"{result.name.partition('.')[0]}-{start:07d}.txt"
        files.write_bytes(files.join(failures, name), "".join(f"{line}\n" for line in failed).encode())
        states["failed"] = len(failed)
    return states, sorted(failed)[:SHOWN]


def place_some(
    paths: Sequence[str], places: Sequence[str], directory: str, mode: str
) -> tuple[dict[str, int], list[str]]:
    """Bring `paths` to their `places` below `directory`.

    Returns how many were placed and how many were already there, and the failures.
    """
    place = {"copy": _copy, "link": _link, "move": _move}[mode]
    states: Counter[str] = Counter()
    failed = []
    for path, below in zip(paths, places, strict=True):
        try:
            target = files.join(directory, below)
            states["placed" if place(path, target if files.is_uri(target) else local_path(target)) else "already"] += 1
        except ImageError as error:
            failed.append(f"{path}: {error}")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise FailureError(
                    f"no space left in {directory}: free some space and run the command again"
                ) from error
            failed.append(f"{path}: {error.strerror or one_line(error)}")
    return dict(states), failed


def _copy(path: str, target: str) -> bool:
    """Copy a photo; a local one keeps its modification time. Return False if the same content is already there."""
    local = local_path(path)
    if files.is_uri(path) or files.is_uri(target) or not Path(local).is_file():
        return _copy_bytes(read_photo(path), target)
    if os.path.lexists(target):
        _refuse_other(filecmp.cmp(local, target, shallow=False))
        return False
    with _beside(target) as part:
        shutil.copy2(local, part)
        _appear(part, target)
    return True


def _copy_bytes(content: bytes, target: str) -> bool:
    if files.exists(target):
        _refuse_other(files.read_bytes(target) == content)
        return False
    files.write_bytes(target, content)
    return True


def _link(path: str, target: str) -> bool:
    """Make `target` a symbolic link to the absolute `path`. Return False if it already is."""
    path = local_path(path)
    if os.path.lexists(target):
        _refuse_other(Path(target).is_symlink() and Path(target).readlink() == Path(path))
        return False
    _make(target, lambda: Path(target).symlink_to(path))
    return True


def _move(path: str, target: str) -> bool:
    """Move a photo; a link is moved as a link to the same file. Return False if it was moved before."""
    path = local_path(path)
    if not os.path.lexists(path):
        if os.path.lexists(target):
            return False
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if path == target:
        return False
    source = Path(path)
    if os.path.lexists(target):  # left by a move that was killed before it removed the source
        _refuse_other(_is_same(path, target))
    elif source.is_symlink():
        _make(target, lambda: Path(target).symlink_to(source.parent / source.readlink()))
    else:
        try:
            # Make a hard link first: a rename would replace a file that has appeared at the target meanwhile.
            _make(target, lambda: os.link(path, target))
        except OSError as error:  # another file system, or one without hard links
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise
            with _beside(target) as part:
                shutil.copy2(path, part)
                with part.open("rb+") as stream:
                    os.fsync(stream.fileno())  # the only copy from now on
                _appear(part, target)
    source.unlink()
    return True


def _make(target: str, action: Callable[[], None]) -> None:
    """Make the file `target` by calling `action`, and its parent folders if they are missing."""
    try:
        try:
            action()
        except FileNotFoundError:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            action()
    except FileExistsError:
        _refuse_other(False)


def _is_same(path: str, target: str) -> bool:
    """Return whether `target` may take the place of `path`; a link never takes that of the file it points to."""
    if Path(path).is_symlink() or Path(target).is_symlink():
        both = Path(path).is_symlink() and Path(target).is_symlink()
        return both and Path(path).parent / Path(path).readlink() == Path(target).readlink()
    return filecmp.cmp(path, target, shallow=False)


@contextlib.contextmanager
def _beside(target: str) -> Iterator[Path]:
    """Yield an unused path next to `target`, and delete the file there, if any, at the end."""
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    part = Path(target).with_name(f".{uuid.uuid4().hex}.part")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def _appear(part: Path, target: str) -> None:
    """Rename the complete file `part` to `target`; raise FileExistsError if another file has that name by now."""
    if os.path.lexists(target):
        _refuse_other(False)
    part.replace(target)


def _refuse_other(same: bool) -> None:
    if not same:
        raise FileExistsError(errno.EEXIST, "another file is already there")


def clean_copies(directory: str) -> None:
    """Delete what killed copies left below `directory`, if it is local; call it only while holding its lease."""
    if files.is_uri(directory):
        return
    for path in Path(directory).glob("*/.*.part"):
        if _HALF.fullmatch(path.name):
            path.unlink(missing_ok=True)
