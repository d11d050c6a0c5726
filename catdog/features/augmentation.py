"""Random augmentation with the meaning of Keras's ImageDataGenerator, as one affine warp per view.

A view's transform is a pure function of (seed, digest of the photo, number): the same on any machine and in any order.
Keras warps each colour channel separately in SciPy. Here rotation, shift, shear, zoom and flip are one matrix, and
OpenCV warps once. Its fixed-point arithmetic rounds the weights, so the result differs from that of Keras, by less than
one gray level on average. OpenCV would use every core: a process that shares its machine calls `cv2.setNumThreads(1)`
first. Importing this module changes no global setting.
"""

from __future__ import annotations

import dataclasses
import hashlib

import cv2
import numpy as np

from catdog.config import AugmentationConfig
from catdog.features.spec import PLAIN_VIEW


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transform:
    """One drawn transform; as in Keras it maps output pixels to input points, so a zoom above 1 shows more."""

    rotation_degrees: float = 0.0  # Keras: theta
    shift_x: float = 0.0  # pixels; Keras: tx
    shift_y: float = 0.0  # pixels; Keras: ty
    shear_degrees: float = 0.0  # Keras: shear
    zoom_x: float = 1.0  # Keras: zx
    zoom_y: float = 1.0  # Keras: zy
    flip: bool = False  # left to right, as the last step; Keras: flip_horizontal


def view_generator(*, seed: int, digest: str, view: int) -> np.random.Generator:
    """Return the random generator for one view of one photo; it depends only on these three arguments."""
    # Python's hash() of a str differs from process to process; sha256 does not.
    key = hashlib.sha256(f"{seed}/{digest}/{view}".encode()).digest()
    return np.random.default_rng(int.from_bytes(key))


def draw_transform(rng: np.random.Generator, *, ranges: AugmentationConfig, height: int, width: int) -> Transform:
    """Draw a transform for an image of `height` x `width` pixels, uniformly within `ranges`.

    Source: ImageDataGenerator.get_random_transform. That draws tx from the height's range, but apply_transform shifts
    along the width by it. Here the width's range applies to the width. For equal ranges and a square image the two
    agree.
    """
    # All numbers are drawn whatever the ranges are, so that setting one range to 0 does not change the other draws.
    rotation, shift_x, shift_y, shear, zoom_x, zoom_y = rng.uniform(-1.0, 1.0, 6).tolist()
    mirrored = bool(rng.random() < 0.5)
    return Transform(
        rotation_degrees=rotation * ranges.rotation_degrees,
        shift_x=shift_x * ranges.width_shift_fraction * width,
        shift_y=shift_y * ranges.height_shift_fraction * height,
        shear_degrees=shear * ranges.shear_degrees,
        zoom_x=1.0 + zoom_x * ranges.zoom_fraction,
        zoom_y=1.0 + zoom_y * ranges.zoom_fraction,
        flip=mirrored and ranges.horizontal_flip,
    )


def affine_matrix(transform: Transform, *, height: int, width: int) -> np.ndarray:
    """Return float64 (2, 3) that takes an output pixel (x, y, 1) to the input point (x, y) it shows.

    Source: tf_keras apply_affine_transform, whose product is rotation, shift, shear, zoom about the centre.
    """
    theta, shear = np.deg2rad([transform.rotation_degrees, transform.shear_degrees])
    rotate = np.array([[np.cos(theta), -np.sin(theta), 0], [np.sin(theta), np.cos(theta), 0], [0, 0, 1]])
    shift = np.array([[1, 0, transform.shift_x], [0, 1, transform.shift_y], [0, 0, 1]])
    skew = np.array([[1, -np.sin(shear), 0], [0, np.cos(shear), 0], [0, 0, 1]])
    # The flip is the last step towards the output, so it is the first on the way back to the input.
    zoom = np.diag([-transform.zoom_x if transform.flip else transform.zoom_x, transform.zoom_y, 1])
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    to_centre = np.array([[1, 0, -centre_x], [0, 1, -centre_y], [0, 0, 1]])
    back = np.array([[1, 0, centre_x], [0, 1, centre_y], [0, 0, 1]])
    matrix: np.ndarray = back @ rotate @ shift @ skew @ zoom @ to_centre
    return matrix[:2]


def apply_transform(image: np.ndarray, transform: Transform) -> np.ndarray:
    """Warp uint8 (H, W, 3) `image` to the same shape, bilinearly; points outside take the nearest edge pixel."""
    height, width = image.shape[:2]
    return cv2.warpAffine(
        image,
        affine_matrix(transform, height=height, width=width),
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,  # the matrix already maps output to input
        borderMode=cv2.BORDER_REPLICATE,
    )


def augment(image: np.ndarray, *, seed: int, digest: str, view: int, ranges: AugmentationConfig) -> np.ndarray:
    """Return view number `view` of uint8 (H, W, 3) `image`: 0 is the image itself, others are augmented copies."""
    if view == PLAIN_VIEW:
        return image
    if ranges.mirror_pairs and view % 2 == 0:
        return augment(image, seed=seed, digest=digest, view=view - 1, ranges=ranges)[:, ::-1]
    height, width = image.shape[:2]
    rng = view_generator(seed=seed, digest=digest, view=view)
    return apply_transform(image, draw_transform(rng, ranges=ranges, height=height, width=width))
