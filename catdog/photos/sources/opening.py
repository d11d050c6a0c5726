"""Opening one file by its key, on this machine or an object store."""

from __future__ import annotations

import errno
import io
import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

from pyarrow import fs

from catdog.errors import FailureError, ImageError, one_line
from catdog.photos.sources.keys import local_path, quoted_uri
from catdog.storage.files import is_uri, open_filesystem, split_query
from catdog.storage.outages import wait_out

# Other files in place of an archive or a table: first bytes, suffixes that are right for them, and the text to show.
_STRANGERS = (
    (b"Rar!", (), "a RAR archive: unpack it and give the folder"),
    (b"7z\xbc\xaf\x27\x1c", (), "a 7z archive: unpack it and give the folder"),
    (b"PK\x05\x06", (), "an archive without files: get it again"),
    (b"PK\x03\x04", (".zip",), "a zip: name the file .zip"),
    (b"\x1f\x8b", (".gz", ".tgz"), "data compressed by gzip: name the file .tar.gz if it is a tar, or decompress it"),
    (b"PAR1", (".parquet",), "a Parquet file: name the file .parquet"),
    (b"version https://git-lfs", (), "a pointer of Git LFS: fetch the file itself with git lfs pull"),
)


def open_file(key: str) -> IO[bytes]:
    """Open a file as a seekable binary stream.

    Raises OSError as the file system does, and ImageError for anything but a regular file: a folder, a pipe, a socket,
    a device, or a path that contains a NUL.
    """
    if not is_uri(key):
        return _open_local(key)
    system, inside = _open_in_folder(key)
    if isinstance(system, fs.LocalFileSystem):  # file://
        return _open_local(inside)
    stream: Any = system.open_input_file(inside)
    return io.BufferedReader(stream, 1 << 16)


def _open_local(key: str) -> IO[bytes]:
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        descriptor = os.open(local_path(key), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL in the path
        raise ImageError("missing", f"no file can have such a name: {error}") from error
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise ImageError("not-a-file", "a socket, or a pipe without a writer") from error
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise ImageError("folder", "this is a folder: give it as --photos")
    raise ImageError("not-a-file", "this is a pipe or a device")


def describe_stranger(key: str, error: Exception) -> str:
    """Return what the unexpected file at `key` is and what to do about it; `error` is what its reader raised."""
    try:
        with open_file(key) as stream:
            begin = stream.read(512)
    except (OSError, ImageError):
        begin = b""
    if not begin:
        return "an empty file: get it again"
    if begin.lstrip()[:1] == b"<" and b"html" in begin.lower():
        return "a web page, as a failed download leaves it: get it again"
    name = split_query(key)[0].lower()
    if begin[257:262] == b"ustar" and not name.endswith(".tar"):
        return "a tar without compression: name the file .tar"
    for mark, suffixes, text in _STRANGERS:
        if begin.startswith(mark) and not name.endswith(suffixes):
            return text
    return f"one that cannot be read ({one_line(error)}): get it again"


def look_at(key: str) -> tuple[fs.FileType, str | None]:
    """Return the file type at `key`, a key or the path of a folder, and the version if it is a file.

    Raises OSError as the file system does.
    """
    if is_uri(key):
        system, inside = open_folder(key)
        entry = system.get_file_info(inside)
        return entry.type, version_of(entry.size, entry.mtime_ns) if entry.is_file else None
    try:
        status = Path(local_path(key)).stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return fs.FileType.NotFound, None
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            raise
        return fs.FileType.NotFound, None
    if stat.S_ISDIR(status.st_mode):
        return fs.FileType.Directory, None
    if stat.S_ISREG(status.st_mode):
        return fs.FileType.File, version_of(status.st_size, status.st_mtime_ns)
    return fs.FileType.Unknown, None


def version_of(size: int, modified_ns: int | None) -> str:
    """Return the version of a file, which differs once its content is replaced: its size and modification time."""
    return str(size) if modified_ns is None else f"{size}-{modified_ns}"


def size_of(version: str | None) -> int:
    """Return the size in bytes in a version that `version_of` made; 0 for None."""
    return int(version.partition("-")[0]) if version else 0


def look_at_source(key: str) -> tuple[fs.FileType, str | None]:
    """Return what `look_at` returns, after waiting out any outage of the store.

    Raises FailureError when `key` cannot be reached.
    """
    try:
        return wait_out(lambda: look_at(key), where=key)
    except OSError as error:
        raise FailureError(f"cannot reach {key}: {one_line(error)}") from error


@lru_cache(maxsize=64)
def is_file(key: str) -> bool:
    """Return whether `key` is a file; cached per process."""
    return bool(look_at(key)[0] == fs.FileType.File)


@lru_cache(maxsize=64)
def open_folder(path: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a URI and the path inside it; cached per process."""
    return open_filesystem(quoted_uri(path))


def _open_in_folder(key: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of the folder of `key`, and the path of the file in it.

    A folder's URI is opened once per process, because S3 may ask the network for the bucket's region each time.
    """
    base, query = split_query(key)
    folder, _, name = base.rpartition("/")
    system, inside = open_folder(f"{folder}/{query}")
    return system, f"{inside.rstrip('/')}/{unquote(name)}"
