"""From a photo's bytes to pixels: uint8 RGB of a fixed size, or one ImageError that says why not.

The content alone decides what a photo is, never its name. Formats are the ones that Keras's flow_from_directory reads,
GIF, WebP and AVIF; Pillow's many others have little use here and parsers that few have tried to break. Of a file with
several frames the first one counts. Colour profiles are ignored. On a broken TIFF, libtiff writes to stderr.
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
from catdog.photos.decoding.framing import PAD_LEVEL, SQUASH, Framing
from catdog.photos.decoding.limits import DEFAULT_LIMITS, DecodeLimits

# Pillow counts MPO, the JPEG of several pictures that some phones write, to JPEG. A Pillow built without AVIF or WebP
# identifies no such file: it is not-an-image then.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")
_GRAY_SIZE = 32

# What must be done to the stored picture to see it upright (EXIF 2.32, tag 0x0112); 1 is upright already.
_UPRIGHT = {
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
_ROUNDING = 1e-6  # of a quotient of whole numbers
# Long enough that no text begins like this by chance.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*")


def decode_image(
    content: bytes, *, size: int, framing: Framing = SQUASH, limits: DecodeLimits = DEFAULT_LIMITS
) -> np.ndarray:
    """Decode a photo to uint8 (size, size, 3) RGB, upright, transparent parts on white, framed as `framing` says.

    The default squeezes it to a square without keeping its aspect, as Keras's flow_from_directory does.
    Raises ImageError of code empty, not-an-image, truncated or too-large, and nothing else for any bytes.
    """
    with _opened(content, limits=limits) as image:
        width, height = image.size
        box, sides = framing.window(width, height, size=size)
        # A JPEG decodes at 1/2, 1/4 or 1/8 for less than the whole price; draft keeps the window at `sides` or more.
        across, down = (box[2] - box[0]) / sides[0], (box[3] - box[1]) / sides[1]
        draft = image.draft("RGB", (math.ceil(width / across - _ROUNDING), math.ceil(height / down - _ROUNDING)))
        if draft:
            shrink = round(
                width / draft[1][2]
            )  # not the ratio of whole pixels: the last of a side may be a part of one
            box = (box[0] / shrink, box[1] / shrink, box[2] / shrink, box[3] / shrink)
        image.load()
        orientation = _orientation(image)
        square = _to_rgb(image).resize(sides, _RESAMPLING[framing.resampling], box=box)
        # On the small square a transpose costs least, and framing commutes with it.
        upright = square.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else square
        if upright.size != (size, size):
            square = Image.new("RGB", (size, size), (PAD_LEVEL,) * 3)
            square.paste(upright, ((size - upright.width) // 2, (size - upright.height) // 2))
            upright = square
        return np.array(upright)


def make_thumbnail(content: bytes, *, size: int, limits: DecodeLimits = DEFAULT_LIMITS, quality: int = 80) -> bytes:
    """Return the photo as a small JPEG: upright, its aspect kept, the longer side `size` pixels or what it has.

    Raises ImageError as `decode_image` does.
    """
    with _opened(content, limits=limits) as image:
        scale = min(1.0, size / max(image.size))
        sides = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        draft = image.draft("RGB", sides)
        image.load()
        orientation = _orientation(image)
        small = _to_rgb(image).resize(sides, Image.Resampling.BILINEAR, box=draft[1] if draft else None)
        if orientation in _UPRIGHT:
            small = small.transpose(_UPRIGHT[orientation])
        return encode_jpeg(small, quality=quality)


def encode_jpeg(image: Image.Image | np.ndarray, *, quality: int = 80) -> bytes:
    """Return an RGB image, or uint8 (H, W, 3), as a JPEG without any metadata of the photo it comes from."""
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=quality, exif=b"")
    return sink.getvalue()


def overlay_heat(thumbnail: bytes, heat: np.ndarray) -> bytes:
    """Return the JPEG `thumbnail` with `heat` (H, W), 0 to 1, laid over it from clear through yellow to red."""
    with Image.open(io.BytesIO(thumbnail), formats=["JPEG"]) as image:
        photo = np.asarray(image.convert("RGB"), np.float32)
    levels = Image.fromarray(np.rint(255 * heat).astype(np.uint8))
    sides = (photo.shape[1], photo.shape[0])
    strength = np.asarray(levels.resize(sides, Image.Resampling.BICUBIC), np.float32)[..., np.newaxis] / 255
    red, yellow = np.array([215, 30, 20], np.float32), np.array([255, 225, 60], np.float32)
    colour = yellow + (red - yellow) * strength
    # What the model did not look at is dimmed to gray, so that the heat stands out on a photo of any colour.
    gray = 0.75 * photo.mean(axis=2, keepdims=True) + 0.25 * photo
    share = 0.65 * strength
    return encode_jpeg(np.clip(gray * (1 - share) + colour * share, 0, 255).astype(np.uint8))


class Inspection(NamedTuple):
    """What a photo is found to be: its sides in pixels, upright, and (32, 32) uint8 gray levels of what it shows."""

    width: int
    height: int
    gray: np.ndarray


def inspect_image(content: bytes, *, limits: DecodeLimits = DEFAULT_LIMITS) -> Inspection:
    """Return the size of the upright photo and a tiny gray picture, after proof that all its pixels decode.

    A JPEG is decoded in gray at 1/8: that reads every coded bit and skips most of the arithmetic after it.
    Raises ImageError as `decode_image` does.
    """
    with _opened(content, limits=limits) as image:
        width, height = image.size
        draft = image.draft("L", (1, 1))
        image.load()
        orientation = _orientation(image)
        # Of its gray levels nothing but the coarse picture counts, so no mode but the transparent ones needs care.
        plain = image.mode in ("L", "RGB", "P", "1", "CMYK", "YCbCr") and not image.has_transparency_data
        gray = (image if plain else _to_rgb(image)).convert("L")
        small = gray.resize((_GRAY_SIZE, _GRAY_SIZE), Image.Resampling.BILINEAR, draft[1] if draft else None, 3.0)
        if orientation in _UPRIGHT:
            small = small.transpose(_UPRIGHT[orientation])
        sides = (height, width) if orientation in _SIDEWAYS else (width, height)
        return Inspection(*sides, np.asarray(small))


@contextlib.contextmanager
def _opened(content: bytes, *, limits: DecodeLimits) -> Iterator[Image.Image]:
    """Open `content`, check its size from the header, and make every error of the block an ImageError."""
    if not content:
        raise ImageError("empty", "the file has no bytes")
    stream = io.BytesIO(content)
    try:
        with warnings.catch_warnings():
            # Pillow warns of bombs (measured below) and of broken metadata (ignored); neither belongs in a job's log.
            warnings.simplefilter("ignore")
            with Image.open(stream, formats=FORMATS) as image:
                if image.width * image.height > limits.max_pixels:
                    raise ImageError(
                        "too-large", f"{image.width} x {image.height} pixels, at most {limits.max_pixels:,} are allowed"
                    )
                yield image
    except ImageError:
        raise
    # Pillow's readers trust what they read: bad bytes raise almost any exception, from AttributeError to zlib.error.
    except Exception as error:
        raise _image_error(error, content, read_to=stream.tell()) from error


def _image_error(error: Exception, content: bytes, *, read_to: int) -> ImageError:
    """Translate what Pillow raised; `read_to` is the position it had come to in `content`."""
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return ImageError("too-large", str(error) or "the pixels do not fit into memory")
    # Of a cut WebP or AVIF Pillow only says that it could not make a decoder, or nothing.
    if _declared_length(content) > len(content):
        return ImageError("truncated", f"the file promises more than its {len(content)} bytes")
    if isinstance(error, UnidentifiedImageError):
        if content.startswith(_SIGNATURES) and read_to >= len(content):
            return ImageError("truncated", f"the file ends within its header, after {len(content)} bytes")
        return ImageError("not-an-image", f"the content is none of {', '.join(FORMATS)}")
    reason = " ".join(str(error).split()) or type(error).__name__  # one line: it goes into a table
    if isinstance(error, EOFError) or "truncated" in reason.lower():
        return ImageError("truncated", reason)
    return ImageError("not-an-image", f"broken content: {reason}")


def _declared_length(content: bytes) -> int:
    """Return how many bytes a WebP or AVIF says it has; 0 for other formats.

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


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a loaded image; 1, upright, where it is missing or unreadable."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    # Cameras and editors write broken EXIF in every way; the pixels are good, and most photos are upright.
    except Exception:
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_to_8_bits(np.asarray(image)).convert("RGB")
    if image.mode == "La":  # gray with premultiplied alpha, which Pillow converts to LA only
        image = image.convert("LA")
    if image.has_transparency_data:
        # Converting straight to RGB would show whatever colour lies under the transparent pixels.
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _scale_to_8_bits(values: np.ndarray) -> Image.Image:
    """Scale (H, W) integers or floats to a gray image; Pillow's own conversion would clip them at 255.

    Integers are of 16 bits, white is 65535, unless one is greater. Files of floats do not say what white is:
    it is the first of 1, 255 and 65535 that no value exceeds, else the greatest value. Negative and NaN are black.
    """
    levels = np.nan_to_num(values.astype(np.float64), posinf=0.0).clip(min=0)
    top = levels.max()
    whites = (1, 255, 65535) if values.dtype.kind == "f" else (65535,)
    white = next((white for white in whites if top <= white), top)
    return Image.fromarray(np.rint(levels * (255 / white)).astype(np.uint8))
