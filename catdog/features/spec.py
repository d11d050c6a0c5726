"""What names a feature: the photos, their views, and all that decides its value. Nothing here reads or writes."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pyarrow as pa

from catdog.config import AugmentationConfig
from catdog.model.backbone_specs import Scaling
from catdog.photos.decoding.framing import SQUASH, Framing
from catdog.photos.decoding.limits import DecodeLimits
from catdog.storage import artifacts

PLAIN_VIEW = 0
PHOTOS_PER_PART = 64
VIEWS_PER_PART = 4  # 64 photos in 4 views are 38 MB of uint8 images: one block of Ray Data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extraction:
    """All that decides the value of a feature; learning rate and dropout are not among it.

    `backbone` and `scaling` are those of model.ClassifierSpec; `pooling` is None where the cut lies before the pooling.
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
        # The names that caches have had from the start.
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
    """The photos of one split and the views they are taken in.

    `table` has the columns path, label, digest; its order is the order of the rows.
    """

    table: pa.Table
    views: tuple[int, ...]

    @functools.cached_property
    def fingerprint(self) -> str:
        """A name for digests, labels and views, not for where the files are; computed once: it reads them all."""
        digests, labels = (self.table[name].to_pylist() for name in ("digest", "label"))
        rows = "\n".join(f"{digest} {label}" for digest, label in zip(digests, labels, strict=True))
        return artifacts.fingerprint({"rows": rows, "views": list(self.views)})

    @property
    def rows(self) -> int:
        """Photos times views."""
        return int(self.table.num_rows) * len(self.views)

    @property
    def blocks(self) -> int:
        """Blocks of PHOTOS_PER_PART photos, the last one included."""
        return math.ceil(int(self.table.num_rows) / PHOTOS_PER_PART)

    def parts(self) -> dict[str, tuple[pa.Table, tuple[int, ...]]]:
        """Return the work of the trunk pass by part name: (photos, views)."""
        found = {}
        for block in range(self.blocks):
            photos = self.table.slice(block * PHOTOS_PER_PART, PHOTOS_PER_PART)
            for first in range(0, len(self.views), VIEWS_PER_PART):
                found[part_name(block, first)] = (photos, self.views[first : first + VIEWS_PER_PART])
        return found


def part_name(block: int, first_view: int) -> str:
    """Return the file name of block `block` for the views from position `first_view` on."""
    return f"part-{block:06d}-view-{first_view:04d}.parquet"


def feature_bytes(photos: PhotoSet, *, shape: tuple[int, ...], dtype: str) -> int:
    """Return how many bytes the cache of `photos` takes."""
    return photos.rows * math.prod(shape) * np.dtype(dtype).itemsize
