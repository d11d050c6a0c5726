"""Augmentation, compared with its reference, tf_keras's ImageDataGenerator, and checked to be reproducible."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from catdog.config import AugmentationConfig
from catdog.features.augmentation import (
    Transform,
    affine_matrix,
    apply_transform,
    augment,
    draw_transform,
    view_generator,
)

ROOT = Path(__file__).parents[1]
SIZE = 224
DIGEST = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
# Rotation, shift x and y, shear, zoom x and y, flip. If these values change, every cached feature is wrong.
PINNED = (
    -19.90722567265611,
    26.374826367102848,
    -41.00733737858148,
    -0.1053573971017833,
    1.0656624373695702,
    1.1608413600941507,
    True,
)
ARTICLE = {
    "rotation_range": 40,
    "width_shift_range": 0.2,
    "height_shift_range": 0.2,
    "shear_range": 0.2,
    "zoom_range": 0.2,
    "horizontal_flip": True,
}
KERAS_NAMES = {
    "theta": "rotation_degrees",
    "tx": "shift_x",
    "ty": "shift_y",
    "shear": "shear_degrees",
    "zx": "zoom_x",
    "zy": "zoom_y",
    "flip_horizontal": "flip",
}
# Keras 2.21 uses a name of SciPy that is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Please import .affine_transform.:DeprecationWarning")


@pytest.fixture(scope="module")
def keras_generator() -> Any:
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    from tf_keras.preprocessing.image import ImageDataGenerator  # takes seconds: only for the tests that need it

    return ImageDataGenerator


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Return an image of soft shapes of several sizes, different in each channel, as in a photo."""
    rng = np.random.default_rng(5)
    image = np.zeros((SIZE, SIZE, 3))
    for cells, strength in ((3, 90), (8, 50), (24, 20)):
        noise = rng.uniform(-1, 1, (cells, cells, 3))
        image += strength * cv2.resize(noise, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    return np.clip(image + 128, 0, 255).astype(np.uint8)


def from_keras(parameters: dict[str, Any]) -> Transform:
    return Transform(
        **{ours: type(getattr(Transform(), ours))(parameters[keras]) for keras, ours in KERAS_NAMES.items()}
    )


@pytest.mark.parametrize(
    "ranges",
    [
        *({name: value} for name, value in ARTICLE.items()),
        {"shear_range": 20.0},
        {"rotation_range": 180, "shear_range": 20.0},
        {**ARTICLE, "shear_range": 20.0},
        ARTICLE,
    ],
    ids=lambda ranges: "+".join(ranges) if len(ranges) < 6 else f"all,shear={ranges['shear_range']}",
)
def test_a_transform_gives_the_picture_keras_gives(
    keras_generator: Any, photo: np.ndarray, ranges: dict[str, Any]
) -> None:
    generator = keras_generator(**ranges)
    moved = 0
    for seed in range(4):
        parameters = generator.get_random_transform(photo.shape, seed=seed)
        wanted = generator.apply_transform(photo.astype(np.float32), parameters)
        found = apply_transform(photo, from_keras(parameters))
        assert found.dtype == np.uint8
        assert np.abs(found - wanted).mean() < 1.0, parameters
        moved += np.abs(wanted - photo).mean() > 3
    # The comparison must not pass just because nothing moved. The article's shear of 0.2 degrees moves almost nothing.
    assert moved or ranges == {"shear_range": 0.2}


def test_draws_are_distributed_as_in_keras(keras_generator: Any) -> None:
    from scipy.stats import ks_2samp

    generator = keras_generator(**ARTICLE)
    np.random.seed(0)  # Keras draws from NumPy's global generator
    theirs = [from_keras(generator.get_random_transform((SIZE, SIZE, 3))) for _ in range(2000)]
    rng = np.random.default_rng(0)
    ours = [draw_transform(rng, ranges=AugmentationConfig(), height=SIZE, width=SIZE) for _ in range(2000)]
    for name in KERAS_NAMES.values():
        test = ks_2samp([getattr(drawn, name) for drawn in ours], [getattr(drawn, name) for drawn in theirs])
        assert test.pvalue > 0.001, name


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("rotation_degrees", -40.0, 40.0),
        ("shift_x", -20.0, 20.0),  # 0.2 of the width, 100
        ("shift_y", -40.0, 40.0),  # 0.2 of the height, 200
        ("shear_degrees", -0.2, 0.2),
        ("zoom_x", 0.8, 1.2),
        ("zoom_y", 0.8, 1.2),
    ],
)
def test_draws_fill_their_range_and_never_leave_it(name: str, low: float, high: float) -> None:
    rng = np.random.default_rng(1)
    drawn = [
        getattr(draw_transform(rng, ranges=AugmentationConfig(), height=200, width=100), name) for _ in range(2000)
    ]
    margin = 0.01 * (high - low)
    assert low <= min(drawn) < low + margin
    assert high - margin < max(drawn) <= high


