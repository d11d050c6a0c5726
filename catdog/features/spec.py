"""The identity of a feature: the photos, their views, and everything that decides its value.

Nothing here opens a photo or writes a file.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from catdog.config import AugmentationConfig
from catdog.model.backbone_specs import Scaling
from catdog.photos.decoding.framing import SQUASH, Framing
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.sharded.photo_rows import PhotoRows
from catdog.storage import artifacts

PLAIN_VIEW = 0
PHOTOS_PER_PART = 64
VIEWS_PER_PART = 4  # 64 photos in 4 views are 38 MB of uint8 images: one block of Ray Data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extraction:
    """Everything that decides the value of a feature; learning rate and dropout do not.

    `backbone` and `scaling` are those of model.ClassifierSpec; `pooling` is None if the cut lies before the pooling.
    """

    backbone: str
    image_size: int
    scaling: Scaling
    pooling: str | None
    weights_checksum: str
    cut: str
    dtype: str
    seed: int
    limits: DecodeLimits
    framing: Framing = SQUASH
    precision: str = "float32"  # or bfloat16: what the trunk computes in
    augmentation: AugmentationConfig

    def fingerprint(self, photos: PhotoSet) -> str:
        """Return the name of the cache directory for the features of `photos`."""
        fields = dataclasses.asdict(self)
        del fields["limits"], fields["scaling"], fields["framing"]
        # The names of these fields in the fingerprints of existing caches.
        fields |= {"input_scale": self.scaling.scale, "input_offset": self.scaling.offset}
        fields |= {"max_pixels": self.limits.max_pixels}
        if not self.augmentation.mirror_pairs:  # a setting that earlier versions did not have
            del fields["augmentation"]["mirror_pairs"]
        if self.framing != SQUASH:
            fields |= dataclasses.asdict(self.framing)
        if self.precision == "float32":
            del fields["precision"]
        return artifacts.fingerprint({**fields, "photos": photos.fingerprint, "format": 1})


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoSet:
    """The photos of one split and the views they are taken in."""

    photos: PhotoRows
    views: tuple[int, ...]

    @functools.cached_property
    def fingerprint(self) -> str:
        """The artifacts.fingerprint of digests, labels and views; it does not depend on where the files are.

        Computing it reads all digests and labels, shard by shard.
        """
        state = self.photos.hashed()
        state.update(f'","views":{json.dumps(list(self.views), separators=(",", ":"))}}}'.encode())
        return str(state.hexdigest()[:16])

    @property
    def rows(self) -> int:
        """Photos times views."""
        return self.photos.count * len(self.views)

    @property
    def blocks(self) -> int:
        """Blocks of PHOTOS_PER_PART photos, the last one included."""
        return math.ceil(self.photos.count / PHOTOS_PER_PART)

    def parts(self) -> Iterator[Part]:
        """Yield the work of the trunk pass, one part at a time."""
        for block in range(self.blocks):
            start = block * PHOTOS_PER_PART
            stop = min(start + PHOTOS_PER_PART, self.photos.count)
            for first in range(0, len(self.views), VIEWS_PER_PART):
                views = self.views[first : first + VIEWS_PER_PART]
                yield Part(name=part_name(block, first), photos=self.photos, start=start, stop=stop, views=views)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """The rows [start, stop) of a set's photos in some of its views; the photos are not read yet."""

    name: str
    photos: PhotoRows
    start: int
    stop: int
    views: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Photos times views."""
        return (self.stop - self.start) * len(self.views)

    def read(self) -> pa.Table:
        """Return path, label and digest of its photos."""
        return self.photos.read(self.start, self.stop)


def part_name(block: int, first_view: int) -> str:
    """Return the file name of block `block` for the views from position `first_view` on."""
    return f"part-{block:06d}-view-{first_view:04d}.parquet"


def feature_bytes(photos: PhotoSet, *, shape: tuple[int, ...], dtype: str) -> int:
    """Return how many bytes the cache of `photos` takes."""
    return photos.rows * math.prod(shape) * np.dtype(dtype).itemsize
