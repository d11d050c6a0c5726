"""Decodes photos in a model actor: reads ahead, decodes in threads, and identifies photos that kill the process."""

from __future__ import annotations

import dataclasses
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from catdog.errors import ImageError
from catdog.photos.decoding.decode import decode_image
from catdog.photos.decoding.framing import SQUASH, Framing
from catdog.photos.decoding.isolation import Journal, decode_apart, decode_here
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.sources.reading import read_each

Decode = Callable[..., np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
    """How photos become images; `decode` is decode.decode_image, or a substitute in tests."""

    image_size: int
    framing: Framing = SQUASH
    limits: DecodeLimits
    decode: Decode = decode_image

    def __call__(self, content: bytes) -> np.ndarray:
        """Return the (S, S, 3) uint8 image of `content`. Raises ImageError as decode_image does."""
        return self.decode(content, size=self.image_size, framing=self.framing, limits=self.limits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageBlock:
    """The photos of a part: (N, S, S, 3) uint8 images, an error or "" for each, and how many were read on a retry."""

    images: np.ndarray
    errors: list[str]
    retried: int


class Decoder:
    """Decodes parts in threads that all parts share. `job` identifies the job in the journals of its processes."""

    def __init__(self, decoding: Decoding, *, threads: int, job: str) -> None:
        # Decoding sets and restores the warning filters of the whole process, and threads do so in any order.
        warnings.simplefilter("ignore")
        self._decoding, self._threads = decoding, threads
        self._pool = ThreadPoolExecutor(threads)
        self._journal = Journal(job)

    def decode(self, rows: pa.Table, *, part: str, tries: int) -> ImageBlock:
        """Read and decode the photos of `part`, whose rows (schema inputs.INPUTS) are `rows`.

        `tries` is the number of earlier attempts. At the second attempt, photos that were being decoded when a process
        on this machine died are decoded in separate processes. From the third attempt on, all photos are. So a photo
        that kills its process, or never ends, becomes an error of that photo alone.
        """
        size, count = self._decoding.image_size, rows.num_rows
        block = ImageBlock(images=np.zeros((count, size, size, 3), np.uint8), errors=[""] * count, retried=0)
        suspects = self._journal.suspects() if tries == 1 else set()
        retried, waiting = 0, deque[Future[None]]()
        for index, photo in enumerate(read_each(rows)):
            name = f"{part}#{index}"
            retried += photo.retried
            if isinstance(photo.content, ImageError):
                block.errors[index] = str(photo.content)
            elif tries > 1 or name in suspects:
                seconds = self._decoding.limits.max_seconds
                _keep(block, index, decode_apart(photo.content, self._decoding, seconds))
            else:
                waiting.append(self._pool.submit(self._decode_one, block, index, photo.content, name))
            while len(waiting) > 2 * self._threads:
                waiting.popleft().result()
        for future in waiting:
            future.result()
        return dataclasses.replace(block, retried=retried)

    def _decode_one(self, block: ImageBlock, index: int, content: bytes, name: str) -> None:
        with self._journal.at_work_on(name):
            _keep(block, index, decode_here(content, self._decoding, self._decoding.limits.max_seconds))

    def close(self) -> None:
        """Delete the journals of all processes of this job on this machine."""
        self._journal.delete()


def _keep(block: ImageBlock, index: int, found: np.ndarray | ImageError) -> None:
    if isinstance(found, ImageError):
        block.errors[index] = str(found)
    else:
        block.images[index] = found
