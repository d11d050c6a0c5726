"""The memory that decoding takes, by mode, format and depth; too much is refused before a pixel is decoded."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from catdog.errors import ImageError
from catdog.photos.decoding.decode import decode_image, inspect_image
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.decoding.memory import decoded_bytes
from catdog.photos.decoding.thumbnails import make_thumbnail

SIDES = (30, 20)


def tiff(channels: int, bits: int, *, sides: tuple[int, int] = SIDES, rows_per_strip: int | None = None) -> bytes:
    """Return a compressed black TIFF, with only its first strip; Pillow cannot write 16-bit colours to TIFF."""
    width, height = sides
    rows = rows_per_strip or height
    packed = zlib.compress(bytes(min(sides[0] * rows, 100_000) * channels * bits // 8))
    kinds = {1: (1, ()), 3: (2, ()), 4: (2, (2,))}
    photometric, alpha = kinds[channels]
    shorts = {258: (bits,) * channels, 259: (8,), 262: (photometric,), 277: (channels,), 338: alpha}
    shorts |= {339: (3 if bits == 32 else 1,) * channels}
    longs = {256: width, 257: height, 273: 0, 278: rows, 279: len(packed)}
    tags = sorted(tag for tag in {**shorts, **longs} if shorts.get(tag, longs.get(tag)) != ())
    at = 8 + 2 + 12 * len(tags) + 4
    longs[273] = at + 64
    entries, more = b"", b""
    for tag in tags:
        values = shorts.get(tag, ())
        value = struct.pack(f"<{len(values)}H", *values) if values else struct.pack("<I", longs[tag])
        if len(value) > 4:
            value, more = struct.pack("<I", at + len(more)), more + value
        entries += struct.pack("<HHI", tag, 3 if values else 4, len(values) or 1) + value.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + more.ljust(64, b"\0") + packed


def png16(kind: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    channels = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    pixels = zlib.compress(bytes(SIDES[1] * (1 + SIDES[0] * channels * 2)))
    header = struct.pack(">IIBBBBB", *SIDES, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def written(mode: str, image_format: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    Image.new(mode, SIDES).save(sink, image_format, **options)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("modes", "a_pixel"),
    [
        (("1", "L", "P"), 1),
        (("I;16", "I;16L", "I;16B"), 2),
        (("LA", "La", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB", "I", "F"), 4),
    ],
)
def test_a_picture_takes_what_pillow_holds_for_its_mode(modes: tuple[str, ...], a_pixel: int) -> None:
    for mode in modes:
        assert decoded_bytes(Image.new(mode, (7, 5)), b"") == 35 * a_pixel, mode


@pytest.mark.parametrize(
    ("content", "found"),
    [
        pytest.param(written("L", "PNG"), 600, id="gray"),
        pytest.param(written("RGBA", "PNG"), 2400, id="RGBA"),
        pytest.param(png16(0), 1200, id="16-bit gray"),
        pytest.param(png16(2), 4800, id="16-bit RGB"),
        pytest.param(png16(4), 4800, id="16-bit gray with alpha"),
        pytest.param(png16(6), 4800, id="16-bit RGBA"),
        pytest.param(b"P6 30 20 65535\n" + bytes(3600), 4800, id="16-bit PPM"),
        pytest.param(written("RGB", "WEBP"), 600 * 16, id="WebP"),
        pytest.param(written("RGB", "AVIF"), 600 * 10, id="AVIF"),
        pytest.param(written("RGBA", "AVIF"), 600 * 12, id="AVIF with alpha"),
        pytest.param(written("F", "TIFF"), 2400, id="floats"),
        pytest.param(tiff(1, 32), 2400 + 2400, id="floats in a strip"),
        pytest.param(tiff(4, 8), 2400 + 2400, id="RGBA in a strip"),
        pytest.param(tiff(4, 16), 4800 + 4800, id="16-bit RGBA in a strip"),
        pytest.param(tiff(4, 16, rows_per_strip=2), 4800 + 480, id="16-bit RGBA in strips"),
        pytest.param(tiff(4, 16, rows_per_strip=2**31), 4800 + 4800, id="a strip longer than the picture"),
    ],
)
def test_a_decoder_holds_more_than_the_picture(content: bytes, found: int) -> None:
    with Image.open(io.BytesIO(content)) as image:
        assert decoded_bytes(image, content) == found


@pytest.mark.parametrize(
    ("image_format", "mode", "a_pixel"),
    [("HEIF", "RGB", 10), ("HEIF", "RGBA", 16), ("JXL", "L", 3), ("JXL", "RGBA", 12), ("JPEG2000", "RGB", 16)],
)
def test_formats_of_plug_ins_count_too(image_format: str, mode: str, a_pixel: int) -> None:
    image = Image.new(mode, (7, 5))
    image.format = image_format
    assert decoded_bytes(image, b"") == 35 * a_pixel


def test_a_jpeg_counts_as_small_as_it_is_decoded() -> None:
    content = written("RGB", "JPEG")
    with Image.open(io.BytesIO(content)) as image:
        assert decoded_bytes(image, content) == 2400
        image.draft("L", (1, 1))
        assert decoded_bytes(image, content) == 4 * 3


@pytest.mark.parametrize("read", [decode_image, inspect_image, make_thumbnail])
def test_few_pixels_of_many_bytes_are_refused_and_as_many_of_8_bits_are_not(read: Callable[..., Any]) -> None:
    limits, options = DecodeLimits(max_pixels=600), {} if read is inspect_image else {"size": 8}
    for content in (tiff(4, 16), written("RGB", "WEBP"), written("RGB", "AVIF")):
        with pytest.raises(ImageError) as caught:
            read(content, limits=limits, **options)
        assert caught.value.code == "too-large"
        read(content, limits=DecodeLimits(max_pixels=1200), **options)
    for content in (tiff(4, 8), tiff(1, 32), png16(6), written("RGB", "PNG"), written("CMYK", "JPEG")):
        read(content, limits=limits, **options)


def test_a_giant_is_refused_by_its_header_in_one_line() -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(tiff(4, 16, sides=(8000, 5000)), size=8)
    assert str(caught.value) == (
        "too-large: 8000 x 5000 pixels of TIFF take 640,000,000 bytes to decode, at most 512,000,000 are allowed: "
        "save it smaller or as 8-bit JPEG, or raise --max-pixels"
    )
