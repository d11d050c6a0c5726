"""Conversion of any pixel mode to 8-bit RGB: gray of any depth, transparency, palettes, CMYK."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from catdog.photos.decoding.headers import pnm_header

Box = tuple[float, float, float, float]  # left, top, right, bottom
Strip = tuple[int, int, int, int]  # likewise

_LARGE_PIXELS = 8_000_000  # from here on, a photo is converted in strips, because conversions make copies
_STRIP_PIXELS = 2_000_000
_SPARE = 2  # times the wanted pixels are kept, because the result is resampled once more
# TIFF 6.0, sections 8 and 19: MaxSampleValue, SMaxSampleValue, BitsPerSample.
_MAX_SAMPLE, _S_MAX_SAMPLE, _BITS = 281, 341, 258
# Pillow's names for layouts of 16-bit colours. It keeps the upper bytes; the opposite byte order gives the lower ones.
_LOWER_BYTES = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B"}


def to_rgb(image: Image.Image, *, content: bytes, spare_factor: float = 1.0) -> tuple[Image.Image, int]:
    """Return a loaded image of any mode as RGB, and the factor by which it was reduced, usually 1.

    `content` is the file. `spare_factor` is how many times more pixels each side has than are wanted. A large photo
    is reduced by at most half of it. Transparent parts become white. Alpha that is 0 everywhere is ignored.
    """
    image = _restore_lower_bytes(image, content)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image, 1
    convert = _converter(image, content)
    factor = int(spare_factor / _SPARE)
    if factor < 2 or image.width * image.height < _LARGE_PIXELS:
        return _by_strips(image, convert, 1), 1
    return _by_strips(image, convert, factor), factor


def shrink_box(box: Box, factor: int) -> Box:
    """Return `box` in the pixels of an image that was reduced by `factor`."""
    left, top, right, bottom = box
    return left / factor, top / factor, right / factor, bottom / factor


def _by_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image], factor: int) -> Image.Image:
    if image.width * image.height < _LARGE_PIXELS:
        return convert(image)
    found = Image.new("RGB", (math.ceil(image.width / factor), math.ceil(image.height / factor)))
    rows = max(1, _STRIP_PIXELS // image.width // factor) * factor
    for top in range(0, image.height, rows):
        strip = convert(image.crop((0, top, image.width, min(top + rows, image.height))))
        found.paste(strip.reduce(factor) if factor > 1 else strip, (0, top // factor))
    return found


def _converter(image: Image.Image, content: bytes) -> Callable[[Image.Image], Image.Image]:
    """Return a function that converts `image`, or any part of it, to RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        white = _white(image, content)
        return lambda part: _to_8_bits(np.asarray(part), white)
    if image.mode == "La":  # gray with premultiplied alpha, which Pillow converts to LA only
        return lambda part: _on_white(part.convert("LA"))
    if image.has_transparency_data and not _is_void(image):
        # Converting straight to RGB would show whatever colour lies under the transparent pixels.
        return _on_white
    if "A" in image.mode:
        return lambda part: part.convert("RGBA").convert("RGB")
    return lambda part: part.convert("RGB")


def _on_white(part: Image.Image) -> Image.Image:
    pixels = part.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", part.size, "white"), pixels).convert("RGB")


def _is_void(image: Image.Image) -> bool:
    """Return whether every pixel is transparent: many programs write 0 when they mean no alpha."""
    if "A" in image.mode:
        return bool(image.getchannel("A").getextrema() == (0, 0))
    if image.width * image.height > _LARGE_PIXELS:
        return False
    return bool(image.convert("RGBA").getchannel("A").getextrema() == (0, 0))


def _white(image: Image.Image, content: bytes) -> float:
    """Return the value of `image`, of integers or floats, that is white.

    For integers, it is the value that the file declares, if no pixel exceeds it. Otherwise it is 65535, or the greatest
    value if that is larger. If all values are below a quarter of that range, they are 8 to 14 bits stored in 16, and
    white has all used bits set. Files of floats do not declare white. It is the first of 1, 255 and 65535 that no value
    exceeds, else the greatest value.
    """
    top = _greatest(image)
    if image.mode == "F":
        return next((white for white in (1.0, 255.0, 65535.0) if top <= white), top)
    declared = _declared_white(image, content)
    if declared and top <= declared:
        return declared
    if top >= 2**14:
        return max(65535.0, top)
    return _used_white(top)


