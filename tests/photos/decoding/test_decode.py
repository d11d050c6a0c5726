"""Photos found in practice: every mode and orientation, and every kind of damage."""

from __future__ import annotations

import contextlib
import io
import random
import resource
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from catdog.errors import ImageError
from catdog.photos.decoding.decode import decode_image, inspect_image
from catdog.photos.decoding.formats import FORMATS
from catdog.photos.decoding.framing import Framing
from catdog.photos.decoding.limits import DecodeLimits

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def landscape(width: int, height: int) -> Image.Image:
    """Return a smooth picture whose quarters all differ."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [
        127 + 120 * np.sin(6 * x / width),
        127 + 120 * np.cos(5 * y / height),
        255 * (x / width + y / height) / 2,
    ]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that declares `width` x `height` RGB pixels but contains only a few bytes of them."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


MEGAPIXEL = DecodeLimits(max_pixels=1_000_000)


def code_of(read: Callable[..., Any], content: bytes, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        read(content, **options)
    return caught.value.code


def plain(mode: str, color: Any, size: tuple[int, int] = (5, 4)) -> Image.Image:
    return Image.new(mode, size, color)


def gray_tiff(samples: bytes, *, bits: tuple[int, ...], big_endian: bool = False, alpha: int | None = None) -> bytes:
    """Return a TIFF of one row, of a kind that Pillow reads but cannot write; `alpha` 1 is premultiplied, 2 is not."""
    order = ">" if big_endian else "<"
    width = len(samples) * 8 // sum(bits)
    # Width, height, bits, no compression, black is 0, offset, samples per pixel, rows, bytes; all SHORT.
    entries = {256: (width,), 257: (1,), 258: bits, 259: (1,), 262: (1,), 273: (0,), 277: (len(bits),), 278: (1,)}
    entries |= {279: (len(samples),)} | ({} if alpha is None else {338: (alpha,)})
    entries[273] = (8 + 2 + 12 * len(entries) + 4,)
    directory = b"".join(
        struct.pack(f"{order}HHI{len(values)}H", tag, 3, len(values), *values).ljust(12, b"\0")
        for tag, values in entries.items()
    )
    start = (b"MM" if big_endian else b"II") + struct.pack(f"{order}HIH", 42, 8, len(entries))
    return start + directory + bytes(4) + samples


PALETTE = plain("P", 1)
PALETTE.putpalette([*RED, *GREEN, *BLUE])


@pytest.mark.parametrize(
    ("content", "color"),
    [
        pytest.param(encode(plain("RGB", (10, 20, 30)), "PNG"), (10, 20, 30), id="RGB"),
        pytest.param(encode(plain("L", 77), "PNG"), (77, 77, 77), id="gray"),
        pytest.param(encode(plain("L", 77), "JPEG"), (77, 77, 77), id="gray JPEG"),
        pytest.param(encode(plain("1", 1), "PNG"), WHITE, id="1-bit white"),
        pytest.param(encode(plain("1", 0), "TIFF", compression="group4"), BLACK, id="1-bit fax"),
        pytest.param(encode(PALETTE, "PNG"), GREEN, id="palette"),
        pytest.param(encode(PALETTE, "PNG", transparency=2), GREEN, id="palette, another color transparent"),
        pytest.param(encode(PALETTE, "PNG", transparency=1), GREEN, id="palette, transparent throughout"),
        pytest.param(encode(PALETTE, "PNG", transparency=b"\xff\x80\xff"), (127, 255, 127), id="palette, half clear"),
        pytest.param(encode(PALETTE, "GIF", transparency=1), GREEN, id="GIF, transparent throughout"),
        pytest.param(encode(plain("RGBA", (255, 0, 0, 0)), "PNG"), RED, id="RGBA, transparent throughout"),
        pytest.param(encode(plain("RGBA", (255, 0, 0, 51)), "PNG"), (255, 204, 204), id="RGBA, a fifth opaque"),
        pytest.param(encode(plain("RGBA", (255, 0, 0, 51)), "WEBP", lossless=True), (255, 204, 204), id="WebP"),
        pytest.param(encode(plain("LA", (0, 51)), "PNG"), (204, 204, 204), id="LA"),
        pytest.param(encode(plain("RGB", GREEN), "PNG", transparency=GREEN), GREEN, id="RGB, transparent throughout"),
        pytest.param(encode(plain("CMYK", (0, 255, 255, 0)), "TIFF"), RED, id="CMYK"),
        pytest.param(encode(plain("CMYK", (0, 0, 0, 0)), "JPEG", quality=95), WHITE, id="CMYK JPEG"),
        pytest.param(encode(plain("YCbCr", (100, 128, 128)), "TIFF"), (100, 100, 100), id="YCbCr"),
        pytest.param(encode(plain("LAB", (136, 208, 195)), "TIFF"), (250, 3, 11), id="LAB"),  # L* 53, a* 80, b* 67: red
        pytest.param(gray_tiff(bytes([0, 51] * 4), bits=(8, 8), alpha=2), (204, 204, 204), id="LA TIFF"),
        pytest.param(gray_tiff(bytes([51, 51] * 4), bits=(8, 8), alpha=1), WHITE, id="LA TIFF, premultiplied"),
        pytest.param(gray_tiff(b"\x40\0" * 4, bits=(16,), big_endian=True), (64, 64, 64), id="16-bit TIFF, big-endian"),
        pytest.param(gray_tiff(b"\x3e\x83\xe8" * 2, bits=(12,)), (62, 62, 62), id="12-bit TIFF, 1000 of 4095"),
        pytest.param(encode(plain("I;16", 65535), "PNG"), WHITE, id="16-bit white"),
        pytest.param(encode(plain("I;16", 32896), "PNG"), (128, 128, 128), id="16-bit gray"),
        pytest.param(encode(plain("I;16", 255), "PNG"), WHITE, id="16-bit of 8 bits"),
        pytest.param(encode(plain("I;16", 2), "PNG"), (2, 2, 2), id="16-bit, all but black"),
        pytest.param(encode(plain("I;16", 32896), "TIFF"), (128, 128, 128), id="16-bit TIFF"),
        pytest.param(b"P5 2 1 65535\n\x80\x80\x80\x80", (128, 128, 128), id="16-bit PGM"),
        pytest.param(encode(plain("I", 32896), "TIFF"), (128, 128, 128), id="32-bit"),
        pytest.param(encode(plain("I", -5), "TIFF"), BLACK, id="32-bit, negative"),
        pytest.param(encode(plain("F", 0.5), "TIFF"), (128, 128, 128), id="float, white is 1"),
        pytest.param(encode(plain("F", 100.0), "TIFF"), (100, 100, 100), id="float, white is 255"),
        pytest.param(encode(plain("F", float("nan")), "TIFF"), BLACK, id="float, not a number"),
        pytest.param(encode(plain("RGB", BLUE), "BMP"), BLUE, id="BMP"),
        pytest.param(encode(plain("RGB", BLUE), "PPM"), BLUE, id="PPM"),
        pytest.param(encode(plain("RGB", (80, 80, 80)), "AVIF"), (80, 80, 80), id="AVIF"),
        pytest.param(encode(plain("RGB", (9, 8, 7), (1, 1)), "PNG"), (9, 8, 7), id="1 x 1"),
        pytest.param(encode(plain("RGB", (9, 8, 7), (2000, 1)), "PNG"), (9, 8, 7), id="2000 x 1"),
        pytest.param(encode(plain("L", 90, (2000, 1)), "JPEG"), (90, 90, 90), id="2000 x 1 JPEG"),
    ],
)
def test_every_mode_becomes_rgb(content: bytes, color: tuple[int, int, int]) -> None:
    image = decode_image(content, size=8)
    assert image.shape == (8, 8, 3)
    assert image.dtype == np.uint8
    assert image.flags.writeable
    assert image.reshape(-1, 3).tolist() == [list(color)] * 64


def test_a_16_bit_ramp_is_scaled_and_not_clipped() -> None:
    ramp = Image.fromarray(np.array([[0, 128, 129, 257, 1000, 30000, 65406, 65535]], np.uint16))
    image = decode_image(encode(ramp.resize((8, 8), Image.Resampling.NEAREST), "PNG"), size=8)
    assert image[0, :, 0].tolist() == [0, 0, 1, 1, 4, 117, 254, 255]


def test_of_an_animation_the_first_frame_counts() -> None:
    content = encode(plain("RGB", RED), "GIF", save_all=True, append_images=[plain("RGB", BLUE)])
    assert decode_image(content, size=1).tolist() == [[list(RED)]]
    assert inspect_image(content)[:2] == (5, 4)


def test_a_jpeg_of_two_pictures_is_read() -> None:
    first = plain("RGB", (80, 80, 80), (900, 600))  # large enough for Pillow's draft mode
    content = encode(first, "MPO", save_all=True, append_images=[plain("RGB", BLUE)])
    assert decode_image(content, size=1).tolist() == [[[80, 80, 80]]]
    assert inspect_image(content)[:2] == (900, 600)


def test_the_resize_is_bilinear_and_keeps_no_aspect() -> None:
    row = Image.fromarray(np.array([[RED, RED, BLUE, BLUE]], np.uint8))
    assert decode_image(encode(row, "PNG"), size=2).tolist() == [[[219, 0, 36], [36, 0, 219]]] * 2


# By orientation: how the stored quarters red, green / blue, white must appear once the picture is upright.
QUARTERS = Image.fromarray(np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8)).resize((64, 32), Image.Resampling.NEAREST)
UPRIGHT = {
    1: [[RED, GREEN], [BLUE, WHITE]],
    2: [[GREEN, RED], [WHITE, BLUE]],
    3: [[WHITE, BLUE], [GREEN, RED]],
    4: [[BLUE, WHITE], [RED, GREEN]],
    5: [[RED, BLUE], [GREEN, WHITE]],
    6: [[BLUE, RED], [WHITE, GREEN]],
    7: [[WHITE, GREEN], [BLUE, RED]],
    8: [[GREEN, WHITE], [RED, BLUE]],
}


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_photos_are_turned_upright(orientation: int, image_format: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = encode(QUARTERS, image_format, exif=exif, quality=95)
    quarters = decode_image(content, size=16)[4::8, 4::8].astype(int)
    assert np.abs(quarters - UPRIGHT[orientation]).max() <= 8
    assert inspect_image(content)[:2] == ((32, 64) if orientation >= 5 else (64, 32))


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\xff\xff\xff\x7f",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        # Orientations 0, 9 and 65535, and one that is text
        *(
            b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + struct.pack("<I", n) + bytes(4)
            for n in (0, 9, 65535)
        ),
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0" + bytes(4),
    ],
)
def test_broken_exif_is_ignored(exif: bytes) -> None:
    content = encode(QUARTERS, "JPEG", exif=exif)
    assert inspect_image(content)[:2] == (64, 32)
    assert decode_image(content, size=16)[2, 2].tolist() == pytest.approx(RED, abs=12)


READERS = [pytest.param(decode_image, {"size": 32}, id="decode"), pytest.param(inspect_image, {}, id="inspect")]


@pytest.mark.parametrize(("read", "options"), READERS)
@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"<!DOCTYPE html><title>404 Not Found</title>", "not-an-image", id="HTML"),
        pytest.param(b"{}", "not-an-image", id="JSON"),
        pytest.param(b"%PDF-1.7\n" + bytes(2000), "not-an-image", id="PDF"),
        pytest.param(bytes(4096), "not-an-image", id="zeros"),
        pytest.param(encode(plain("RGB", RED), "ICO"), "not-an-image", id="a format that is not allowed"),
        pytest.param(b"\xff\xd8\xff", "truncated", id="three bytes of JPEG"),
        pytest.param(b"\x89PNG\r\n\x1a\n", "truncated", id="signature of PNG"),
        pytest.param(b"\x89PNG\r\n\x1a\n<html>" + bytes(100), "not-an-image", id="PNG that goes on as HTML"),
        pytest.param(png_header(60_000, 60_000), "too-large", id="PNG bomb"),
        pytest.param(png_header(60_000, 2_000), "too-large", id="PNG of a size that Pillow warns of"),
        pytest.param(png_header(20, 20_000), "truncated", id="PNG with too few pixels"),
    ],
)
def test_what_cannot_be_used_has_a_code(read: Callable[..., Any], options: Any, content: bytes, code: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert code_of(read, content, **options) == code


@pytest.mark.parametrize(("read", "options"), READERS)
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(encode(landscape(300, 200), "JPEG"), id="JPEG"),
        pytest.param(encode(landscape(300, 200), "JPEG", progressive=True), id="progressive JPEG"),
        pytest.param(encode(landscape(300, 200), "PNG"), id="PNG"),
        pytest.param(encode(landscape(300, 200), "GIF"), id="GIF"),
        pytest.param(encode(landscape(300, 200), "BMP"), id="BMP"),
        pytest.param(encode(landscape(300, 200), "WEBP"), id="WEBP"),
        pytest.param(encode(landscape(300, 200), "PPM"), id="PPM"),
        pytest.param(encode(landscape(300, 200), "TIFF"), id="TIFF"),
        pytest.param(encode(landscape(300, 200), "TIFF", compression="tiff_lzw"), id="LZW TIFF"),
        pytest.param(encode(landscape(300, 200), "AVIF"), id="AVIF"),
    ],
)
def test_a_truncated_file_is_found_wherever_it_ends(read: Callable[..., Any], options: Any, content: bytes) -> None:
    # The end markers of PNG and GIF hold no pixels, so the picture is complete without them.
    for length in (6, 20, 200, len(content) // 2, len(content) * 9 // 10, len(content) - 40):
        assert code_of(read, content[:length], **options) in ("truncated", "not-an-image")
    assert code_of(read, content[: len(content) // 2], **options) == "truncated"
    read(content, **options)


def test_the_limit_is_of_pixels_and_the_callers() -> None:
    content = encode(landscape(40, 25), "PNG")
    assert inspect_image(content, limits=DecodeLimits(max_pixels=1000))[:2] == (40, 25)
    assert code_of(inspect_image, content, limits=DecodeLimits(max_pixels=999)) == "too-large"
    assert code_of(decode_image, content, size=8, limits=DecodeLimits(max_pixels=999)) == "too-large"


def test_a_bomb_costs_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        code_of(decode_image, png_header(60_000, 60_000), size=224)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # KiB


@pytest.mark.parametrize(("width", "height"), [(2000, 1500), (1799, 901), (449, 448), (225, 4000)])
def test_a_jpeg_decoded_in_draft_looks_like_one_decoded_in_full(width: int, height: int) -> None:
    photo = landscape(width, height)
    jpeg, png = encode(photo, "JPEG", quality=95), encode(photo, "PNG")
    difference = decode_image(jpeg, size=224).astype(int) - decode_image(png, size=224)
    assert np.abs(difference).mean() < 1.5
    assert np.abs(difference).max() < 12


@pytest.mark.parametrize("image_format", [*FORMATS, "MPO"])
def test_no_bytes_whatever_raise_anything_else(image_format: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    original = encode(landscape(48, 32), image_format, exif=exif)
    rng = random.Random(image_format)
    for turn in range(300):
        content = bytearray(original)
        # Every other mutation hits the header, where the sizes and offsets are.
        end = 128 if turn % 2 else len(content)
        for _ in range(rng.randint(1, 8)):
            content[rng.randrange(min(end, len(content)))] = rng.randrange(256)
        if turn % 5 == 0:
            del content[rng.randrange(len(content)) :]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with contextlib.suppress(ImageError):
                assert decode_image(bytes(content), size=8, limits=MEGAPIXEL).shape == (
                    8,
                    8,
                    3,
                )
            with contextlib.suppress(ImageError):
                assert min(inspect_image(bytes(content), limits=MEGAPIXEL)[:2]) > 0


def striped(width: int, height: int) -> Image.Image:
    """Return a picture that is red in the middle and blue in the outer quarters of its longer side."""
    levels = np.zeros((height, width, 3), np.uint8)
    levels[:] = RED
    along = levels if height >= width else levels.transpose(1, 0, 2)
    quarter = along.shape[0] // 4
    along[:quarter] = along[-quarter:] = BLUE
    return Image.fromarray(levels)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
@pytest.mark.parametrize(("width", "height"), [(1600, 800), (800, 1600), (64, 32)])
def test_a_crop_shows_the_middle_of_the_photo_and_a_pad_all_of_it(width: int, height: int, image_format: str) -> None:
    content = encode(striped(width, height), image_format)
    cropped = decode_image(content, size=32, framing=Framing(resize="crop", resampling="bicubic")).astype(int)
    assert (cropped[..., 0] > 200).all()
    padded = decode_image(content, size=32, framing=Framing(resize="pad")).astype(int)
    padded = padded if height > width else padded.transpose(1, 0, 2)
    assert (padded[:, :7] == 127).all()
    assert (padded[:, -7:] == 127).all()
    assert padded[16, 16, 0] > 200
    assert padded[2, 16, 2] > 200
    squashed = decode_image(content, size=32).astype(int)
    assert squashed[16, 16, 0] > 200
    assert (squashed if height > width else squashed.transpose(1, 0, 2))[2, 2, 2] > 200


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_framing_a_sideways_photo_is_framing_the_upright_one(resize: str) -> None:
    upright, framing = landscape(200, 120), Framing(resize=resize)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    sideways = encode(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    expected = decode_image(encode(upright, "PNG"), size=64, framing=framing)
    difference = decode_image(sideways, size=64, framing=framing).astype(int) - expected
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_a_photo_of_one_row_is_framed_too(resize: str) -> None:
    content = encode(Image.new("RGB", (300, 1), RED), "PNG")
    assert decode_image(content, size=16, framing=Framing(resize=resize)).shape == (16, 16, 3)
