"""The first half of the trunk pass: photo files to augmented images, each read and decoded once for all its views.

With GPUs, tasks of Ray Data do this on all cores, and the actors of `extract` and `stream` consume the images. Without
GPUs, these actors do it themselves: the cores are the same ones, and no image passes through the object store.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from catdog.cluster.actors import count_tries, map_in_tasks
from catdog.errors import ImageError
from catdog.features.augmentation import augment
from catdog.features.spec import Extraction
from catdog.photos.decoding.decode import decode_image
from catdog.photos.sources.inputs import find_inputs
from catdog.photos.sources.reading import read_each


def photo_block(photos: pa.Table, views: Sequence[int], *, block: int) -> pa.Table:
    """Return one block of Ray Data's input: path, label, digest, block number, and the views to make."""
    table = photos.select(["path", "label", "digest"])
    count = table.num_rows
    table = table.append_column("block", pa.array(np.full(count, block, np.int32)))
    return table.append_column("views", pa.array([list(views)] * count, pa.list_(pa.int32())))


def load_views(photos: Any, extraction: Extraction, *, task_cpus: float) -> Any:
    """Turn a Ray dataset of photo blocks into image rows, one for each photo and view.

    Columns: path, label, view, block, unreadable, feature (S, S, 3) uint8. A photo that cannot be read, or whose bytes
    are no longer those of the manifest, has label -1 in its rows, and the reason in `unreadable` of the first one.
    """

    def load_block(block: pa.Table) -> dict[str, np.ndarray]:
        import cv2

        count_tries(int(block["block"][0].as_py()))
        cv2.setNumThreads(1)  # Ray runs a task on each core already
        return make_views(block, extraction)

    return map_in_tasks(photos, load_block, batch_format="pyarrow", num_cpus=task_cpus)


class ViewMaker:
    """What an actor does first with a block: the image rows of its photos, made in `threads` threads of its own.

    With 0 threads, tasks have made them (`load_views`).
    """

    def __init__(self, extraction: Extraction, *, threads: int) -> None:
        self._extraction, self._most = extraction, 2 * threads
        self._pool = ThreadPoolExecutor(threads) if threads else None
        if threads:
            _prepare_process()

    def __call__(self, block: pa.Table | dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the image rows of `block`: of a `photo_block`, or the block itself if tasks have made it."""
        if isinstance(block, dict):
            count_tries(int(block["block"][0]))
            return block
        count_tries(int(block["block"][0].as_py()))
        return make_views(block, self._extraction, pool=self._pool, most=self._most)


def _prepare_process() -> None:
    import cv2

    cv2.setNumThreads(1)
    # Decoding sets and restores the warning filters of the whole process, and threads do so in any order.
    warnings.simplefilter("ignore")


def make_views(
    block: pa.Table, extraction: Extraction, *, pool: ThreadPoolExecutor | None = None, most: int = 0
) -> dict[str, np.ndarray]:
    """Return the image rows of one `photo_block`, as `load_views` describes them.

    With `pool`, its threads decode, and at most `most` photos wait for them.
    """
    size, rows = extraction.image_size, block.to_pylist()
    views = rows[0]["views"]
    count = len(rows) * len(views)
    images = np.zeros((count, size, size, 3), np.uint8)
    labels, unreadable = np.full(count, -1, np.int32), np.full(count, "", object)

    def make(index: int, content: bytes | ImageError) -> None:
        row = rows[index]
        try:
            image = _decode_photo(content, row["digest"], extraction)
        except ImageError as error:
            unreadable[index] = f"{row['path']}: {error}"
            return
        for turn, view in enumerate(views):
            # Rows of one view are next to each other, as the parts store them.
            place = turn * len(rows) + index
            labels[place] = row["label"]
            images[place] = augment(
                image, seed=extraction.seed, digest=row["digest"], view=view, ranges=extraction.augmentation
            )

    waiting = deque[Future[None]]()
    for index, read in enumerate(read_each(find_inputs([row["path"] for row in rows]))):
        if pool is None:
            make(index, read.content)
            continue
        waiting.append(pool.submit(make, index, read.content))
        if len(waiting) > most:
            waiting.popleft().result()
    for future in waiting:
        future.result()
    return {
        "path": np.array([row["path"] for row in rows] * len(views), object),
        "label": labels,
        "view": np.repeat(np.array(views, np.int32), len(rows)),
        "block": np.full(count, rows[0]["block"], np.int32),
        "unreadable": unreadable,
        "feature": images,
    }


def _decode_photo(content: bytes | ImageError, digest: str, extraction: Extraction) -> np.ndarray:
    if isinstance(content, ImageError):
        raise content
    # The label belongs to the bytes that ingest saw: another photo at the same path may be of another class.
    if hashlib.sha256(content).hexdigest() != digest:
        raise ImageError("changed", "its bytes are no longer those that ingest checked")
    return decode_image(content, size=extraction.image_size, framing=extraction.framing, limits=extraction.limits)
