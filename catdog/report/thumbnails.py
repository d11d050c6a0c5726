"""Thumbnails of photos for a report: a few hundred at most, made by Ray tasks."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence

import pyarrow as pa

from catdog.cluster.actors import run_in_tasks
from catdog.errors import FailureError, ImageError, one_line
from catdog.photos.decoding.isolation import decode_each
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.decoding.thumbnails import make_thumbnail
from catdog.photos.sources.inputs import find_inputs, read_inputs
from catdog.storage import files
from catdog.storage.schemas import PICTURES, check_schema
from catdog.storage.tables import read_parquet, write_parquet

THUMBNAIL_SIZE = 160  # pixels of the longer side
_MIN_PHOTOS_PER_TASK = 32


def make_thumbnails(
    photos: Sequence[str], *, size: int = THUMBNAIL_SIZE, limits: DecodeLimits, task_cpus: float = 0.25
) -> dict[str, bytes]:
    """Return JPEG bytes by photo: upright, the longer side `size` pixels, or less if the photo is smaller.

    `photos` are keys as in the manifest or in prediction rows: paths, URIs, members of archives, rows of Parquet files.
    A task reserves `task_cpus` cores. A photo that fails is left out. If the tasks themselves fail, the photos that are
    not done yet are left out too, because a missing picture must not fail a job.
    """
    names, found = list(dict.fromkeys(photos)), dict[str, bytes]()
    if not names:
        return found
    work = functools.partial(_make_piece, size=size, limits=limits)
    with contextlib.suppress(Exception):  # Ray raises many types when a task fails or dies
        for _, made in run_in_tasks(work, _pieces(names), num_cpus=task_cpus):
            found |= made
    return {name: found[name] for name in names if name in found}


def write_pictures(path: str, pictures: pa.Table) -> None:
    """Write rows of the schema schemas.PICTURES to a Parquet file at `path`, atomically."""
    write_parquet(path, pictures.cast(PICTURES), compression="none")


def read_pictures(path: str) -> pa.Table:
    """Return what `write_pictures` wrote, or no rows if there is no file.

    Raises FailureError if the file is damaged or has other columns.
    """
    if not files.exists(path):
        return PICTURES.empty_table()
    try:
        pictures = read_parquet(path)
    except (OSError, pa.ArrowException) as error:
        raise FailureError(f"{path} cannot be read: {one_line(error)}") from error
    return check_schema(pictures, PICTURES, where=path)


def _pieces(names: list[str]) -> Iterator[list[str]]:
    """Yield the names for each task. A process takes longer to start than to make dozens of thumbnails."""
    import ray

    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    length = max(_MIN_PHOTOS_PER_TASK, math.ceil(len(names) / cores))
    return (names[start : start + length] for start in range(0, len(names), length))


def _make_piece(names: list[str], tries: int, *, size: int, limits: DecodeLimits) -> dict[str, bytes]:
    """Return the thumbnails of the photos `names` that can be read; a task runs this after `tries` attempts."""
    contents = (content for _, content in read_inputs(find_inputs(names)))
    make = functools.partial(make_thumbnail, size=size, limits=limits)
    made = decode_each(contents, make, seconds=limits.max_seconds, tries=tries)
    return {name: jpeg for name, jpeg in zip(names, made, strict=True) if not isinstance(jpeg, ImageError)}
