import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from catdog.evaluation.near_duplicates import find_near_duplicates, hash_pictures
from catdog.photos.decoding.decode import inspect_image


def photo(seed: int) -> Image.Image:
    """Return a picture of soft shapes, a different one for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((480, 360), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(4))


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def hash_of(content: bytes) -> int:
    found: int = hash_pictures([inspect_image(content).gray])[0].as_py()
    return found


def distance(first: int, second: int) -> int:
    return (first ^ second).bit_count()


def on_its_side(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image.transpose(Image.Transpose.ROTATE_90), exif=exif)


@pytest.mark.parametrize(
    "copied",
    [
        lambda image: encoded(image, quality=30),
        lambda image: encoded(image.resize((240, 180)), quality=75),
        lambda image: encoded(image.resize((720, 540)), quality=60),
        lambda image: encoded(image.convert("P"), "PNG"),
        lambda image: encoded(image.convert("RGBA"), "PNG"),
        lambda image: encoded(image.convert("L")),
        on_its_side,
    ],
)
def test_a_copy_saved_anew_looks_the_same_and_another_photo_does_not(copied) -> None:  # type: ignore[no-untyped-def]
    for seed in range(10):
        first = hash_of(encoded(photo(seed), quality=90))
        assert distance(first, hash_of(copied(photo(seed)))) <= 4
        assert distance(first, hash_of(encoded(photo(seed + 100)))) >= 12


def test_photos_of_hardly_any_contrast_have_no_hash() -> None:
    flat = inspect_image(encoded(Image.new("RGB", (64, 64), (200, 10, 10)))).gray
    assert hash_pictures([flat, inspect_image(encoded(photo(1))).gray]).is_null().to_pylist() == [True, False]
    assert len(hash_pictures([])) == 0


def test_pairs_are_those_of_comparing_all_with_all() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**63, 3_000, dtype=np.uint64)
    for copy in range(0, 300):  # copies of the first 300, with 0 to 6 bits flipped
        bits = random.choice(63, copy % 7, replace=False)
        hashes[1_000 + copy] = hashes[copy] ^ np.bitwise_or.reduce(np.uint64(1) << bits.astype(np.uint64), initial=0)
    splits = random.choice(["train", "test"], 3_000)
    near = np.bitwise_count(hashes[:, np.newaxis] ^ hashes) <= 4
    near &= splits[:, np.newaxis] != splits
    expected = {tuple(pair) for pair in np.argwhere(np.triu(near)).tolist()}
    found = find_near_duplicates(hashes, splits, limit=3_000)
    assert found.count == len(expected) > 80
    assert {(a, b) for a, b in zip(found.first.tolist(), found.second.tolist(), strict=True)} == expected
    assert found.distance.tolist() == sorted(found.distance.tolist())
    few = find_near_duplicates(hashes, splits, limit=5)
    assert (len(few.first), few.count, few.distance.tolist()) == (5, len(expected), [0] * 5)


def test_thousands_of_photos_that_look_the_same_are_one_of_each_split() -> None:
    hashes = np.full(20_000, 7, np.uint64) ^ (np.arange(20_000, dtype=np.uint64) // 10_000 << 20)
    splits = np.array(["train", "test"])[np.arange(20_000) % 2]
    found = find_near_duplicates(hashes, splits, limit=24)
    assert found.count == 4
    pairs = list(zip(found.first.tolist(), found.second.tolist(), found.distance.tolist(), strict=True))
    assert sorted(pairs) == [(0, 1, 0), (0, 10_001, 1), (1, 10_000, 1), (10_000, 10_001, 0)]
    assert find_near_duplicates(hashes[:0], splits[:0], limit=24).count == 0