def test_axes_zoom_independently_and_half_the_copies_are_flipped() -> None:
    rng = np.random.default_rng(2)
    drawn = [draw_transform(rng, ranges=AugmentationConfig(), height=SIZE, width=SIZE) for _ in range(2000)]
    assert abs(np.corrcoef([d.zoom_x for d in drawn], [d.zoom_y for d in drawn])[0, 1]) < 0.1
    assert 0.46 < np.mean([d.flip for d in drawn]) < 0.54


def test_closed_ranges_draw_the_identity_and_leave_the_picture_as_it_is(photo: np.ndarray) -> None:
    closed = AugmentationConfig(
        rotation_degrees=0,
        width_shift_fraction=0,
        height_shift_fraction=0,
        shear_degrees=0,
        zoom_fraction=0,
        horizontal_flip=False,
    )
    drawn = draw_transform(np.random.default_rng(0), ranges=closed, height=SIZE, width=SIZE)
    assert drawn == Transform()
    np.testing.assert_array_equal(apply_transform(photo, drawn), photo)


def test_width_is_x_and_height_is_y() -> None:
    sideways = AugmentationConfig(height_shift_fraction=0)
    drawn = draw_transform(np.random.default_rng(0), ranges=sideways, height=SIZE, width=SIZE)
    assert drawn.shift_x != 0
    assert drawn.shift_y == 0
    image = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    moved = apply_transform(image, Transform(shift_x=1.0))
    np.testing.assert_array_equal(moved, image[:, [1, 2, 3, 3]])  # the last column repeats the edge


@pytest.mark.parametrize(
    ("transform", "matrix"),
    [
        (Transform(), [[1, 0, 0], [0, 1, 0]]),
        (Transform(flip=True), [[-1, 0, 3], [0, 1, 0]]),
        (Transform(rotation_degrees=180), [[-1, 0, 3], [0, -1, 1]]),
        (Transform(zoom_x=2, zoom_y=0.5), [[2, 0, -1.5], [0, 0.5, 0.25]]),
        (Transform(shift_x=1, shift_y=2), [[1, 0, 1], [0, 1, 2]]),
        (Transform(shear_degrees=30), [[1, -0.5, 0.25], [0, 0.8660254, 0.0669873]]),
    ],
)
def test_matrices_turn_about_the_centre_of_a_picture_that_is_not_square(
    transform: Transform, matrix: list[list[float]]
) -> None:
    np.testing.assert_allclose(affine_matrix(transform, height=2, width=4), matrix, atol=1e-7)


def test_a_flip_alone_moves_pixels_and_mixes_none(photo: np.ndarray) -> None:
    np.testing.assert_array_equal(apply_transform(photo, Transform(flip=True)), photo[:, ::-1])


def test_a_view_has_the_parameters_it_always_had() -> None:
    rng = view_generator(seed=0, digest=DIGEST, view=1)
    drawn = dataclasses.astuple(draw_transform(rng, ranges=AugmentationConfig(), height=SIZE, width=SIZE))
    assert drawn == pytest.approx(PINNED, rel=1e-12)


def test_a_view_is_the_same_in_a_fresh_process() -> None:
    program = (
        "from catdog.features.augmentation import AugmentationConfig, draw_transform, view_generator\n"
        f"rng = view_generator(seed=0, digest={DIGEST!r}, view=1)\n"
        f"print(draw_transform(rng, ranges=AugmentationConfig(), height={SIZE}, width={SIZE}))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    outcome = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, cwd=ROOT
    )
    rng = view_generator(seed=0, digest=DIGEST, view=1)
    assert outcome.stdout.strip() == repr(draw_transform(rng, ranges=AugmentationConfig(), height=SIZE, width=SIZE))


@pytest.mark.parametrize("other", [{"seed": 1}, {"digest": DIGEST[::-1]}, {"view": 2}])
def test_another_seed_photo_or_number_is_another_view(photo: np.ndarray, other: dict[str, Any]) -> None:
    given: dict[str, Any] = {"seed": 0, "digest": DIGEST, "view": 1}
    first = augment(photo, **given, ranges=AugmentationConfig())
    np.testing.assert_array_equal(first, augment(photo, **given, ranges=AugmentationConfig()))
    assert np.abs(first.astype(int) - augment(photo, **(given | other), ranges=AugmentationConfig())).mean() > 3


def test_view_0_is_the_photo_itself_and_the_others_leave_it_untouched(photo: np.ndarray) -> None:
    before = photo.copy()
    assert augment(photo, seed=0, digest=DIGEST, view=0, ranges=AugmentationConfig()) is photo
    augment(photo, seed=0, digest=DIGEST, view=3, ranges=AugmentationConfig())
    np.testing.assert_array_equal(photo, before)
