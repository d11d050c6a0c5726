"""Files on local disks and object stores: paths, file systems, reads, writes that are whole or absent.

A path is local or a URI that pyarrow opens, such as `s3://bucket/key`.
"""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from catdog.errors import FailureError, UsageError, one_line


def cache_directory() -> Path:
    """Return the directory of this machine that keeps what runs share: downloads."""
    if own := os.environ.get("CATDOG_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "catdog"


def is_uri(path: str) -> bool:
    """Tell a URI such as `s3://bucket/key` from a local path."""
    return "://" in path


def split_query(path: str) -> tuple[str, str]:
    """Split a URI before its `?` (options of the object store, such as `?region=…`); a local path has none."""
    if path.startswith("/") or not is_uri(path):
        return path, ""
    base, mark, query = path.partition("?")
    return base, mark + query


def absolute(path: str) -> str:
    """Return a local `path` made absolute, with `~` expanded; a URI as it is, without a trailing slash."""
    if not is_uri(path):
        return str(Path(path).expanduser().absolute())
    base, query = split_query(path)
    return base.rstrip("/") + query


def join(base: str, *parts: str) -> str:
    """Join `parts` below `base`, a local path or URI; a URI's query stays last."""
    folder, query = split_query(base)
    return "/".join([folder.rstrip("/"), *parts]) + query


def open_filesystem(path: str) -> tuple[fs.FileSystem, str]:
    """Return pyarrow's file system for `path` and the path inside it.

    Raises UsageError for a URI that no file system opens.
    """
    if not is_uri(path):
        return _LOCAL, absolute(path)
    base, query = split_query(path)
    scheme, _, rest = base.partition("://")
    host, slash, inside = rest.partition("/")
    try:
        system, root = _open_root(f"{scheme}://{host}/{query}")
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise UsageError(
            f"cannot open {path}: {one_line(error)}; expected a local path or a URI such as s3://bucket/folder"
        ) from error
    return system, root.rstrip("/") + slash + unquote(inside)


@lru_cache(maxsize=64)
def _open_root(uri: str) -> tuple[fs.FileSystem, str]:
    """Open a file system once a process: S3 may ask the network for a bucket's region each time."""
    system, root = fs.FileSystem.from_uri(uri)
    return system, root


_LOCAL = fs.LocalFileSystem()


def exists(path: str) -> bool:
    """Tell whether a file or directory stands at `path`.

    Raises FailureError when that cannot be told: no network, no permission.
    """
    return bool(_kind(path) != fs.FileType.NotFound)


def _kind(path: str) -> fs.FileType:
    system, inside = open_filesystem(path)
    try:
        return system.get_file_info(inside).type
    except OSError as error:
        raise FailureError(f"cannot reach {path}: {one_line(error)}") from error


def require_bucket(path: str, *, flag: str) -> None:
    """Raise UsageError, naming `flag`, where `path` is a URI of S3 or Google Cloud in a bucket that does not exist.

    A job that writes there would find out at its first result. A bucket that may not be looked at is taken to exist.
    """
    if not is_uri(path):
        return
    system, inside = open_filesystem(path)
    bucket = inside.split("/")[0]
    if system.type_name not in ("s3", "gcs"):
        return
    try:
        found = system.get_file_info(bucket).type
    except OSError:
        return
    if found == fs.FileType.NotFound:
        raise UsageError(f"{flag} {path}: expected a place in a bucket that exists, found no bucket {bucket}")


def read_bytes(path: str) -> bytes:
    """Return the content of the file at `path`; OSError as the file system raises it."""
    system, inside = open_filesystem(path)
    with system.open_input_stream(inside) as stream:
        return bytes(stream.read())


def write_bytes(path: str, content: bytes) -> None:
    """Write `content` at `path`, whole or not at all: beside it first, then renamed.

    Raises FailureError when the place cannot be written.
    """
    system, inside = open_filesystem(path)
    beside = f"{inside}.{uuid.uuid4().hex[:8]}.part"
    try:
        make_directory(path.rsplit("/", 1)[0])
        with system.open_output_stream(beside) as stream:
            stream.write(content)
        system.move(beside, inside)
    except OSError as error:
        raise FailureError(f"cannot write {path}: {one_line(error)}") from error


def make_directory(path: str) -> None:
    """Create the directory `path` with its parents, where the file system knows directories.

    Raises FailureError when it cannot be made.
    """
    system, inside = open_filesystem(path)
    try:
        system.create_dir(inside, recursive=True)
    except OSError as error:
        raise FailureError(f"cannot make the directory {path}: {one_line(error)}") from error


def list_directory(path: str) -> dict[str, fs.FileInfo]:
    """Return the entries of the directory `path` by name; none where there is no such directory.

    Raises NotADirectoryError where a file stands there, FailureError when it cannot be listed.
    """
    system, inside = open_filesystem(path)
    if system.type_name == "local" and Path(inside).is_file():
        raise NotADirectoryError(f"{path} is a file")
    try:
        return {entry.base_name: entry for entry in system.get_file_info(fs.FileSelector(inside, allow_not_found=True))}
    except OSError as error:
        raise FailureError(f"cannot list {path}: {one_line(error)}") from error


def delete(path: str) -> None:
    """Delete the file at `path`, or the directory with all it holds; nothing where there is none."""
    system, inside = open_filesystem(path)
    kind = _kind(path)
    if kind == fs.FileType.Directory:
        system.delete_dir(inside)
    elif kind == fs.FileType.File:
        system.delete_file(inside)


@contextmanager
def staged_directory(path: str) -> Iterator[Path]:
    """Yield a local folder whose content stands at `path`, all of it, once the block ends without an error.

    A local `path` appears by one rename; a URI is filled file by file, so its reader must look for a mark.
    """
    if is_uri(path):
        with tempfile.TemporaryDirectory(prefix="catdog-") as folder:
            yield Path(folder)
            delete(path)
            for file in sorted(Path(folder).rglob("*")):
                if file.is_file():
                    write_bytes(join(path, file.relative_to(folder).as_posix()), file.read_bytes())
        return
    beside = Path(f"{path}.{uuid.uuid4().hex[:8]}.part")
    beside.mkdir(parents=True)
    try:
        yield beside
        delete(path)
        beside.replace(path)
    finally:
        delete(str(beside))


def write_json(path: str, content: Mapping[str, Any]) -> None:
    """Write `content` as indented JSON at `path`, whole or not at all."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: str) -> dict[str, Any]:
    """Return the JSON object at `path`.

    Raises FailureError when the file cannot be read, or is not one: we write such files whole, so somebody else
    changed it.
    """
    try:
        content = json.loads(read_bytes(path))
    except OSError as error:
        raise FailureError(f"cannot read {path}: {one_line(error)}") from error
    except ValueError as error:
        raise FailureError(f"{path} is not JSON ({one_line(error)}); delete it and run the command again") from error
    if not isinstance(content, dict):
        raise FailureError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
