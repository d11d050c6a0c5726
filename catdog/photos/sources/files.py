"""Where photos are, and their bytes: folders, object stores, and zip archives that are never extracted.

A photo's path is its key everywhere: a local file's absolute path, a URI that pyarrow opens, or for a member of
an archive `ARCHIVE.zip!folder/name.jpg`. In a URI `%`, `?` and `#` of a name are percent-encoded; nothing else is.
Members are read in memory and written nowhere, so an archive cannot place a file, whatever names it carries.
"""

from __future__ import annotations

import errno
import io
import lzma
import os
import re
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from pyarrow import fs

from catdog.errors import FailureError, ImageError, UsageError, one_line
from catdog.storage.files import absolute, is_uri, open_filesystem

MAX_PHOTO_BYTES = 256 * 2**20
RETRY_PAUSES_SECONDS = (0.2, 1.0, 4.0)

_MEMBER = re.compile(r"\.zip!", re.IGNORECASE)
_DENIED = ("ACCESS_DENIED", "PERMISSION_DENIED", "Permission denied", "AuthorizationFailure")
_NEVER_READABLE = (errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, struct.error, ValueError)


class Photo(NamedTuple):
    """A file found: `path` is its key, `relative` its place below the source, parts joined by `/`."""

    path: str
    relative: str


def list_photos(source: str) -> list[Photo]:
    """List every file of `source` (a folder at any depth, a zip archive, or one file), sorted by path.

    Hidden files and folders (a leading dot, `__MACOSX`) are left out. Nothing is opened: a file here may turn out
    to be no photo. Raises UsageError when the source is missing or holds no files, FailureError when it cannot be read.
    """
    base, query = _split_query(absolute(source))
    base = base.rstrip("/") or "/"
    escape = _escape if is_uri(base) else str
    try:
        system, inside = _open(base + query)
        kind = system.get_file_info(inside).type
        if kind == fs.FileType.NotFound:
            raise UsageError(f"expected photos at {source}, found nothing there: check the path")
        if kind == fs.FileType.File and not base.lower().endswith(".zip"):
            return [Photo(base + query, unquote(_name(base)) if is_uri(base) else _name(base))]
        if kind == fs.FileType.File:
            names = _visible((name, name.replace("\\", "/").lstrip("/")) for name in _list_members(base + query))
            photos = [Photo(f"{base}!{escape(name)}{query}", relative) for name, relative in names]
        else:
            walk = _walk_local(inside) if isinstance(system, fs.LocalFileSystem) else _walk_remote(system, inside)
            folder = base.rstrip("/")
            photos = [Photo(f"{folder}/{escape(relative)}{query}", relative) for relative in walk]
    except PermissionError as error:
        raise UsageError(f"cannot list the photos of {source}: {one_line(error)}; check its permissions") from error
    except OSError as error:
        raise FailureError(f"cannot list the photos of {source}: {one_line(error)}") from error
    if not photos:
        raise UsageError(f"expected photos in {source}, found no files (hidden ones do not count): check the path")
    return sorted(photos)


def source_exists(source: str) -> bool:
    """Tell whether a file or folder stands at `source`, whatever characters its name has.

    Raises FailureError when that cannot be told.
    """
    system, inside = _open(absolute(source))
    try:
        return bool(system.get_file_info(inside).type != fs.FileType.NotFound)
    except OSError as error:
        raise FailureError(f"cannot reach {source}: {one_line(error)}") from error


def read_photo(path: str, *, max_bytes: int = MAX_PHOTO_BYTES, on_retry: Callable[[], None] | None = None) -> bytes:
    """Return the bytes of the photo at `path`, a key from `list_photos`; `on_retry` is called before each retry.

    Raises ImageError: missing, permission, too-large (more than `max_bytes`), truncated (a damaged archive member),
    io (still failing after the retries).
    """
    pauses_seconds = iter(RETRY_PAUSES_SECONDS)
    while True:
        try:
            return _read(path, max_bytes=max_bytes)
        except UsageError as error:  # a scheme that this machine's pyarrow does not open
            raise ImageError("io", str(error)) from error
        except OSError as error:
            failure, pause_seconds = permanent_error(error), next(pauses_seconds, None)
            if failure or pause_seconds is None:
                raise failure or ImageError("io", one_line(error)) from error
        _open_archive.cache_clear()  # its connection may be what broke
        if on_retry:
            on_retry()
        time.sleep(pause_seconds)


def _read(path: str, *, max_bytes: int) -> bytes:
    archive, member = _split_archive(path)
    if member is not None:
        return _read_member(archive, member, max_bytes=max_bytes)
    system, inside = _open_photo(path)
    with system.open_input_file(inside) as stream:
        return bytes(stream.read(_checked_size(stream.size(), max_bytes)))


def permanent_error(error: OSError) -> ImageError | None:
    """Return the ImageError for `error`, or None when trying again may help."""
    text = one_line(error)
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return ImageError("missing", "no such file")
    if isinstance(error, PermissionError) or any(word in text for word in _DENIED):
        return ImageError("permission", text)
    if "Invalid data stream" in text:  # bz2 raises OSError for damage
        return ImageError("truncated", "the archive member is damaged: Invalid data stream")
    if error.errno in _NEVER_READABLE or "is a directory" in text:
        return ImageError("io", text)
    return None


def _checked_size(size: int, max_bytes: int) -> int:
    if size > max_bytes:
        raise ImageError("too-large", f"{size:,} bytes, the limit is {max_bytes:,}")
    return size


# Folders


