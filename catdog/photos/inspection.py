"""Read and decode every photo over the cluster: its digest, its size, its perceptual hash, or why it cannot be used.

Photo bytes never leave the task that read them: the driver sees one small row a photo.
"""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from catdog.cluster.actors import count_tries, map_in_tasks
from catdog.cluster.failures import root_cause
from catdog.errors import CatdogError, FailureError, ImageError, UsageError
from catdog.evaluation.near_duplicates import hash_pictures
from catdog.photos.decoding.decode import Inspection, inspect_image
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.isolation import decode_each
from catdog.photos.sources.inputs import find_inputs
from catdog.photos.sources.reading import read_each

Progress = Callable[[int, int], None]
Inspect = Callable[..., Inspection]  # of content and limits

PHOTOS_PER_BLOCK = 256  # about a second of reading and decoding on one core, so that progress is live
MAX_BLOCKS = 4096  # more would cost the driver more than they bring
PROGRESS_SECONDS = 0.5

_INSPECTED = pa.schema(
    [
        pa.field("position", pa.int64()),  # in the list of paths
        pa.field("digest", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("perceptual_hash", pa.uint64()),
        pa.field("reason", pa.string()),  # null for a usable photo
    ]
)


def inspect_photos(
    paths: Sequence[str], *, limits: DecodeLimits, progress: Progress | None = None, inspect: Inspect = inspect_image
) -> pa.Table:
    """Read and `inspect` every photo over the cluster; return one row each, in the order of `paths`.

    Columns: position, digest (sha256, hex), width and height in pixels, perceptual_hash, reason (null for a
    usable photo). Raises FailureError where Ray gives up.
    """
    found, done, reported = [_INSPECTED.empty_table()], 0, time.monotonic()
    if progress:
        progress(0, len(paths))
    try:
        for batch in _inspections(paths, inspect=functools.partial(inspect, limits=limits), seconds=limits.max_seconds):
            found.append(batch)
            done += batch.num_rows
            if progress and (done == len(paths) or time.monotonic() - reported >= PROGRESS_SECONDS):
                progress(done, len(paths))
                reported = time.monotonic()
    except CatdogError:
        raise
    except Exception as error:  # Ray wraps what a task raised in classes of its own
        raise FailureError(f"checking photos failed, {done} of {len(paths)} done: {root_cause(error)}") from error
    result = pa.concat_tables(found).sort_by("position")
    if not np.array_equal(result["position"].to_numpy(), np.arange(len(paths))):
        raise FailureError(f"expected a row for each of {len(paths)} photos, got {done}: run the step again")
    return result


def _inspections(paths: Sequence[str], *, inspect: Callable[[bytes], Inspection], seconds: float) -> Iterator[pa.Table]:
    """Yield the inspected rows of each block as it is done, in any order."""
    table = pa.table({"position": np.arange(len(paths)), "path": pa.array(paths, pa.string())})
    rows = _rows_per_block(len(paths), cpus=ray.cluster_resources().get("CPU", 1.0))
    blocks = ray.data.from_arrow([table.slice(start, rows) for start in range(0, len(paths), rows)])
    inspect_block = functools.partial(_inspect_block, inspect=inspect, seconds=seconds)
    inspected = map_in_tasks(blocks, inspect_block, batch_format="pyarrow", num_cpus=1)
    yield from inspected.iter_batches(batch_size=None, batch_format="pyarrow")


def _rows_per_block(photos: int, *, cpus: float) -> int:
    """Return photos a task: enough to outweigh its start, few enough that every CPU has one."""
    share = math.ceil(photos / max(cpus, 1.0))
    return max(min(share, PHOTOS_PER_BLOCK), 16, math.ceil(photos / MAX_BLOCKS))


def _inspect_block(block: pa.Table, *, inspect: Callable[[bytes], Inspection], seconds: float) -> pa.Table:
    tries = count_tries(f"photos from {block['position'][0]}")
    digests: list[str] = []
    contents = _contents(block["path"].to_pylist(), digests)
    # The digest of a photo is the last one when what was found in it comes.
    rows = [_row(found, digests[-1]) for found in decode_each(contents, inspect, seconds=seconds, tries=tries)]
    # All at once: one by one the arithmetic would take twice as long as a photo's whole hash.
    usable = [row for row in rows if "gray" in row]
    for row, found in zip(usable, hash_pictures([row.pop("gray") for row in usable]).to_pylist(), strict=True):
        row["perceptual_hash"] = found
    positions = block["position"].to_pylist()
    return pa.Table.from_pylist([{"position": at} | row for at, row in zip(positions, rows, strict=True)], _INSPECTED)


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
    """Return the reason to reject each photo whose bytes were seen before, by position in `paths` (sorted).

    The first of equal photos in one class stays; equal photos in two classes contradict each other, and none stays.
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
        codes = Counter(reason.partition(":")[0] for reason in found)
        counted = ", ".join(f"{count} {code}" for code, count in codes.most_common())
        why = f"{counted}; the first one is {found[0]}" if found else "the corrections leave all of them out"
        raise UsageError(
            f"expected usable photos of every class in {source}, found none of {classes[label]} ({why}): "
            "add photos of it or take its folder away"
        )
