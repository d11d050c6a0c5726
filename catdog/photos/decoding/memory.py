"""The peak memory of decoding a photo, computed from its header before a pixel is decoded."""

from __future__ import annotations

from typing import Any

from PIL import Image

from catdog.errors import ImageError
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.decoding.rgb import has_16_bits

# Bytes per pixel of Pillow's own picture. Every other mode has 4, even with two or three channels.
_PICTURE = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
# Bytes per pixel that a decoder holds in addition, by the number of channels, measured with Pillow 13: planes and a
# copy of them, 32-bit integers (JPEG 2000), the canvases of an animation (WebP).
_BESIDE = {
    "WEBP": (12, 12, 12, 12),
    "AVIF": (2, 4, 6, 8),
    "HEIF": (2, 4, 6, 12),
    "JXL": (2, 4, 6, 8),
    "JPEG2000": (4, 8, 12, 16),
}
_SECOND_PICTURE = 4  # for the lower bytes of 16-bit colours
# TIFF 6.0, sections 8 and 15: BitsPerSample, RowsPerStrip, TileWidth, TileLength.
_BITS, _ROWS, _TILE_WIDTH, _TILE_LENGTH = 258, 278, 322, 323


def load(image: Image.Image, *, content: bytes, limits: DecodeLimits) -> None:
    """Decode the pixels of the opened `image` of the file `content`.

    Raises ImageError with code too-large, before decoding, if that takes more memory than `limits` allow.
    """
    needed = decoded_bytes(image, content)
    if needed > limits.max_bytes:
        raise ImageError(
            "too-large",
            f"{image.width} x {image.height} pixels of {image.format} take {needed:,} bytes to decode, at most "
            f"{limits.max_bytes:,} are allowed: save it smaller or as 8-bit JPEG, or raise --max-pixels",
        )
    image.load()


def decoded_bytes(image: Image.Image, content: bytes) -> int:
    """Return the peak number of bytes that decoding the opened `image` of the file `content` holds.

    Width and height are those that will be decoded, so the smaller ones after `draft`. 16-bit colours count as two
    pictures, although a bright photo needs only one. Strips of a TIFF that are unpacked whole also count.
    """
    channels = len(image.getbands())
    beside = _BESIDE[image.format][channels - 1] if image.format in _BESIDE else 0
    second = _SECOND_PICTURE if has_16_bits(image, content) else 0
    return image.width * image.height * (_PICTURE.get(image.mode, 4) + second + beside) + _strip_bytes(image)


def _strip_bytes(image: Image.Image) -> int:
    """Return the bytes of a strip or tile of a compressed TIFF, which libtiff unpacks whole."""
    tiles: list[Any] = getattr(image, "tile", [])
    if image.format != "TIFF" or not tiles or tiles[0][0] != "libtiff":
        return 0
    tags: Any = getattr(image, "tag_v2", {})
    width = tags.get(_TILE_WIDTH, image.width)
    rows = tags.get(_TILE_LENGTH, min(tags.get(_ROWS, image.height), image.height))
    return int(width * rows * sum(tags.get(_BITS, (1,)))) // 8
