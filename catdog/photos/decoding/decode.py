"""From a photo's bytes to pixels: uint8 RGB of a fixed size, or one ImageError that says why not.

Only the content decides what a photo is, never its name. A file with several frames gives its first one. Colour
profiles are ignored. On a broken TIFF, libtiff writes to stderr.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from catdog.errors import ImageError
from catdog.photos.decoding.formats import DISTRIBUTION, EXTRA, foreign_format, readable_formats
from catdog.photos.decoding.framing import PAD_LEVEL, SQUASH, Framing
from catdog.photos.decoding.headers import tidy_content
from catdog.photos.decoding.limits import DEFAULT_LIMITS, DecodeLimits
from catdog.photos.decoding.memory import load
from catdog.photos.decoding.rgb import has_16_bits, shrink_box, to_rgb

_GRAY_SIZE = 32

# What must be done to the stored picture to see it upright (EXIF 2.32, tag 0x0112); 1 is upright already.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_ROUNDING = 1e-6  # tolerance for a quotient of whole numbers
# Long enough that no text begins like this by chance.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")


def decode_image(
    content: bytes, *, size: int, framing: Framing = SQUASH, limits: DecodeLimits = DEFAULT_LIMITS
) -> np.ndarray:
    """Decode a photo to uint8 (size, size, 3) RGB, upright, transparent parts on white, framed as `framing` says.

    The default squashes it to a square without keeping its aspect ratio, as Keras's flow_from_directory does.
    Raises ImageError with code empty, not-an-image, unsupported, truncated or too-large, and nothing else for any
    bytes.
    """
    with opened_image(content, limits=limits) as (image, content):
        width, height = image.size
        box, sides = framing.window(width, height, size=size)
        # A JPEG decodes at 1/2, 1/4 or 1/8 at a lower cost. `draft` keeps the window at `sides` or larger.
        across, down = (box[2] - box[0]) / sides[0], (box[3] - box[1]) / sides[1]
        draft = image.draft("RGB", (math.ceil(width / across - _ROUNDING), math.ceil(height / down - _ROUNDING)))
        if draft:
            # Not the ratio of whole pixels: the last pixel of a side may be a partial one.
            shrink = round(width / draft[1][2])
            box = shrink_box(box, shrink)
        load(image, content=content, limits=limits)
        orientation = image_orientation(image)
        rgb, factor = to_rgb(image, content=content, spare_factor=min(across, down))
        square = rgb.resize(sides, _RESAMPLING[framing.resampling], box=shrink_box(box, factor))
        # A transpose costs least on the small square, and framing commutes with it.
        upright = square.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else square
        if upright.size != (size, size):
            square = Image.new("RGB", (size, size), (PAD_LEVEL,) * 3)
            square.paste(upright, ((size - upright.width) // 2, (size - upright.height) // 2))
            upright = square
        return np.array(upright)


class Inspection(NamedTuple):
    """The result of inspecting a photo: width and height when upright, in pixels, and (32, 32) uint8 gray levels."""

    width: int
    height: int
    gray: np.ndarray


def inspect_image(content: bytes, *, limits: DecodeLimits = DEFAULT_LIMITS) -> Inspection:
    """Return the size of the upright photo and a tiny gray picture, after checking that all its pixels decode.

    A JPEG is decoded in gray at 1/8: that reads every coded bit and skips most of the arithmetic after it.
    Raises ImageError as `decode_image` does.
    """
    with opened_image(content, limits=limits) as (image, content):
        width, height = image.size
        draft = image.draft("L", (1, 1))
        load(image, content=content, limits=limits)
        orientation = image_orientation(image)
        # Only the coarse picture of gray levels counts, so few modes need care.
        plain = image.mode in ("L", "RGB", "P", "1", "CMYK", "YCbCr") and not image.has_transparency_data
        plain = plain and not has_16_bits(image, content)
        factor = 1
        if not plain:
            image, factor = to_rgb(image, content=content, spare_factor=min(width, height) / (3 * _GRAY_SIZE))
        gray = image if image.mode == "L" else image.convert("L")
        box = shrink_box(draft[1] if draft else (0, 0, width, height), factor)
        small = gray.resize((_GRAY_SIZE, _GRAY_SIZE), Image.Resampling.BILINEAR, box, 3.0)
        if orientation in UPRIGHT:
            small = small.transpose(UPRIGHT[orientation])
        sides = (height, width) if orientation in _SIDEWAYS else (width, height)
        return Inspection(*sides, np.asarray(small))


@contextlib.contextmanager
def opened_image(content: bytes, *, limits: DecodeLimits) -> Iterator[tuple[Image.Image, bytes]]:
    """Open `content`, check its size from the header, and turn every error of the block into an ImageError.

    The bytes yielded with the image are `content` without metadata that costs more than the pixels.
    """
    if not content:
        raise ImageError("empty", "the file has no bytes")
    content = tidy_content(content, limits=limits)
    stream = io.BytesIO(content)
    try:
        with warnings.catch_warnings():
            # Pillow warns of bombs (checked below) and of broken metadata (ignored). Neither belongs in a job's log.
            warnings.simplefilter("ignore")
            with Image.open(stream, formats=readable_formats()) as image:
                if image.width * image.height > limits.max_pixels:
                    raise ImageError(
                        "too-large", f"{image.width} x {image.height} pixels, at most {limits.max_pixels:,} are allowed"
                    )
                if max(image.size) > limits.max_side:
                    raise ImageError(
                        "too-large",
                        f"{image.width} x {image.height} pixels, at most {limits.max_side:,} per side are allowed",
                    )
                yield image, content
    except ImageError:
        raise
    # Pillow's readers trust what they read: bad bytes raise almost any exception, from AttributeError to zlib.error.
    except Exception as error:
        raise _image_error(error, content, read_to=stream.tell()) from error


def _image_error(error: Exception, content: bytes, *, read_to: int) -> ImageError:
    """Return the ImageError for what Pillow raised; `read_to` is the position it had reached in `content`."""
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return ImageError("too-large", str(error) or "the pixels do not fit into memory")
    # For a truncated WebP or AVIF, Pillow only reports that it could not create a decoder, or nothing.
    if _declared_length(content) > len(content):
        return ImageError("truncated", f"the file promises more than its {len(content)} bytes")
    if isinstance(error, UnidentifiedImageError):
        if content.startswith(_SIGNATURES) and read_to >= len(content):
            return ImageError("truncated", f"the file ends within its header, after {len(content)} bytes")
        if foreign := foreign_format(content):
            return ImageError(
                "unsupported", f"{foreign} is read with the extra {EXTRA}: pip install '{DISTRIBUTION}[{EXTRA}]'"
            )
        return ImageError("not-an-image", f"the content is none of {', '.join(readable_formats())}")
    reason = " ".join(str(error).split()) or type(error).__name__  # one line: it goes into a table
    if isinstance(error, EOFError) or "truncated" in reason.lower():
        return ImageError("truncated", reason)
    return ImageError("not-an-image", f"broken content: {reason}")


def _declared_length(content: bytes) -> int:
    """Return how many bytes a WebP or AVIF declares to have; 0 for other formats.

    Sources: the WebP container specification (RIFF); ISO/IEC 14496-12, 4.2 (boxes).
    """
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return 8 + int.from_bytes(content[4:8], "little")
    if content[4:12] not in (b"ftypavif", b"ftypavis"):
        return 0
    end = 0
    while end + 8 <= len(content):
        box = int.from_bytes(content[end : end + 4])
        if box < 8:  # 0: to the end of the file; 1: a length of 64 bits, which no photo needs
            return len(content)
        end += box
    return end


def image_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a loaded image; 1, upright, if it is missing or unreadable."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    # Cameras and editors write EXIF that is broken in many ways. The pixels are good, and most photos are upright.
    except Exception:
        return 1
