"""Photos of a source and their bytes: a folder, an object store, an archive that is never extracted, or one file."""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Callable, Sequence
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from catdog.console import counted, say
from catdog.errors import FailureError, ImageError, UsageError, one_line
from catdog.photos.decoding.formats import is_photo_name
from catdog.photos.sources.containers import tables
from catdog.photos.sources.containers.archives import (
    SUFFIXES,
    archive_kind,
    check_size,
    forget_archives,
    read_member,
    sample_key,
)
from catdog.photos.sources.containers.cells import read_row
from catdog.photos.sources.containers.packed import MorePhotosError, Packed, list_archives, tars_of_folder
from catdog.photos.sources.folders import Found, LeftOut, walk_local, walk_remote
from catdog.photos.sources.keys import Photo, as_key, escape_uri, key_of_name, last_name, local_path
from catdog.photos.sources.opening import is_file, look_at, open_file, open_folder
from catdog.storage.files import absolute, exists, is_uri, join, read_json, split_query
from catdog.storage.outages import wait_out
from catdog.storage.ownership import MARK_FILE

MAX_PHOTO_BYTES = 256 * 2**20
MAX_CLASS_BYTES = 1000
RETRY_PAUSES_SECONDS = (0.2, 1.0, 4.0)

_DENIED = ("ACCESS_DENIED", "PERMISSION_DENIED", "Permission denied", "AuthorizationFailure")
_NEVER_READABLE = (errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)


class MoreFilesError(MorePhotosError):
    """A folder has more files than one process should list; the message is its path or URI."""


def list_photos(source: str, *, at_most: int | None = None) -> list[Photo]:
    """List every file of `source` as `list_files` does, except for a folder of tars or tables.

    If a folder holds tars or Parquet files, as published datasets do, and no photos next to them, only these count: the
    Parquet files themselves, and the photos in the tars. Other files there, such as a readme, are reported in one line.
    Raises MorePackedError if several tars have more photos than `at_most`.
    """
    photos = list_files(source, at_most=at_most)
    base = split_query(as_key(absolute(source)))[0].rstrip("/")
    if photos[0].path.startswith(f"{base}!"):
        return photos  # in an archive
    tars = _packed(photos, lambda name: archive_kind(name) == "tar")
    if tars:
        return list_archives(tars_of_folder(source, tars), at_most=at_most)
    return _packed(photos, tables.is_table) or photos


def list_files(source: str, *, at_most: int | None = None) -> list[Photo]:
    """List every file of `source` (a folder at any depth, an archive, or one file), sorted by path.

    Hidden files and folders, those of systems, and what catdog jobs wrote are left out, and reported if it matters.
    No photo is opened, so a file here may turn out not to be one. Raises UsageError when the source is missing, holds
    no files or may not be read. Raises FailureError when it cannot be read, MoreFilesError for a folder of more photos
    than `at_most`, and MorePackedError for such an archive.
    """
    base, query = split_query(as_key(absolute(source)))
    base = base.rstrip("/") or "/"
    escape = escape_uri if is_uri(base) else str
    left_out = LeftOut()
    try:
        kind, version = wait_out(lambda: look_at(base + query), where=source)
        if kind == fs.FileType.NotFound:
            raise UsageError(f"expected photos at {key_of_name(source)}, found nothing there: check the path")
        if kind == fs.FileType.Unknown:
            raise UsageError(f"expected photos at {key_of_name(source)}, found a pipe, socket or device")
        if kind == fs.FileType.File and not archive_kind(base):
            return [Photo(base + query, last_name(base), version)]
        if kind == fs.FileType.File:
            archive = Photo(base + query, last_name(base), version)
            return list_archives(Packed(source=source, files=(archive,), named=True), at_most=at_most)
        _refuse_results(base + query)
        folder = base.rstrip("/")
        found = wait_out(lambda: _walk(base + query, left_out, at_most), where=source)
        photos = [Photo(f"{folder}/{escape(relative)}{query}", relative, version) for relative, version in found]
    except PermissionError as error:
        raise UsageError(f"cannot list the photos of {source}: {one_line(error)}; check its permissions") from error
    except OSError as error:
        raise FailureError(f"cannot list the photos of {source}: {one_line(error)}") from error
    left_out.report()
    if not photos:
        raise UsageError(f"expected photos in {source}, found no files (hidden files are ignored): check the path")
    return sorted(photos)


def _walk(path: str, left_out: LeftOut, at_most: int | None) -> list[Found]:
    system, inside = open_tree(path)
    walked = walk_local(inside, left_out) if system is None else walk_remote(system, inside, left_out)
    found = list(itertools.islice(walked, None if at_most is None else at_most + 1))
    if at_most is not None and len(found) > at_most and not _are_packed(found):
        raise MoreFilesError(path)
    return found + list(walked)


def _are_packed(found: Sequence[Found]) -> bool:
    """Return whether there are tars or tables, which `list_photos` treats apart, and no photos next to them."""
    names = [file.relative for file in found]
    packed = [name for name in names if archive_kind(name) == "tar" or tables.is_table(name)]
    return bool(packed) and not any(map(is_photo_name, names))


