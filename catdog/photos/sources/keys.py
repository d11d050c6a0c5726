"""The key of a photo: its path as text, the same in every table, page and CSV file.

A key is the absolute path of a local file or a URI that pyarrow opens. A member of an archive has the key
`ARCHIVE.zip!folder/1.jpg`, a row of a table `TABLE.parquet!NAME`. In a URI, `%`, `?` and `#` in a name are
percent-encoded. A byte of a local name that is not UTF-8 is written as `\\x{e9}`. So is the backslash in a name that
contains such a text itself.
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
    """A file that was found: `path` is its key, `relative` its path below the source, parts joined by `/`.

    `version` changes when the content does. It is None if a change cannot be detected.
    """

    path: str
    relative: str
    version: str | None = None


def below(folders: Iterable[str]) -> tuple[str, ...]:
    """Return the prefixes of all keys below `folders`, for str.startswith."""
    return tuple(f"{folder.rstrip('/')}/" for folder in folders)


def key_of_name(name: str) -> str:
    """Return the key of a local name as Python's os module has it: with surrogates for bytes that are not UTF-8."""
    if name.isascii() and "\\" not in name:  # nearly all names: the code below costs more than listing them
        return name
    text = _LOOKS_ESCAPED.sub(r"\\x{5c}", name)
    return "".join(f"\\x{{{ord(mark) - 0xDC00:02x}}}" if 0xDC80 <= ord(mark) <= 0xDCFF else mark for mark in text)


def as_key(source: str) -> str:
    """Return the key of what a user or a list names; it may already be a key from catdog's own results."""
    if source.isascii() and "\\" not in source:  # nearly all names
        return source
    if not any(0xDC80 <= ord(mark) <= 0xDCFF for mark in source) and not ("\\x{" in source and os.path.lexists(source)):
        return source
    return key_of_name(source)


def local_path(key: str) -> str:
    """Return the path, for system calls, of the local file with this key."""
    if "\\x{" not in key:
        return key
    raw = _ESCAPED.sub(lambda found: os.fsdecode(bytes([int(found[1], 16)])), key)
    return os.fsdecode(os.fsencode(raw))  # the bytes may together be valid UTF-8


def escape_uri(name: str) -> str:
    """Return `name` with the characters percent-encoded that have a meaning in a URI."""
    return name.replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def quoted_uri(path: str) -> str:
    """Return the URI `path` with the characters percent-encoded that URIs may not contain."""
    base, query = split_query(path)
    scheme, _, rest = base.partition("://")
    authority, slash, inside = rest.partition("/")
    encoded = quote(inside, safe="%/:@!$&'()*+,;=~")
    return f"{scheme}://{authority}{slash}{encoded}{query}"


def last_name(path: str) -> str:
    """Return the last part of a key without a query, in readable form."""
    name = path.rpartition("/")[2]
    return unquote(name) if is_uri(path) else name
