"""Lists of photos: a .txt file with a path a line, or a .csv or .tsv file with a column of paths."""

from __future__ import annotations

import os
from urllib.parse import unquote

from catdog.console import say
from catdog.errors import CatdogError, UsageError, one_line
from catdog.photos.annotations.csv_table import read_csv_table
from catdog.photos.sources.keys import Photo, as_key, escape_uri, local_path
from catdog.photos.sources.opening import look_at
from catdog.storage.files import absolute, is_uri, read_bytes, refuse_secrets, split_query

SUFFIXES = (".txt", ".csv", ".tsv")
_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path")
_LOOKED_AT = 20  # paths, to tell a list that was written for another machine


def read_list(path: str) -> list[Photo]:
    """Return the photos that the list at `path` names, each once, by path; relative paths count from its own folder.

    A line of a .txt file is a path from its first to its last character; `#` begins a comment, empty lines do not
    count. Raises UsageError for a list that cannot be read or names no photo.
    """
    base, query = split_query(path)
    names = _read_lines(path) if base.lower().endswith(".txt") else _read_column(path)
    for name in filter(is_uri, names):
        refuse_secrets(name)  # the name of a photo stands in results and pages
    keys = {name if is_uri(name) else _place(base.rpartition("/")[0], name, query) for name in names}
    if not keys:
        raise UsageError(f"expected a path a line in {path}, found none")
    _hint(names, keys)
    places = {key: unquote(split_query(key)[0]) if is_uri(key) else key for key in sorted(keys)}
    common = os.path.commonprefix(list(places.values())).rpartition("/")[0]  # noqa: RUF071 - URIs are among them
    return [Photo(key, place[len(common) + 1 :] if common else place, _version(key)) for key, place in places.items()]


def _version(key: str) -> str | None:
    if is_uri(key):
        return None  # to ask the store for each of them would be a request a photo
    try:
        return look_at(key)[1]
    except OSError:
        return None  # what cannot be looked at is an error row once it is read


def _place(folder: str, name: str, query: str) -> str:
    """Return the key of `name`, which counts from `folder`, that of the list."""
    scheme, mark, rest = folder.rpartition("://")
    if mark and name.startswith("/"):
        return name
    # Not Path.resolve: a link is another file than its target.
    place = os.path.normpath(os.path.join(rest, escape_uri(name) if mark else name))  # noqa: PTH118
    return f"{scheme}{mark}{place}{query}"


def _read_lines(path: str) -> list[str]:
    try:
        content = read_bytes(path)
    except (OSError, CatdogError) as error:
        raise UsageError(f"expected a list of paths at {path}: cannot be read: {one_line(error)}") from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UsageError(f"expected a list of paths in UTF-8 at {path}, found UTF-16: save it as UTF-8")
    text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    # Not splitlines: it splits at marks that file names may hold. Lists of an old Mac have carriage returns alone.
    lines = [line.removesuffix("\r") for line in text.split("\n" if "\n" in text else "\r")]
    return [as_key(line) for line in lines if line.strip() and not line.startswith("#")]


def _read_column(path: str) -> list[str]:
    table = read_csv_table(absolute(path), flag="--photos", columns={"path": _COLUMNS})
    return [row["path"] for _, row in table.rows if row["path"].strip()]


def _hint(names: list[str], keys: set[str]) -> None:
    """Say what may be wrong with a list of which none of the first paths stands anywhere."""
    local = [key for key in sorted(keys)[:_LOOKED_AT] if not is_uri(key)]
    if not local or len(local) < min(_LOOKED_AT, len(keys)) or any(_stands(key) for key in local):
        return
    first = names[0]
    if first[:1] in "\"'" and first[-1:] == first[:1]:
        why = "they are in quotes, and a line of a list is the path itself"
    elif first[:1] in "{[" and first[-1:] in "}]":
        why = "they are JSON, and a line of a list is the path itself"
    elif first[1:3] in (":\\", ":/") or "\\" in first:
        why = "they are Windows paths"
    elif first != first.strip():
        why = "they begin or end with a space"
    else:
        why = "relative paths count from the folder of the list"
    say(f"None of the first {len(local)} paths in the list exists, such as {first}: {why}.")


def _stands(key: str) -> bool:
    try:
        return os.path.lexists(local_path(key))
    except ValueError:  # a NUL
        return False
