"""Settings, photo sets, networks and features in memory, for tests of features and heads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from catdog.config import AugmentationConfig
from catdog.features.spec import Extraction, PhotoSet
from catdog.model.backbone_specs import Scaling
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.sharded.photo_rows import PhotoRows
from catdog.training.fit.networks import Networks

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


def head_networks(width: int) -> Networks:
    """Return a classifier with one convolution, for tests of its head."""
    import tf_keras

    image = tf_keras.Input((8, 8, 3), name="image")
    feature = tf_keras.layers.GlobalAveragePooling2D(name="gap")(tf_keras.layers.Conv2D(width, 1)(image))
    classifier = tf_keras.Model(image, tf_keras.layers.Dense(2, activation="softmax", name="fc_out")(feature))
    return Networks(trained=classifier, float32=classifier)


class ViewRows:
    """Features (V, N, D) in memory, of V views of N photos; epoch E reads view E modulo V."""

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        self.rows, self._features, self._labels = len(labels), features, labels
        self.first, self.total = 0, self.rows

    @property
    def every_view_rows(self) -> int:
        return self.rows * len(self._features)

    def read_every_view(self, *, limit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        photos = np.arange(min(self.rows, -(-limit // len(self._features))))
        views = len(self._features)
        features = self._features[:, photos].reshape(-1, self._features.shape[-1])
        return features, np.tile(self._labels[photos], views), np.tile(photos, views)

    def epoch(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = np.random.default_rng(number).permutation(self.rows)
        yield self._features[number % len(self._features)][order], self._labels[order]
