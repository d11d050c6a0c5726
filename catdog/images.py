from __future__ import annotations
import io
import numpy as np
from PIL import Image, ImageOps
from catdog.errors import ImageError

def decode_image(content: bytes, *, size: int, max_pixels: int = 64_000_000) -> np.ndarray:
    try:
        im = Image.open(io.BytesIO(content)); im.draft("RGB", (size, size)); im = ImageOps.exif_transpose(im)
        return np.asarray(im.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    except Exception as e:
        raise ImageError("not-an-image", str(e)) from e

def inspect_image(content: bytes, *, max_pixels: int) -> tuple[int, int]:
    try:
        im = Image.open(io.BytesIO(content)); size=im.size; im.draft("RGB", (8, 8)); im.load(); return size
    except Exception as e:
        raise ImageError("not-an-image", str(e)) from e
