"""Thumbnails of photos for a report: a few hundred at most, made by Ray Data tasks."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import pyarrow as pa

from catdog.cluster.actors import count_tries, map_in_tasks
from catdog.errors import FailureError, ImageError, one_line
from catdog.photos.decoding.isolation import decode_each
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.decoding.thumbnails import make_thumbnail
from catdog.photos.sources.inputs import find_inputs, read_inputs
from catdog.storage import files
from catdog.storage.schemas import PICTURES, check_schema
from catdog.storage.tables import read_parquet, write_parquet

THUMBNAIL_SIZE = 160  # pixels of the longer side
_PHOTOS_PER_BLOCK = 32
_THUMBNAILS = pa.schema([pa.field("name", pa.string()), pa.field("jpeg", pa.binary())])


def make_thumbnails(
    photos: Sequence[str], *, size: int = THUMBNAIL_SIZE, limits: DecodeLimits, task_cpus: float = 0.25
) -> dict[str, bytes]:
    """Return JPEG bytes by photo: upright, the longer side `size` pixels, or less if the photo is smaller.

    `photos` are keys as in the manifest or in prediction rows: paths, URIs, members of archives, rows of Parquet files.
    A task reserves `task_cpus` cores. A photo that fails is left out. If the tasks themselves fail, the photos that are
    not done yet are left out too, because a missing picture must not fail a job.
    """
    found: dict[str, bytes] = {}
    if not photos:
        return found
    try:
        for batch in _pipeline(list(dict.fromkeys(photos)), size=size, limits=limits, task_cpus=task_cpus):
            found |= zip(batch["name"].to_pylist(), batch["jpeg"].to_pylist(), strict=True)
    except Exception:  # Ray raises many types when a task fails or dies
        return found
    return found


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


def _pipeline(photos: list[str], *, size: int, limits: DecodeLimits, task_cpus: float) -> Iterator[pa.Table]:
    import ray

    def make_block(block: pa.Table) -> pa.Table:
        return _make_block(block, size=size, limits=limits)

    names = pa.table({"name": pa.array(photos, pa.string())})
    blocks = [names.slice(start, _PHOTOS_PER_BLOCK) for start in range(0, len(photos), _PHOTOS_PER_BLOCK)]
    made = map_in_tasks(ray.data.from_arrow(blocks), make_block, batch_format="pyarrow", num_cpus=task_cpus)
    yield from made.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _make_block(block: pa.Table, *, size: int, limits: DecodeLimits) -> pa.Table:
    names = block["name"].to_pylist()
    tries = count_tries(f"pictures from {names[0]}")
    contents = (content for _, content in read_inputs(find_inputs(names)))
    make = functools.partial(make_thumbnail, size=size, limits=limits)
    made = decode_each(contents, make, seconds=limits.max_seconds, tries=tries)
    rows = [
        {"name": name, "jpeg": jpeg} for name, jpeg in zip(names, made, strict=True) if not isinstance(jpeg, ImageError)
    ]
    return pa.Table.from_pylist(rows, schema=_THUMBNAILS)
