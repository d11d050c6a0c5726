"""Gray of any depth, 16-bit colours and transparency, compared with the 8-bit photo they were made from."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catdog.evaluation.near_duplicates import hash_pictures
from catdog.photos.decoding.decode import decode_image, inspect_image


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(values: np.ndarray, *, significant_bits: int | None = None) -> bytes:
    """Return a 16-bit PNG: gray (H, W), colours (H, W, 3), or either with alpha (H, W, 2 or 4)."""
    height, width = values.shape[:2]
    kind = 0 if values.ndim == 2 else {2: 4, 3: 2, 4: 6}[values.shape[-1]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    more = chunk(b"sBIT", bytes([significant_bits])) if significant_bits else b""
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows))


def tiff(values: np.ndarray, *, max_sample: int | None = None, **options: Any) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(values).save(sink, "TIFF", tiffinfo={281: max_sample} if max_sample else {}, **options)
    return sink.getvalue()


def pnm(values: np.ndarray) -> bytes:
    kind = 5 if values.ndim == 2 else 6
    return b"P%d %d %d 65535\n" % (kind, values.shape[1], values.shape[0]) + values.astype(">u2").tobytes()


def tiff_colours(values: np.ndarray) -> bytes:
    """Return a TIFF with 16-bit colours, which Pillow reads but cannot write."""
    height, width, _ = values.shape
    bits_at = 8 + 2 + 12 * 10 + 4
    data_at = bits_at + 6
    shorts = {258: bits_at, 259: 1, 262: 2, 277: 3, 284: 1}
    entries = shorts | {256: width, 257: height, 273: data_at, 278: height, 279: values.size * 2}
    body = b"".join(
        struct.pack("<HHII", tag, 3 if tag in shorts else 4, 3 if tag == 258 else 1, value)
        for tag, value in sorted(entries.items())
    )
    start = b"II" + struct.pack("<HIH", 42, 8, len(entries))
    return start + body + bytes(4) + struct.pack("<HHH", 16, 16, 16) + values.astype("<u2").tobytes()


GRAY = np.arange(256, dtype=np.uint16).reshape(16, 16)
COLOURS = np.stack([GRAY, GRAY[::-1], 255 - GRAY], axis=-1)


def levels(content: bytes) -> np.ndarray:
    return decode_image(content, size=16)[..., 0].astype(int)


@pytest.mark.parametrize("write", [png, tiff, pnm, lambda values: tiff(values.astype(np.int32))])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_gray_of_any_used_depth_looks_as_its_8_bit_original(write: Any, bits: int) -> None:
    values = np.rint(GRAY * ((2**bits - 1) / 255)).astype(np.uint16)
    assert np.abs(levels(write(values)) - GRAY.astype(int)).max() <= 1
    assert np.ptp(inspect_image(write(values)).gray) > 100


def test_a_dark_photo_of_8_bits_in_16_stays_dark() -> None:
    assert levels(png(GRAY // 4)).max() == 63


def test_what_a_file_says_of_its_depth_goes_before_its_greatest_value() -> None:
    dark = np.full((16, 16), 1000, np.uint16)
    assert levels(png(dark, significant_bits=12)).max() == 62
    assert levels(tiff(dark, max_sample=4095)).max() == 62
    assert levels(tiff(dark)).max() == 249  # as 10 bits are used
    # Values may fill 16 bits even if sBIT declares fewer.
    assert levels(png(np.full((16, 16), 40_000, np.uint16), significant_bits=12)).max() == 156


@pytest.mark.parametrize("write", [png, pnm, tiff_colours])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_16_bit_colours_look_as_their_8_bit_original(write: Any, bits: int) -> None:
    values = np.rint(COLOURS * ((2**bits - 1) / 255)).astype(np.uint16)
    assert np.abs(decode_image(write(values), size=16).astype(int) - COLOURS).max() <= 1
    (found,) = hash_pictures([inspect_image(write(values)).gray]).to_pylist()
    assert found is not None


@pytest.mark.parametrize("pixels", [COLOURS, GRAY[..., np.newaxis]], ids=["colours", "gray"])
def test_16_bits_with_alpha_of_8_bits_are_opaque(pixels: np.ndarray) -> None:
    values = np.concatenate([pixels, np.full((16, 16, 1), 255, np.uint16)], axis=-1)
    assert np.abs(decode_image(png(values), size=16).astype(int) - pixels).max() <= 1


def test_alpha_of_0_throughout_is_no_alpha() -> None:
    # A 32-bit BMP with an alpha mask, a format of screenshots.
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, 2, 2, 1, 32, 3, 16, 0, 0, 0, 0) + masks + b"BGRs" + bytes(48)
    bmp = b"BM" + struct.pack("<IHHI", 14 + 108 + 16, 0, 0, 14 + 108) + header + bytes([30, 20, 10, 0]) * 4
    assert decode_image(bmp, size=1).tolist() == [[[10, 20, 30]]]
    pixels = np.full((4, 4, 4), (10, 20, 30, 0), np.uint8)
    for pixel, expected in ((0, [10, 20, 30]), (255, [255, 255, 255])):
        pixels[0, 0, 3] = pixel  # with one opaque pixel, the rest is transparent on purpose
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, "PNG")
        assert decode_image(sink.getvalue(), size=4)[3, 3].tolist() == expected


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("I;16", 32896, 128),
        ("RGBA", (255, 0, 0, 51), 255),
        ("CMYK", (0, 0, 0, 0), 255),
    ],
)
def test_a_giant_of_any_mode_takes_memory_for_its_pixels_only(mode: str, color: Any, expected: int) -> None:
    code = f"""
import io, resource
from PIL import Image
from catdog.photos.decoding.decode import decode_image, inspect_image
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
sink = io.BytesIO()
image = Image.new({mode!r}, (3600, 3000), {color!r})
image.save(sink, "TIFF", compression="tiff_lzw")
del image
Image.new("RGBA", (3600, 3000))  # the peak begins at one picture of 4 bytes a pixel
before = peak()
found = decode_image(sink.getvalue(), size=224)
inspect_image(sink.getvalue())
print(found[100, 100, 0], round(peak() - before))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    level, more_mib = done.stdout.split()
    assert int(level) == expected
    assert int(more_mib) < 32  # a second picture would take 41
