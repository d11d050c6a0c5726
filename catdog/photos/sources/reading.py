"""The bytes of many photos, in their order; those on an object store are read many at the same time.

A store takes some 30 ms for a small file. One at a time, a core would be idle for longer than the decoding takes.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from catdog.errors import ImageError
from catdog.photos.sources.inputs import input_rows, read_input
from catdog.storage.files import CONNECTIONS


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoBytes:
    """The content of a photo, or its error; `retried` is true if it was read after a transient error."""

    content: bytes | ImageError
    retried: bool


def read_each(block: pa.Table) -> Iterator[PhotoBytes]:
    """Yield the bytes of each row of `block` (inputs.INPUTS), in order; those on an object store are read ahead.

    Raises FailureError if a store does not answer for a minute.
    """
    rows = input_rows(block)
    if not _is_remote(block):
        yield from map(_read_row, rows)
        return
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        waiting: deque[Future[PhotoBytes]] = deque()
        try:
            for row in rows:
                waiting.append(pool.submit(_read_row, row))
                if len(waiting) >= CONNECTIONS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _is_remote(block: pa.Table) -> bool:
    """Return whether all rows are plain files on an object store; tables and archives are read in sequence."""
    paths = block["path"]
    remote = pc.all(pc.and_(pc.match_substring(paths, "://"), pc.invert(pc.match_substring(paths, "!"))))
    return bool(remote.as_py()) and block["table"].null_count == block.num_rows


def _read_row(row: dict[str, Any]) -> PhotoBytes:
    retries: list[None] = []
    content = read_input(row, on_retry=lambda: retries.append(None))
    # An error that persists after the retries is not a photo that a retry recovered.
    failed = isinstance(content, ImageError) and content.code == "io"
    return PhotoBytes(content=content, retried=bool(retries) and not failed)