def open_tree(path: str) -> tuple[fs.FileSystem | None, str]:
    """Return the file system of a folder, None for the local one, and the path of the folder in it."""
    if not is_uri(path):
        return None, local_path(path)
    system, inside = open_folder(path)
    return (None if isinstance(system, fs.LocalFileSystem) else system), inside


def _refuse_results(path: str) -> None:
    """Raise UsageError for a folder that a catdog job wrote, except one of sorted photos."""
    mark = join(path, MARK_FILE)
    if "\\x{" not in mark and exists(mark):
        kind = read_json(mark).get("kind")
        if kind != "sorted":
            raise UsageError(f"expected photos in {path}, found the results of a catdog job ({kind}): check the path")


def _packed(photos: list[Photo], is_packed: Callable[[str], bool]) -> list[Photo]:
    """Return the files of `photos` whose names satisfy `is_packed`, or none if there are photos next to them."""
    found = [photo for photo in photos if is_packed(photo.relative)]
    others = [photo.relative for photo in photos if not is_packed(photo.relative)]
    if not found or any(map(is_photo_name, others)):
        return []
    if others:
        say(f"Skipped {counted(len(others), 'file')} next to archives or tables of photos, such as {others[0]}.")
    return found


def read_photo(path: str, *, max_bytes: int = MAX_PHOTO_BYTES, on_retry: Callable[[], None] | None = None) -> bytes:
    """Return the bytes of the photo at `path`, a key from `list_photos`; `on_retry` is called before each retry.

    Raises ImageError of code missing, permission, folder, not-a-file, too-large (more than `max_bytes`), encrypted,
    truncated (a damaged archive member) or io (still failing after the retries). Raises FailureError if a store does
    not answer for a minute.
    """
    return retry_read(lambda: _read(path, max_bytes=max_bytes), where=path, on_retry=on_retry)


def retry_read(read: Callable[[], bytes], *, where: str, on_retry: Callable[[], None] | None) -> bytes:
    """Return what `read` returns, with retries after transient errors; raises what `read_photo` raises."""
    pauses_seconds = iter(RETRY_PAUSES_SECONDS)
    while True:
        try:
            return wait_out(read, where=where, on_retry=on_retry)
        except UsageError as error:  # a scheme that this machine's pyarrow cannot open
            raise ImageError("io", str(error)) from error
        except (MemoryError, pa.ArrowMemoryError) as error:
            raise ImageError("too-large", "its bytes do not fit into memory") from error
        except OSError as error:
            failure, pause_seconds = permanent_error(error), next(pauses_seconds, None)
            if failure or pause_seconds is None:
                raise failure or ImageError("io", one_line(error)) from error
        forget_archives()  # their connection may be what broke
        if on_retry:
            on_retry()
        time.sleep(pause_seconds)


def _read(path: str, *, max_bytes: int) -> bytes:
    container, name = split_container(path)
    if name is None:
        with open_file(path) as stream:
            size = check_size(stream.seek(0, 2), max_bytes)
            stream.seek(0)
            return stream.read(size)
    if archive_kind(container):
        return read_member(container, name, max_bytes=max_bytes)
    return read_row(container, name, read_other=lambda other: _read(other, max_bytes=max_bytes))


def permanent_error(error: OSError) -> ImageError | None:
    """Return the ImageError for `error`, or None when a retry may help."""
    text = one_line(error)
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return ImageError("missing", "no such file")
    if isinstance(error, PermissionError) or any(word in text for word in _DENIED):
        return ImageError("permission", text)
    if "Invalid data stream" in text:  # bz2 raises OSError for damaged data
        return ImageError("truncated", "the archive member is damaged: Invalid data stream")
    if error.errno in _NEVER_READABLE or "is a directory" in text:
        return ImageError("io", text)
    return None


def read_shard_class(path: str) -> str | None:
    """Return the text of the `.cls` file next to a photo in a WebDataset tar, or None if there is none.

    Raises ImageError as `read_photo` does.
    """
    container, name = split_container(path)
    if name is None or archive_kind(container) != "tar":
        return None
    try:
        beside = f"{sample_key(name)}.cls"
        found = retry_read(lambda: read_member(container, beside, max_bytes=MAX_CLASS_BYTES), where=path, on_retry=None)
    except ImageError as error:
        if error.code == "missing":
            return None
        raise
    return found.decode("utf-8", "backslashreplace").strip()


def split_container(path: str) -> tuple[str, str | None]:
    """Split a key into archive or Parquet file and member; returns (path, None) for a plain file.

    A folder may be named `x.zip!y`, so the container is the first candidate that is a file.
    """
    base, query = split_query(path)
    at = base.find("!")
    while at >= 0:
        container = base[:at]
        if container.lower().endswith((*SUFFIXES, tables.SUFFIX)) and is_file(container + query):
            member = base[at + 1 :]
            return container + query, unquote(member) if is_uri(container) else member
        at = base.find("!", at + 1)
    return path, None
