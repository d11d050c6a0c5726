"""The first half of the trunk pass: photo files to augmented images, each read and decoded once for all its views.

This runs in tasks of Ray Data; the actors of `extract` and `stream` consume the images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
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


def make_views(block: pa.Table, extraction: Extraction) -> dict[str, np.ndarray]:
    """Return the image rows of one `photo_block`, as `load_views` describes them."""
    size, rows = extraction.image_size, block.to_pylist()
    views = rows[0]["views"]
    count = len(rows) * len(views)
    images = np.zeros((count, size, size, 3), np.uint8)
    labels, unreadable = np.full(count, -1, np.int32), np.full(count, "", object)
    contents = read_each(find_inputs([row["path"] for row in rows]))
    for index, (row, read) in enumerate(zip(rows, contents, strict=True)):
        try:
            image = _decode_photo(read.content, row["digest"], extraction)
        except ImageError as error:
            unreadable[index] = f"{row['path']}: {error}"
            continue
        for turn, view in enumerate(views):
            # Rows of one view are next to each other, as the parts store them.
            place = turn * len(rows) + index
            labels[place] = row["label"]
            images[place] = augment(
                image, seed=extraction.seed, digest=row["digest"], view=view, ranges=extraction.augmentation
            )
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
