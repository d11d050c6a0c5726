"""What names features, as tests use it."""

from __future__ import annotations

import pyarrow as pa

from catdog.config import AugmentationConfig
from catdog.features.spec import Extraction, PhotoSet
from catdog.model.backbone_specs import Scaling
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.sharded.photo_rows import PhotoRows

EXTRACTION = Extraction(
    backbone="efficientnet-lite0",
    image_size=224,
    scaling=Scaling((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
    pooling="avg",
    weights_checksum="none",
    cut="head",
    dtype="float16",
    seed=0,
    limits=DecodeLimits(max_pixels=1000),
    augmentation=AugmentationConfig(),
)


def photo_set(count: int, views: tuple[int, ...]) -> PhotoSet:
    table = pa.table(
        {
            "path": [f"{row}.jpg" for row in range(count)],
            "label": pa.array([row % 2 for row in range(count)], pa.int32()),
            "digest": [f"{row:064x}" for row in range(count)],
        }
    )
    return PhotoSet(photos=PhotoRows.of(table), views=views)
