"""Files on local disks and object stores: paths, file systems, reads, and atomic writes.

A path is local or a URI that pyarrow opens, such as `s3://bucket/key`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from catdog.errors import FailureError, UsageError, one_line
from catdog.storage.outages import wait_out

CONNECTIONS = 64  # from one process to an object store
_LOCAL = fs.LocalFileSystem()
_OBJECT_STORES = ("s3", "gcs", "abfs")
_SECRET_OPTION = re.compile(r"secret|password|access_key|token|signature|\bsig=", re.IGNORECASE)
# Where the credentials of a store belong.
_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfs": "AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY",
    "abfss": "AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY",
}


def cache_directory() -> Path:
    """Return the directory of this machine for files that runs share: downloads."""
    if own := os.environ.get("CATDOG_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "catdog"


def is_uri(path: str) -> bool:
    """Return whether `path` is a URI such as `s3://bucket/key` and not a local path."""
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

    Raises UsageError for a URI that no file system opens, or that holds a secret.
    """
    if not is_uri(path):
        return _LOCAL, absolute(path)
    base, query = split_query(path)
    scheme, _, rest = base.partition("://")
    host, slash, inside = rest.partition("/")
    refuse_secrets(path)
    try:
        system, root = wait_out(lambda: _open_root(scheme, host, query), where=path)
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise UsageError(
            f"cannot open {path}: {one_line(error)}; expected a local path or a URI such as s3://bucket/folder"
        ) from error
    return system, root.rstrip("/") + slash + unquote(inside)


@lru_cache(maxsize=64)
def _open_root(scheme: str, host: str, query: str) -> tuple[fs.FileSystem, str]:
    """Open a file system, once per process: S3 may look up a bucket's region over the network each time."""
    if scheme == "s3":
        if pa.io_thread_count() < CONNECTIONS:
            pa.set_io_thread_count(CONNECTIONS)  # makes pyarrow use that many connections
        # A small file then becomes one PUT, which is atomic, instead of three requests.
        query += ("&" if query else "?") + "allow_delayed_open=true"
    system, root = fs.FileSystem.from_uri(f"{scheme}://{host}/{query}")
    return system, root


def refuse_secrets(uri: str) -> None:
    """Raise UsageError for a URI that holds a key or a password; the text does not show it."""
    base, query = split_query(uri)
    scheme, _, rest = base.partition("://")
    user, at, bucket = rest.partition("/")[0].rpartition("@")
    if not (at and ":" in user) and not _SECRET_OPTION.search(query):
        return
    variables = _VARIABLES.get(scheme, "the environment variables of the store")
    raise UsageError(
        f"{scheme}://…@{bucket}: expected a URI without keys or passwords, which would end up in logs and results: "
        f"give them as {variables}"
    )


def is_object_store(path: str) -> bool:
    """Return whether `path` is in an object store, which cannot rename and where each write is atomic."""
    return open_filesystem(path)[0].type_name in _OBJECT_STORES


def exists(path: str) -> bool:
    """Return whether a file or directory exists at `path`.

    Raises FailureError when that cannot be determined: no network, no permission.
    """
    return bool(_kind(path) != fs.FileType.NotFound)


def is_directory(path: str) -> bool:
    """Return whether `path` is a directory; on an object store, whether anything exists below it."""
    return bool(_kind(path) == fs.FileType.Directory)


def _kind(path: str) -> fs.FileType:
    system, inside = open_filesystem(path)
    try:
        return wait_out(lambda: system.get_file_info(inside).type, where=path)
    except OSError as error:
        raise FailureError(f"cannot reach {path}: {one_line(error)}") from error


def require_bucket(path: str, *, flag: str) -> None:
    """Raise UsageError, naming `flag`, if `path` is a URI of S3 or Google Cloud in a bucket that does not exist.

    Otherwise a job would fail at its first write. A bucket that cannot be checked is assumed to exist.
    """
    if not is_uri(path):
        return
    system, inside = open_filesystem(path)
    bucket = inside.split("/")[0]
    if system.type_name not in ("s3", "gcs"):
        return
    try:
        found = wait_out(lambda: system.get_file_info(bucket).type, where=path)
    except OSError:
        return
    if found == fs.FileType.NotFound:
        raise UsageError(f"{flag} {path}: expected a place in a bucket that exists, found no bucket {bucket}")


def read_bytes(path: str) -> bytes:
    """Return the content of the file at `path`; raise OSError as the file system does."""
    system, inside = open_filesystem(path)

    def read() -> bytes:
        with system.open_input_file(inside) as file:
            return bytes(file.read(file.size()))  # in one read: a stream makes many small requests to an object store

    return wait_out(read, where=path)


def write_bytes(path: str, content: bytes, *, durable: bool = False) -> None:
    """Write `content` to `path` atomically; if `durable`, it survives a loss of power after the call returns.

    Raises FailureError when the place cannot be written.
    """
    system, inside = open_filesystem(path)
    try:
        if system.type_name == "local":
            _write_local(Path(inside), content, durable=durable)
        elif system.type_name in _OBJECT_STORES:
            wait_out(lambda: _write_stream(system, inside, content), where=path)
        else:
            beside = f"{inside}.{uuid.uuid4().hex[:8]}.part"
            system.create_dir(inside.rpartition("/")[0], recursive=True)
            _write_stream(system, beside, content)
            system.move(beside, inside)
    except OSError as error:
        raise FailureError(f"cannot write {path}: {one_line(error)}") from error


