"""Metadata and padding that cost more than the pixels are dropped; a structure that costs too much is refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

from catdog.errors import ImageError
from catdog.photos.decoding.decode import decode_image, inspect_image
from catdog.photos.decoding.headers import tidy_content
from catdog.photos.decoding.limits import DEFAULT_LIMITS, DecodeLimits


def encode(image_format: str, size: tuple[int, int] = (64, 48), **options: object) -> bytes:
    sink = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(values).save(sink, image_format, **options)
    return sink.getvalue()


def chunk(kind: bytes, content: bytes, *, broken: bool = False) -> bytes:
    checksum = zlib.crc32(kind + content) ^ broken
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


PNG, JPEG = encode("PNG"), encode("JPEG")


def with_chunk(*chunks: bytes) -> bytes:
    return PNG[:33] + b"".join(chunks) + PNG[33:]


def code_of(content: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> str:
    with pytest.raises(ImageError) as caught:
        inspect_image(content, limits=limits)
    return caught.value.code


BULK = zlib.compress(bytes(3_000_000))


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([chunk(b"zTXt", b"Comment\0\0" + BULK)], id="zTXt"),
        pytest.param([chunk(b"iCCP", b"profile\0\0" + BULK)], id="iCCP"),
        pytest.param([chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BULK)], id="iTXt"),
        pytest.param([chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + bytes(3_000_000))], id="iTXt, not packed"),
        pytest.param([chunk(b"tEXt", b"Comment\0" + bytes(70_000_000))], id="tEXt"),
        pytest.param([chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(400_000)))] * 200, id="200 of zTXt"),
        pytest.param([chunk(b"zTXt", b"Comment\0\0no deflate")], id="zTXt, broken"),
        pytest.param([chunk(b"tEXt", b"Comment\0hello", broken=True)], id="a wrong checksum"),
        pytest.param([chunk(b"tIME", b"", broken=True)], id="a wrong checksum and no content"),
    ],
)
def test_metadata_of_a_png_never_decides_about_its_pixels(chunks: list[bytes]) -> None:
    content = with_chunk(*chunks)
    assert decode_image(content, size=16).tolist() == decode_image(PNG, size=16).tolist()
    assert inspect_image(content)[:2] == (64, 48)
    assert len(tidy_content(content, limits=DEFAULT_LIMITS)) < len(PNG) + 20_000


def test_metadata_of_a_usual_size_stays_with_the_orientation_in_it() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = encode("PNG", exif=exif)
    assert tidy_content(content, limits=DEFAULT_LIMITS) is content
    bulky = content[:33] + chunk(b"zTXt", b"Comment\0\0" + BULK) + content[33:]
    assert inspect_image(bulky)[:2] == (48, 64)


def test_a_png_of_too_many_chunks_is_refused() -> None:
    assert code_of(with_chunk(chunk(b"tEXt", b"a\0b") * 30_000)) == "too-large"


def jpeg_with_scans(count: int) -> bytes:
    """Return a progressive JPEG in which the last scan occurs `count` times."""
    content = encode("JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * count + content[-2:]


def test_a_jpeg_of_too_many_scans_is_refused_before_it_is_decoded() -> None:
    assert inspect_image(jpeg_with_scans(30))[:2] == (64, 48)
    assert code_of(jpeg_with_scans(400)) == "too-large"
    assert code_of(jpeg_with_scans(100), DecodeLimits(max_scanned_pixels=64 * 48 * 50)) == "too-large"


def test_marks_of_scans_behind_the_picture_do_not_count() -> None:
    content = JPEG + b"\xff\xda" * 5000  # such as a video that a phone appended
    assert inspect_image(content)[:2] == (64, 48)


@pytest.mark.parametrize("junk", [b"\xff", b"\0", b"\xff\0"])
def test_padding_between_the_segments_of_a_jpeg_is_not_read(junk: bytes) -> None:
    content = JPEG[:2] + junk * (5_000_000 // len(junk)) + JPEG[2:]
    assert tidy_content(content, limits=DEFAULT_LIMITS) == JPEG
    assert decode_image(content, size=16).tolist() == decode_image(JPEG, size=16).tolist()


def test_a_jpeg_of_too_many_segments_is_refused() -> None:
    assert code_of(JPEG[:2] + b"\xff\xe5\0\2" * 30_000 + JPEG[2:]) == "too-large"


def test_a_long_comment_of_a_ppm_is_not_read() -> None:
    picture = encode("PPM")
    content = picture[:3] + b"#" + b" long" * 1_000_000 + b"\n" + picture[3:]
    assert len(tidy_content(content, limits=DEFAULT_LIMITS)) == len(picture)
    assert decode_image(content, size=16).tolist() == decode_image(picture, size=16).tolist()
    short = picture[:3] + b"# drawn by hand\n" + picture[3:]
    assert tidy_content(short, limits=DEFAULT_LIMITS) is short


def test_comments_among_the_numbers_of_a_plain_ppm_are_bounded() -> None:
    numbers = b"1 2 3 " * 64
    plain = b"P3\n8 8\n255\n"
    expected = decode_image(plain + numbers, size=8).tolist()
    assert decode_image(plain + b"# one\n" * 100 + numbers, size=8).tolist() == expected
    assert code_of(plain + b"#\n" * 30_000 + numbers) == "too-large"


def test_metadata_of_a_gif_is_bounded() -> None:
    picture = encode("GIF")
    at = 13 + 3 * 2 ** ((picture[10] & 7) + 1)
    content = picture[:at] + b"!\xfe" + b"\x01a" * 300 + b"\0" + picture[at:]
    assert decode_image(content, size=8).tolist() == decode_image(picture, size=8).tolist()
    assert code_of(picture[:at] + b"!\xfe" + b"\x01a" * 30_000 + b"\0" + picture[at:]) == "too-large"


def test_padding_within_the_scan_of_a_jpeg_is_not_read() -> None:
    content = JPEG[:-2] + b"\xff" * 5_000_000 + JPEG[-2:]
    assert len(tidy_content(content, limits=DEFAULT_LIMITS)) <= len(JPEG) + 1
    assert decode_image(content, size=16).tolist() == decode_image(JPEG, size=16).tolist()


@pytest.mark.parametrize("size", [(1, 200_000), (200_000, 1)])
def test_a_side_that_no_photo_has_is_refused(size: tuple[int, int]) -> None:
    assert code_of(encode("PNG", size)) == "too-large"


def test_what_is_no_photo_is_left_as_it_is() -> None:
    for content in (b"P", b"P6", b"P6 x", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF89a", JPEG[:100], PNG[:50]):
        assert tidy_content(content, limits=DEFAULT_LIMITS) == content
