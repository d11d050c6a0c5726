"""Read and decode every photo on the cluster: its digest, size and perceptual hash, or the reason to reject it.

Photo bytes never leave the task that read them. The driver receives at most one small row per photo. Each task keeps
its results next to the manifest, so that an ingest that was killed resumes with the photos that are not inspected yet.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catdog.cluster.actors import run_in_tasks
from catdog.cluster.failures import root_cause
from catdog.errors import CatdogError, FailureError, ImageError, UsageError
from catdog.evaluation.near_duplicates import hash_pictures
from catdog.photos.decoding.decode import Inspection, inspect_image
from catdog.photos.decoding.isolation import Journal, decode_each
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.sources.inputs import find_inputs
from catdog.photos.sources.reading import read_each
from catdog.storage import files
from catdog.storage.tables import read_parquet, write_parquet

Progress = Callable[[int, int], None]
Inspect = Callable[..., Inspection]  # takes content and limits

# A task reads and decodes for at least a quarter of a second, to outweigh its startup, and for at most eight seconds.
_MIN_PHOTOS, _MAX_PHOTOS, _TASKS = 64, 2048, 1024
PROGRESS_SECONDS = 0.5
_FORMAT = 1  # of the kept files

INSPECTED = pa.schema(
    [
        pa.field("digest", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("perceptual_hash", pa.uint64()),
        pa.field("reason", pa.string()),  # null for a usable photo
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspector:
    """How photos are inspected, and the folder that keeps the results ("" keeps none)."""

    limits: DecodeLimits
    keep: str = ""
    inspect: Inspect = inspect_image

    def __call__(self, photos: pa.Table, tries: int) -> pa.Table:
        """Return the results for `photos` (path, version), in their order, from the kept file if there is one.

        `tries` counts the earlier attempts of this task, whose processes died.
        """
        path = self.kept_at(photos)
        if path and files.exists(path):
            return read_parquet(path, schema=INSPECTED)
        found = self.look(photos["path"].to_pylist(), tries)
        if path:
            write_parquet(path, found, compression="zstd")
        return found

    def kept_at(self, photos: pa.Table) -> str:
        """Return the path of the file that keeps the results for `photos`, or "" for none.

        Nothing is kept if a photo has no version, because a change of that photo would go unnoticed.
        """
        if not self.keep or photos["version"].null_count or not photos.num_rows:
            return ""
        state = hashlib.sha256(f"{_FORMAT} {self.limits}".encode())
        for pair in zip(photos["path"].to_pylist(), photos["version"].to_pylist(), strict=True):
            state.update("\0".join(("", *pair)).encode())
        return files.join(self.keep, f"{state.hexdigest()[:32]}.parquet")

    def look(self, paths: Sequence[str], tries: int) -> pa.Table:
        """Read and inspect the photos at `paths`, in their order, without the kept results that `__call__` uses."""
        digests: list[str] = []
        journal = Journal("\0".join(paths))
        try:
            decode, seconds = functools.partial(self.inspect, limits=self.limits), self.limits.max_seconds
            found = decode_each(_contents(paths, digests), decode, seconds=seconds, tries=tries, journal=journal)
            # decode_each is lazy: when it yields a result, the last digest is that of the same photo.
            rows = [_row(one, digests[-1]) for one in found]
        finally:
            journal.close()
        journal.delete()
        # Hashed in one batch: one by one, the arithmetic alone would take twice as long as a whole hash does.
        usable = [row for row in rows if "gray" in row]
        for row, hashed in zip(usable, hash_pictures([row.pop("gray") for row in usable]).to_pylist(), strict=True):
            row["perceptual_hash"] = hashed
        return pa.Table.from_pylist(rows, INSPECTED)


def photos_per_task(photos: int) -> int:
    """Return the number of photos per task, from the total alone, so that a later attempt finds the kept results."""
    return min(max(photos // _TASKS, _MIN_PHOTOS), _MAX_PHOTOS)


def inspect_photos(photos: pa.Table, inspector: Inspector, *, progress: Progress | None = None) -> pa.Table:
    """Inspect all `photos` (path, version) on the cluster; return one row per photo, in their order.

    Columns: digest (sha256, hex), width and height in pixels, perceptual_hash, reason (null for a usable photo).
    Raises FailureError if Ray gives up.
    """
    size, count = photos_per_task(photos.num_rows), photos.num_rows
    photos = photos.select(["path", "version"])
    # `take`, not `slice`: Ray would send a slice with the whole table that it is cut from.
    pieces = ((start, photos.take(np.arange(start, min(start + size, count)))) for start in range(0, count, size))
    found: dict[int, pa.Table] = {}
    for (start, piece), rows in follow(
        lambda piece, tries: inspector(piece[1], tries), pieces, count=count, size=lambda piece: piece[1].num_rows,
        progress=progress,
    ):  # fmt: skip
        if rows.num_rows != piece.num_rows:
            raise FailureError(f"expected a row for each of {piece.num_rows} photos, got {rows.num_rows}")
        found[start] = rows
    return pa.concat_tables([INSPECTED.empty_table(), *(found[start] for start in sorted(found))])


def follow(
    function: Callable[[Any, int], Any],
    pieces: Iterator[Any],
    *,
    count: int,
    size: Callable[[Any], int],
    progress: Progress | None,
) -> Iterator[tuple[Any, Any]]:
    """Yield each of `pieces` with its result, as run_in_tasks does, and report `progress`.

    `size` returns the number of photos in a piece, `count` is their total. Raises FailureError if Ray gives up.
    """
    done, reported = 0, time.monotonic()
    if progress:
        progress(0, count)
    try:
        for piece, found in run_in_tasks(function, pieces, num_cpus=1):
            done += size(piece)
            if progress and (done == count or time.monotonic() - reported >= PROGRESS_SECONDS):
                progress(done, count)
                reported = time.monotonic()
            yield piece, found
    except CatdogError:
        raise
    except Exception as error:  # Ray's own exception classes
        raise FailureError(f"checking photos failed, {done} of {count} done: {root_cause(error)}") from error


def _contents(paths: Sequence[str], digests: list[str]) -> Iterator[bytes | ImageError]:
    """Yield the content of each photo, or its error, and append its digest to `digests`."""
    for photo in read_each(find_inputs(paths)):
        content = photo.content
        digests.append("" if isinstance(content, ImageError) else hashlib.sha256(content).hexdigest())
        yield content


def _row(found: Inspection | ImageError, digest: str) -> dict[str, Any]:
    if isinstance(found, ImageError):
        return {"reason": str(found)}
    return {"digest": digest, "width": found.width, "height": found.height, "gray": found.gray}


def reject_copies(
    paths: Sequence[str], *, labels: np.ndarray, digests: pa.ChunkedArray, classes: Sequence[str]
) -> dict[int, str]:
    """Return the reason to reject each photo with the same bytes as another, by position in `paths` (sorted).

    Of equal photos in one class, the first stays. Equal photos in two classes contradict each other: all are rejected.
    """
    indices = digests.combine_chunks().dictionary_encode().indices  # null for a photo already rejected
    codes = pc.fill_null(indices, -1).to_numpy(zero_copy_only=False)
    repeated = np.bincount(codes[codes >= 0], minlength=1) > 1
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for position in np.flatnonzero((codes >= 0) & repeated[codes]).tolist():
        groups[codes[position]].append(position)
    reasons: dict[int, str] = {}
    for first, *others in groups.values():
        rival = next((position for position in others if labels[position] != labels[first]), None)
        if rival is None:
            reasons |= dict.fromkeys(others, f"duplicate: same bytes as {paths[first]}")
            continue
        for position in (first, *others):
            against = rival if labels[position] == labels[first] else first
            reasons[position] = f"conflict: same bytes as {paths[against]} of class {classes[labels[against]]}"
    return reasons


def require_every_class(
    classes: Sequence[str], *, labels: np.ndarray, reasons: Sequence[str | None], source: str
) -> None:
    """Raise UsageError, with the reasons counted, when a class has no usable photo."""
    missing = set(range(len(classes))) - set(labels[[reason is None for reason in reasons]].tolist())
    for label in sorted(missing):
        found = [str(reasons[row]) for row in np.flatnonzero(labels == label).tolist()]
        codes = dict(Counter(reason.partition(":")[0] for reason in found).most_common())
        raise UsageError(missing_class_text(classes[label], codes, first=found[0] if found else "", source=source))


def missing_class_text(name: str, codes: Mapping[str, int], *, first: str, source: str) -> str:
    """Return the error text for class `name` without a usable photo.

    `codes` counts the rejections by code, `first` is the first reason.
    """
    counted = ", ".join(f"{count} {code}" for code, count in codes.items())
    why = f"{counted}; the first one is {first}" if codes else "the corrections leave out all of them"
    return (
        f"expected usable photos of every class in {source}, found none of {name} ({why}): "
        "add photos of it or remove its folder"
    )