def _walk_local(root: str) -> Iterator[str]:
    """Yield the relative path of every visible file below the local folder `root`.

    Each real folder is entered once, and links are followed last: loops of links end, and a file reachable
    both ways keeps its real path. pyarrow's own selector follows such loops forty levels deep.
    """
    seen: set[tuple[int, int]] = set()
    folders, linked = [""], list[str]()
    while folders or linked:
        below = folders.pop() if folders else linked.pop(linked.index(min(linked)))
        status = Path(root, below).stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(Path(root, below)) as entries:
            for entry in entries:
                relative = f"{below}/{entry.name}" if below else entry.name
                if _is_hidden(entry.name):
                    continue
                if entry.is_symlink():
                    target = Path(entry.path)
                    if target.is_dir():
                        linked.append(relative)
                    elif target.is_file() or not target.exists():  # a broken link is found, and rejected as missing
                        yield _as_text(relative)
                elif entry.is_dir():
                    folders.append(relative)
                elif entry.is_file():  # no pipes, sockets, devices: reading one may never end
                    yield _as_text(relative)


def _walk_remote(system: fs.FileSystem, root: str) -> Iterator[str]:
    """Yield the relative path of every visible file below `root` on an object store."""
    prefix = root.rstrip("/")
    found = system.get_file_info(fs.FileSelector(root, recursive=True))
    relatives = (entry.path.removeprefix(prefix).lstrip("/") for entry in found if entry.type == fs.FileType.File)
    return (relative for relative, _ in _visible((relative, relative) for relative in relatives))


def _visible(names: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the pairs (name, relative path) of which no part is hidden; `..` counts as hidden."""
    return (pair for pair in names if not any(map(_is_hidden, pair[1].split("/"))))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _as_text(name: str) -> str:
    """Return `name` as a string that UTF-8 can hold; a name in other bytes cannot be opened by it again."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# Archives


def _list_members(archive: str) -> list[str]:
    """Return the names of the files in `archive`, each once, folders left out."""
    try:
        return list(dict.fromkeys(entry.filename for entry in _open_archive(archive).infolist() if not entry.is_dir()))
    except (*_DAMAGE, NotImplementedError) as error:
        raise UsageError(
            f"expected a zip archive at {archive}, found one that cannot be read ({one_line(error)}): get it again"
        ) from error


def _read_member(archive: str, member: str, *, max_bytes: int) -> bytes:
    """Return the bytes of `member`; the read is bounded by the size that the archive declares, and checked by CRC."""
    try:
        directory = _open_archive(archive)
        entry = directory.getinfo(member)
        if entry.flag_bits & 0x1:
            raise ImageError("permission", "the archive member is encrypted")
        _checked_size(entry.file_size, max_bytes)
        with directory.open(entry) as stream:
            content = stream.read(max_bytes + 1)
    except KeyError as error:
        raise ImageError("missing", "no such member in the archive") from error
    except _DAMAGE as error:
        raise ImageError("truncated", f"the archive member is damaged: {one_line(error)}") from error
    except NotImplementedError as error:
        raise ImageError("io", f"the archive member cannot be unpacked: {one_line(error)}") from error
    _checked_size(len(content), max_bytes)
    return content


@lru_cache(maxsize=4)
def _open_archive(archive: str) -> zipfile.ZipFile:
    """Open `archive` once a process: its directory of members takes a second for each hundred thousand."""
    system, inside = _open_photo(archive)
    return zipfile.ZipFile(io.BufferedReader(system.open_input_file(inside), 1 << 16))


def _split_archive(path: str) -> tuple[str, str | None]:
    """Split a key into archive and member; (path, None) for a file by itself.

    A folder may be called `x.zip!y`, so the archive is the first candidate that is a file.
    """
    base, query = _split_query(path)
    for mark in _MEMBER.finditer(base):
        archive, member = base[: mark.end() - 1] + query, base[mark.end() :]
        if _is_file(archive):
            return archive, unquote(member) if is_uri(archive) else member
    return path, None


@lru_cache(maxsize=64)
def _is_file(path: str) -> bool:
    system, inside = _open_photo(path)
    return bool(system.get_file_info(inside).type == fs.FileType.File)


# Keys


def _split_query(path: str) -> tuple[str, str]:
    """Split a URI before its `?` (options of the object store); a local path has none."""
    if path.startswith("/") or not is_uri(path):
        return path, ""
    base, mark, query = path.partition("?")
    return base, mark + query


def _escape(name: str) -> str:
    return name.replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _open_photo(path: str) -> tuple[fs.FileSystem, str]:
    """Return the file system and the path inside it of one file.

    A folder's URI is opened once a process: S3 may ask the network for the bucket's region each time.
    """
    base, query = _split_query(path)
    if not is_uri(base):
        return _LOCAL, path
    folder, _, name = base.rpartition("/")
    system, inside = _open_folder(f"{folder}/{query}")
    return system, f"{inside.rstrip('/')}/{unquote(name)}"


def _open(path: str) -> tuple[fs.FileSystem, str]:
    """Open `path`, a URI with the characters encoded that URIs may not hold."""
    base, query = _split_query(path)
    if not is_uri(base):
        return _LOCAL, path
    scheme, _, rest = base.partition("://")
    authority, slash, inside = rest.partition("/")
    inside = quote(inside, safe="%/:@!$&'()*+,;=~")
    return open_filesystem(f"{scheme}://{authority}{slash}{inside}{query}")


_open_folder = lru_cache(maxsize=64)(_open)
_LOCAL = fs.LocalFileSystem()
