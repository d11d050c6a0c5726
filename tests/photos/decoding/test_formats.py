from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from catdog.errors import ImageError
from catdog.photos.decoding import formats
from catdog.photos.decoding.decode import decode_image

GREEN = np.full((24, 32, 3), (20, 200, 40), np.uint8)


def encode(image_format: str, **options: object) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(GREEN).save(sink, image_format, **options)
    return sink.getvalue()


def test_jpeg_2000_is_read() -> None:
    assert decode_image(encode("JPEG2000"), size=2).tolist() == [[[20, 200, 40]] * 2] * 2


@pytest.mark.parametrize(("plug_in", "image_format"), [("pillow_heif", "HEIF"), ("pillow_jxl", "JXL")])
def test_heic_and_jpeg_xl_are_read_with_the_extra(plug_in: str, image_format: str) -> None:
    pytest.importorskip(plug_in)
    formats.readable_formats()
    found = decode_image(encode(image_format, quality=95), size=2).astype(int)
    assert np.abs(found - (20, 200, 40)).max() <= 6


def test_a_broken_heic_is_not_told_to_lack_the_extra_that_is_there() -> None:
    pytest.importorskip("pillow_heif")
    with pytest.raises(ImageError) as caught:
        decode_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), size=8)
    assert caught.value.code == "not-an-image"


@pytest.mark.parametrize(
    ("content", "name"),
    [(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "HEIC"), (b"\xff\x0a" + bytes(100), "JPEG XL")],
)
def test_without_the_extra_the_reason_names_it(monkeypatch: pytest.MonkeyPatch, content: bytes, name: str) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    formats.readable_formats.cache_clear()
    with pytest.raises(ImageError) as caught:
        decode_image(content, size=8)
    assert caught.value.code == "unsupported"
    assert caught.value.message == f"{name} is read with the extra formats: pip install 'catdog-ray[formats]'"
    formats.readable_formats.cache_clear()
