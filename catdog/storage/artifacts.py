"""Finished artifacts in a run directory: fingerprints, completion marks, writes that are whole or absent.

A step writes into its own directory and marks it complete last. The mark carries the inputs that the step
was made from, so a later run can tell whether it may be reused. Paths are local or URIs that pyarrow opens.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from catdog.errors import FailureError, UsageError

COMPLETE = "_COMPLETE.json"


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """Return 16 hex digits that name `inputs` (anything JSON can hold), whatever the order of its keys."""
    text = json.dumps(inputs, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cache_directory() -> Path:
    """Return the directory of this machine that keeps what runs share: downloads."""
    if own := os.environ.get("CATDOG_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "catdog"


def is_uri(path: str) -> bool:
    """Tell a URI such as `s3://bucket/key` from a local path."""
    return "://" in path


def absolute(path: str) -> str:
    """Return a local `path` made absolute, with `~` expanded; a URI as it is, without a trailing slash."""
    return path.rstrip("/") if is_uri(path) else str(Path(path).expanduser().absolute())


def join(base: str, *parts: str) -> str:
    """Join `parts` below `base`, a local path or URI."""
    return "/".join([base.rstrip("/"), *parts])


def open_filesystem(path: str) -> tuple[fs.FileSystem, str]:
    """Return pyarrow's file system for `path` and the path inside it.

    Raises UsageError for a URI that no file system opens.
    """
    if not is_uri(path):
        return fs.LocalFileSystem(), absolute(path)
    try:
        system, inside = fs.FileSystem.from_uri(path)
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise UsageError(
            f"cannot open {path}: {one_line(error)}; expected a local path or a URI such as s3://bucket/folder"
        ) from error
    return system, inside


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


def mark_complete(directory: str, *, inputs: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """Declare the artifact in `directory` finished, made from `inputs`; call it last."""
    write_json(join(directory, COMPLETE), {"inputs": inputs, "summary": summary})


def completed(directory: str, *, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the summary of a finished artifact, or None where there is none yet.

    Raises UsageError with the differences when it was made from other inputs.
    """
    path = join(directory, COMPLETE)
    if not exists(path):
        return None
    mark = read_json(path)
    refuse_difference(directory, found=mark["inputs"], wanted=json.loads(json.dumps(inputs)))
    summary: dict[str, Any] = mark["summary"]
    return summary


def refuse_difference(
    where: str, *, found: Mapping[str, Any], wanted: Mapping[str, Any], remedy: str = "another --run-dir"
) -> None:
    """Raise UsageError, naming each difference, unless `wanted` agrees with `found` on the keys they share."""
    changed = [
        f"{key} was {json.dumps(found[key])}, is now {json.dumps(wanted[key])}"
        for key in sorted(found.keys() & wanted.keys())
        if found[key] != wanted[key]
    ]
    if changed:
        raise UsageError(
            f"{where} was made with other settings ({'; '.join(changed)}): "
            f"give the settings it was made with, or {remedy}"
        )


def one_line(error: BaseException) -> str:
    """Return what `error` says on one line, its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
