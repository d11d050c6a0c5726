"""Lists of photos: a .txt file with a path a line, or a .csv or .tsv file with a column of paths.

A .txt file of more lines than one process is to read is listed by list_tasks.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

from catdog.console import say
from catdog.errors import CatdogError, UsageError, one_line
from catdog.photos.annotations.csv_table import read_csv_table
from catdog.photos.sources.containers.packed import MorePhotosError
from catdog.photos.sources.keys import Photo, as_key, escape_uri, local_path
from catdog.photos.sources.opening import look_at, open_file
from catdog.storage.files import absolute, is_uri, read_bytes, refuse_secrets, split_query

SUFFIXES = (".txt", ".csv", ".tsv")
_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path")
LOOKED_AT = 20  # paths, to tell a list that was written for another machine
MARK = b"\xef\xbb\xbf"  # of UTF-8, at the begin of a file
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_BLOCK = 2**20


class MoreLinesError(MorePhotosError):
    """A list, whose path or URI this is, has more lines than one process is to read."""


def read_list(path: str, *, at_most: int | None = None) -> list[Photo]:
    """Return the photos that the list at `path` names, each once, by path; relative paths count from its own folder.

    A line of a .txt file is a path from its first to its last character; `#` begins a comment, empty lines do not
    count. Raises UsageError for a list that cannot be read or names no photo, MoreLinesError for a .txt file of more
    lines than `at_most`.
    """
    if not split_query(path)[0].lower().endswith(".txt"):
        names = _read_column(path)
    elif at_most is not None and _are_more_lines(path, at_most=at_most):
        raise MoreLinesError(path)
    else:
        names = _read_lines(path)
    keys = keys_of(names, path)
    if not keys:
        raise UsageError(f"expected a path a line in {path}, found none")
    hint(names[0], keys)
    ordered = sorted(keys)
    return photos_of(ordered, common=common_folder(map(place_of, ordered)))


def _are_more_lines(path: str, *, at_most: int) -> bool:
    """Tell whether a list has more than `at_most` lines, and names something else than Parquet files."""
    lines, plain = 0, False
    try:
        with open_file(path) as stream:
            while block := stream.read(_BLOCK):
                if not lines and block.startswith(_UTF_16):
                    return False
                lines += block.count(b"\n")
                plain = plain or any(map(_is_plain, block.split(b"\n")[1:-1]))  # the others may be cut
                if plain and lines > at_most:
                    return True
    except (OSError, CatdogError):  # whoever reads all of it says what is wrong
        pass
    return False


def _is_plain(line: bytes) -> bool:
    return bool(line.strip()) and line[:1] != b"#" and b".parquet" not in line.lower() and b"%" not in line


def keys_of(names: Sequence[str], path: str) -> set[str]:
    """Return the keys of what the list at `path` names. Raises UsageError for a URI with a password in it."""
    base, query = split_query(path)
    for name in filter(is_uri, names):
        refuse_secrets(name)  # the name of a photo stands in results and pages
    return {name if is_uri(name) else _place(base.rpartition("/")[0], name, query) for name in names}


def place_of(key: str) -> str:
    """Return where the file of a key is, as people read it."""
    return unquote(split_query(key)[0]) if is_uri(key) else key


def common_folder(places: Iterable[str]) -> str:
    """Return the folder that all `places` are in, "" for none."""
    return os.path.commonprefix(list(places)).rpartition("/")[0]  # noqa: RUF071 - URIs are among them


def photos_of(keys: Iterable[str], *, common: str) -> list[Photo]:
    """Return the photos of `keys`, which are in the folder `common`, as they are now."""
    skipped = len(common) + 1 if common else 0
    return [Photo(key, place_of(key)[skipped:], _version(key)) for key in keys]


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
        raise unreadable(path, error) from error
    if content.startswith(_UTF_16):
        raise UsageError(f"expected a list of paths in UTF-8 at {path}, found UTF-16: save it as UTF-8")
    content = content.removeprefix(MARK)
    # Lists of an old Mac have carriage returns alone.
    return names_of(content if b"\n" in content else content.replace(b"\r", b"\n"))


def unreadable(path: str, error: Exception) -> UsageError:
    """Return the error for a list that cannot be read."""
    return UsageError(f"expected a list of paths at {path}: cannot be read: {one_line(error)}")


def names_of(lines: bytes) -> list[str]:
    """Return the names in `lines` of a list."""
    # Not splitlines: it splits at marks that file names may hold.
    found = [line.removesuffix("\r") for line in lines.decode("utf-8", "surrogateescape").split("\n")]
    return [as_key(line) for line in found if line.strip() and not line.startswith("#")]


def _read_column(path: str) -> list[str]:
    table = read_csv_table(absolute(path), flag="--photos", columns={"path": _COLUMNS})
    return [row["path"] for _, row in table.rows if row["path"].strip()]


def hint(first: str, keys: Iterable[str]) -> None:
    """Say what may be wrong with a list, by its `first` name, of which none of the first `keys` stands anywhere."""
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
        why = "relative paths count from the folder of the list"
    say(f"None of the first {len(local)} paths in the list exists, such as {first}: {why}.")


def _stands(key: str) -> bool:
    try:
        return os.path.lexists(local_path(key))
    except ValueError:  # a NUL
        return False
