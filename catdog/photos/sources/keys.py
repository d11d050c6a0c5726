"""The key of a photo: its path as text, the same in every table, page and CSV file.

A key is a local file's absolute path, a URI that pyarrow opens, for a member of an archive `ARCHIVE.zip!folder/1.jpg`,
or for a row of a table `TABLE.parquet!NAME`. In a URI `%`, `?` and `#` of a name are percent-encoded. A byte of a local
name that is no UTF-8 is written as `\\x{e9}`, and so is the backslash of a name that holds such a text itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote, unquote

from catdog.storage.files import is_uri, split_query

_ESCAPED = re.compile(r"\\x\{([0-9a-f]{2})\}")
_LOOKS_ESCAPED = re.compile(r"\\(?=x\{[0-9a-f]{2}\})")


class Photo(NamedTuple):
    """A file found: `path` is its key, `relative` its place below the source, parts joined by `/`.

    `version` changes when the content does; None where that cannot be told.
    """

    path: str
    relative: str
    version: str | None = None


def below(folders: Iterable[str]) -> tuple[str, ...]:
    """Return what the keys of all that lies below one of `folders` begin with, for str.startswith."""
    return tuple(f"{folder.rstrip('/')}/" for folder in folders)


def key_of_name(name: str) -> str:
    """Return the text of a local name as the system gives it, a str with surrogates for bytes that are no UTF-8."""
    if name.isascii() and "\\" not in name:  # nearly all: the rest costs more than listing them
        return name
    text = _LOOKS_ESCAPED.sub(r"\\x{5c}", name)
    return "".join(f"\\x{{{ord(mark) - 0xDC00:02x}}}" if 0xDC80 <= ord(mark) <= 0xDCFF else mark for mark in text)


def as_key(source: str) -> str:
    """Return the key of what a person or a list names, which may be a key already: a row of our own results."""
    if source.isascii() and "\\" not in source:  # nearly all
        return source
    if not any(0xDC80 <= ord(mark) <= 0xDCFF for mark in source) and not ("\\x{" in source and os.path.lexists(source)):
        return source
    return key_of_name(source)


def local_path(key: str) -> str:
    """Return the path of a local file, for the system's calls, of its key."""
    if "\\x{" not in key:
        return key
    raw = _ESCAPED.sub(lambda found: os.fsdecode(bytes([int(found[1], 16)])), key)
    return os.fsdecode(os.fsencode(raw))  # two bytes that are one character of UTF-8 after all


def escape_uri(name: str) -> str:
    """Return a name with the marks encoded that mean something in a URI."""
    return name.replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def quoted_uri(path: str) -> str:
    """Return a URI with the characters encoded that URIs may not hold."""
    base, query = split_query(path)
    scheme, _, rest = base.partition("://")
    authority, slash, inside = rest.partition("/")
    encoded = quote(inside, safe="%/:@!$&'()*+,;=~")
    return f"{scheme}://{authority}{slash}{encoded}{query}"


def last_name(path: str) -> str:
    """Return the last name of a key without a query, as people read it."""
    name = path.rpartition("/")[2]
    return unquote(name) if is_uri(path) else name