def _greatest(image: Image.Image) -> float:
    rows = max(1, _STRIP_PIXELS // image.width)
    tops = []
    for top in range(0, image.height, rows):
        values = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
        tops.append(float(np.nan_to_num(values, posinf=0.0).max() if values.dtype.kind == "f" else values.max()))
    return max(0.0, *tops)


def _declared_white(image: Image.Image, content: bytes) -> float | None:
    """Return white as declared by sBIT (PNG), MaxSampleValue or BitsPerSample (TIFF); None for the type's own."""
    if image.format == "PNG":
        at = content.find(b"sBIT", 8, 4096)
        bits = content[at + 4] if at > 0 else 0
        return float(2**bits - 1) if 8 <= bits < 16 else None
    tags = getattr(image, "tag_v2", {})
    for tag in (_MAX_SAMPLE, _S_MAX_SAMPLE):
        value = tags.get(tag)
        value = value[0] if isinstance(value, tuple) else value
        if isinstance(value, int | float) and 1 < value < 2**15:
            return float(value)
    bits = tags.get(_BITS, (16,))[0]
    return float(2**bits - 1) if 8 < bits < 16 else None


def _to_8_bits(values: np.ndarray, white: float) -> Image.Image:
    """Scale (H, W) integers or floats to gray; Pillow's own conversion would clip. Negative and NaN are black."""
    levels = np.nan_to_num(values.astype(np.float32), posinf=0.0)
    np.clip(levels * np.float32(255 / white), 0, 255, out=levels)
    return Image.fromarray(np.rint(levels).astype(np.uint8)).convert("RGB")


def _restore_lower_bytes(image: Image.Image, content: bytes) -> Image.Image:
    """Return `image`; if its 16-bit colours are dark, their full values are scaled to 8 bits first.

    Pillow keeps only the upper bytes, which are too coarse if none of them reaches 64. `image` is changed in place,
    strip by strip, so that only a second picture is needed in memory.
    """
    if not has_16_bits(image, content) or any(_greatest(image.getchannel(band)) >= 64 for band in "RGB"):
        return image
    read_strip = _sixteen_bit_strips(image, content)
    alpha = 3 if image.mode == "RGBA" else None
    tops = [0, 0]  # of colours, and of alpha
    for box in _strips(image):
        values = read_strip(box)
        tops[0] = max(tops[0], int(values[..., :3].max()))
        tops[1] = max(tops[1], int(values[..., 3].max()) if alpha else 0)
    tables = [np.rint(np.arange(2**16) * (255 / _used_white(top))).clip(0, 255).astype(np.uint8) for top in tops]
    for box in _strips(image):
        values = read_strip(box)
        found = tables[0][values]
        if alpha:
            found[..., 3] = tables[1][values[..., 3]]
        image.paste(Image.fromarray(found), box)
    return image


def has_16_bits(image: Image.Image, content: bytes) -> bool:
    """Return whether the colours of `image` have 16 bits in the file `content`: Pillow keeps only the upper 8."""
    if image.mode not in ("RGB", "RGBA"):
        return False
    if image.format == "PNG":
        return content[24:25] == b"\x10"
    if image.format == "PPM":
        words, _ = pnm_header(content)
        return words[:1] == [b"P6"] and int(words[3]) > 255
    return image.format == "TIFF" and getattr(image, "tag_v2", {}).get(_BITS, (8,))[0] == 16


def _strips(image: Image.Image) -> Iterator[Strip]:
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def _sixteen_bit_strips(image: Image.Image, content: bytes) -> Callable[[Strip], np.ndarray]:
    """Return a function that reads any strip of `image` as uint16 colours, (H, W, 3 or 4)."""
    words, end = pnm_header(content)
    if words:
        count = image.width * image.height * 3
        pixels = np.frombuffer(content, ">u2", count, end + 1).reshape(image.height, image.width, 3)
        return lambda box: pixels[box[1] : box[3]].astype(np.uint16)
    with Image.open(io.BytesIO(content), formats=("PNG", "TIFF")) as again:
        is_gray = any(tile.args == "LA;16B" for tile in again.tile)  # and alpha: 4 bytes a pixel, like RGBA
        again.tile = [tile._replace(args="RGBA" if is_gray else _swap(tile.args)) for tile in again.tile]
        again.load()
        lower = again.copy() if again.readonly else again
    channels = [1, 1, 1, 3] if is_gray else list(range(len(image.getbands())))
    return lambda box: np.asarray(image.crop(box)).astype(np.uint16) << 8 | np.asarray(lower.crop(box))[..., channels]


def _swap(arguments: Any) -> Any:
    text = str(arguments[0] if isinstance(arguments, tuple) else arguments)
    swapped = next((text.replace(old, new) for old, new in _LOWER_BYTES.items() if text.endswith(old)), text)
    return (swapped, *arguments[1:]) if isinstance(arguments, tuple) else swapped


def _used_white(top: float) -> float:
    """Return white for integers of which only the greatest is known: all used bits, at least 8, are set."""
    return max(255.0, 2.0 ** math.ceil(math.log2(top + 1)) - 1)
