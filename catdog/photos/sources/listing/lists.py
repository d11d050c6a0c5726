"""Lists of photos: a .txt file with one path per line, or a .csv or .tsv file with a column of paths.

A list with more lines than one process should read is listed by list_tasks.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import unquote

from catdog.console import say
from catdog.errors import CatdogError, UsageError, one_line
from catdog.photos.annotations.csv_table import csv_rows
from catdog.photos.sources.containers.packed import MorePhotosError
from catdog.photos.sources.keys import Photo, as_key, escape_uri, local_path
from catdog.photos.sources.opening import look_at, open_file
from catdog.storage.files import is_uri, read_bytes, refuse_secrets, split_query

SUFFIXES = (".txt", ".csv", ".tsv")
_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path")
LOOKED_AT = 20  # paths checked, to recognize a list that was written for another machine
MARK = b"\xef\xbb\xbf"  # the byte order mark of UTF-8
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_BLOCK = 2**20


class MoreLinesError(MorePhotosError):
    """A list has more lines than one process should read; the message is its path or URI."""


def read_list(path: str, *, at_most: int | None = None) -> list[Photo]:
    """Return the photos that the list at `path` names, each once, sorted by path.

    Relative paths start at the folder of the list. A path is a whole line of a .txt file, spaces included. Lines that
    begin with `#` and empty lines are skipped. Raises UsageError for a list that cannot be read or names no photo, and
    MoreLinesError for one with more lines than `at_most`.
    """
    if at_most is not None and _are_more_lines(path, at_most=at_most):
        raise MoreLinesError(path)
    names = list(column_names(path)) if is_table(path) else _read_lines(path)
    keys = keys_of(names, path)
    if not keys:
        raise UsageError(f"expected one path per line in {path}, found none")
    hint(names[0], keys)
    ordered = sorted(keys)
    return photos_of(ordered, common=common_folder(map(place_of, ordered)))


def _are_more_lines(path: str, *, at_most: int) -> bool:
    """Return whether a list has more than `at_most` lines and names anything other than Parquet files."""
    lines, plain = 0, False
    try:
        with open_file(path) as stream:
            while block := stream.read(_BLOCK):
                if not lines and block.startswith(_UTF_16):
                    return False
                lines += block.count(b"\n")
                plain = plain or any(map(_is_plain, block.split(b"\n")[1:-1]))  # the first and last may be incomplete
                if plain and lines > at_most:
                    return True
    except (OSError, CatdogError):  # reading the whole list reports the error
        pass
    return False


def _is_plain(line: bytes) -> bool:
    return bool(line.strip()) and line[:1] != b"#" and b".parquet" not in line.lower() and b"%" not in line


def keys_of(names: Sequence[str], path: str) -> set[str]:
    """Return the keys of `names` in the list at `path`; raises UsageError for a URI with a password in it."""
    base, query = split_query(path)
    for name in filter(is_uri, names):
        refuse_secrets(name)  # the name of a photo appears in results and pages
    return {name if is_uri(name) else _place(base.rpartition("/")[0], name, query) for name in names}


def place_of(key: str) -> str:
    """Return the readable path of a key: a URI loses its query and percent-encoding."""
    return unquote(split_query(key)[0]) if is_uri(key) else key


def common_folder(places: Iterable[str]) -> str:
    """Return the deepest folder that contains all `places`, or "" if there is none."""
    return os.path.commonprefix(list(places)).rpartition("/")[0]  # noqa: RUF071 - URIs are among them


def photos_of(keys: Iterable[str], *, common: str) -> list[Photo]:
    """Return the photos of `keys`, all in the folder `common`, with their current versions."""
    skipped = len(common) + 1 if common else 0
    return [Photo(key, place_of(key)[skipped:], _version(key)) for key in keys]


def _version(key: str) -> str | None:
    if is_uri(key):
        return None  # asking the store would take one request per photo
    try:
        return look_at(key)[1]
    except OSError:
        return None  # it becomes an error row once it is read


def _place(folder: str, name: str, query: str) -> str:
    """Return the key of `name`, relative to `folder`, which holds the list."""
    scheme, mark, rest = folder.rpartition("://")
    if mark and name.startswith("/"):
        return name
    # Not Path.resolve: a link and its target are different files.
    place = os.path.normpath(os.path.join(rest, escape_uri(name) if mark else name))  # noqa: PTH118
    return f"{scheme}{mark}{place}{query}"


def _read_lines(path: str) -> list[str]:
    try:
        content = read_bytes(path)
    except (OSError, CatdogError) as error:
        raise unreadable(path, error) from error
    if content.startswith(_UTF_16):
        raise UsageError(f"expected a list of paths in UTF-8 at {path}, found UTF-16: save it as UTF-8")
    content = content.removeprefix(MARK)
    # Lists from old Macs have only carriage returns.
    return names_of(content if b"\n" in content else content.replace(b"\r", b"\n"))


def unreadable(path: str, error: Exception) -> UsageError:
    """Return the error for a list that cannot be read."""
    return UsageError(f"expected a list of paths at {path}: cannot be read: {one_line(error)}")


def names_of(lines: bytes) -> list[str]:
    """Return the names in `lines` of a list."""
    # Not splitlines: it splits at characters that file names may contain.
    found = [line.removesuffix("\r") for line in lines.decode("utf-8", "surrogateescape").split("\n")]
    return [as_key(line) for line in found if line.strip() and not line.startswith("#")]


def is_table(path: str) -> bool:
    """Return whether the list at `path` has columns."""
    return not split_query(path)[0].lower().endswith(".txt")


def column_names(path: str) -> Iterator[str]:
    """Yield the names in the column of paths of a .csv or .tsv file, as they are read.

    Raises UsageError for a list that cannot be read or has no such column.
    """
    where = f"--photos {path}"
    try:
        with open_file(path) as stream:
            for _, row in csv_rows(stream, where=where, columns={"path": _COLUMNS}):
                if row["path"].strip():
                    yield row["path"]
    except OSError as error:
        raise unreadable(path, error) from error


def hint(first: str, keys: Iterable[str]) -> None:
    """Report what may be wrong with a list, judged by its `first` name, if none of its lowest `keys` exists here."""
    keys = sorted(keys)
    local = [key for key in keys[:LOOKED_AT] if not is_uri(key)]
    if not local or len(local) < min(LOOKED_AT, len(keys)) or any(_stands(key) for key in local):
        return
    if first[:1] in "\"'" and first[-1:] == first[:1]:
        why = "they are in quotes, and a line of a list is the path itself"
    elif first[:1] in "{[" and first[-1:] in "}]":
        why = "they are JSON, and a line of a list is the path itself"
    elif first[1:3] in (":\\", ":/") or "\\" in first:
        why = "they are Windows paths"
    elif first != first.strip():
        why = "they begin or end with a space"
    else:
        why = "relative paths are relative to the folder of the list"
    say(f"None of the first {len(local)} paths in the list exists, such as {first}: {why}.")


def _stands(key: str) -> bool:
    try:
        return os.path.lexists(local_path(key))
    except ValueError:  # a NUL
        return False