def _write_stream(system: fs.FileSystem, inside: str, content: bytes) -> None:
    with system.open_output_stream(inside) as stream:
        stream.write(content)


def _write_local(path: Path, content: bytes, *, durable: bool) -> None:
    with staged_file(path) as beside, beside.open("xb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    if durable:
        sync_directory(path.parent)


@contextlib.contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield the path of a local file to write, which becomes `path` once the block ends without an error.

    A block that fails leaves nothing behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield beside
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def sync_directory(path: Path) -> None:
    """Make the names in the local directory `path` survive a loss of power, if its file system supports it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse it
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: str) -> None:
    """Create the directory `path` with its parents; do nothing on object stores, which have no directories.

    Raises FailureError when it cannot be created.
    """
    system, inside = open_filesystem(path)
    if system.type_name in _OBJECT_STORES:
        return
    try:
        system.create_dir(inside, recursive=True)
    except OSError as error:
        raise FailureError(f"cannot make the directory {path}: {one_line(error)}") from error


def list_directory(path: str) -> dict[str, fs.FileInfo]:
    """Return the entries of the directory `path` by name; none if there is no such directory.

    Raises NotADirectoryError if there is a file instead, FailureError when it cannot be listed.
    """
    system, inside = open_filesystem(path)
    if system.type_name == "local" and any(map(_is_no_directory, (Path(inside), *Path(inside).parents))):
        raise NotADirectoryError(f"{path} is a file, or below one, or has a name that no directory can have")
    selector = fs.FileSelector(inside, allow_not_found=True)
    try:
        return {entry.base_name: entry for entry in wait_out(lambda: system.get_file_info(selector), where=path)}
    except OSError as error:
        raise FailureError(f"cannot list {path}: {one_line(error)}") from error


def _is_no_directory(path: Path) -> bool:
    """Return whether `path` is a file, a broken link, or a name that is too long."""
    try:
        return path.is_file() or (path.is_symlink() and not path.exists())
    except OSError:
        return True


def delete(path: str) -> None:
    """Delete the file at `path`, or the directory with all its content; do nothing if there is none.

    Raises FailureError when it cannot be deleted.
    """
    system, inside = open_filesystem(path)
    kind = _kind(path)
    if kind == fs.FileType.NotFound:
        return
    remove = system.delete_dir if kind == fs.FileType.Directory else system.delete_file
    try:
        wait_out(lambda: remove(inside), where=path)
    except FileNotFoundError:  # another process was faster
        return
    except OSError as error:
        raise FailureError(f"cannot delete {path}: {one_line(error)}") from error


def rename(path: str, target: str) -> None:
    """Rename the directory `path` to `target` in the same folder, durably; not on object stores.

    Raises FailureError when it cannot be renamed, for example because a directory of that name is not empty.
    """
    system, inside = open_filesystem(path)
    try:
        system.move(inside, open_filesystem(target)[1])
    except OSError as error:
        raise FailureError(f"cannot rename {path} to {target}: {one_line(error)}") from error
    if system.type_name == "local":
        sync_directory(Path(inside).parent)


@contextlib.contextmanager
def _temporary_directory() -> Iterator[str]:
    """Yield a temporary folder; raise FailureError, naming its location, if that is full or cannot be written."""
    place = "of temporary files"
    try:
        place = tempfile.gettempdir()
        with tempfile.TemporaryDirectory(prefix="catdog-") as folder:
            yield folder
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.EACCES, errno.EROFS):
            raise
        raise FailureError(
            f"cannot write to the folder {place}: {one_line(error)}; "
            "free some space there, or set TMPDIR to another folder"
        ) from error


@contextlib.contextmanager
def staged_directory(path: str) -> Iterator[Path]:
    """Yield a local folder whose whole content appears at `path` once the block ends without an error.

    A local `path` appears by one rename. An object store is filled file by file, so its reader must check for a mark.
    """
    system, inside = open_filesystem(path)
    if system.type_name != "local":
        with _temporary_directory() as folder:
            yield Path(folder)
            delete(path)
            for file in sorted(Path(folder).rglob("*")):
                if file.is_file():
                    write_bytes(join(path, file.relative_to(folder).as_posix()), file.read_bytes())
        return
    beside, before = (Path(f"{inside}.{uuid.uuid4().hex[:8]}.part") for _ in range(2))
    beside.mkdir(parents=True)
    try:
        yield beside
        if Path(inside).exists():
            Path(inside).replace(before)
        beside.replace(inside)
    finally:
        delete(str(beside))
        delete(str(before))


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Return `content` as indented JSON."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    if not _is_unicode(text):  # such as an argument that is not UTF-8; Python keeps its bytes as surrogates
        text = json.dumps(content, indent=2, allow_nan=False)
    return f"{text}\n".encode()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_json(path: str, content: Mapping[str, Any]) -> None:
    """Write `content` as indented JSON to `path` atomically."""
    write_bytes(path, json_bytes(content))


def read_json(path: str) -> dict[str, Any]:
    """Return the JSON object at `path`.

    Raises FailureError when the file cannot be read or is not a JSON object. We write such files atomically, so
    somebody else must have changed it.
    """
    try:
        content = json.loads(read_bytes(path))
    except OSError as error:
        raise FailureError(f"cannot read {path}: {one_line(error)}") from error
    except (ValueError, RecursionError) as error:
        raise FailureError(f"{path} is not JSON ({one_line(error)}); delete it and run the command again") from error
    if not isinstance(content, dict):
        raise FailureError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
