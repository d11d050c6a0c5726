"""Small JPEGs of photos for report pages."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from catdog.photos.decoding.decode import UPRIGHT, image_orientation, opened_image
from catdog.photos.decoding.limits import DEFAULT_LIMITS, DecodeLimits
from catdog.photos.decoding.memory import load
from catdog.photos.decoding.rgb import shrink_box, to_rgb


def make_thumbnail(content: bytes, *, size: int, limits: DecodeLimits = DEFAULT_LIMITS, quality: int = 80) -> bytes:
    """Return the photo as a small upright JPEG with its aspect ratio, the longer side at most `size` pixels.

    Raises ImageError as `decode_image` does.
    """
    with opened_image(content, limits=limits) as (image, content):
        scale = min(1.0, size / max(image.size))
        sides = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        draft = image.draft("RGB", sides)
        load(image, content=content, limits=limits)
        orientation = image_orientation(image)
        rgb, factor = to_rgb(image, content=content, spare_factor=1 / scale)
        box = draft[1] if draft else (0, 0, image.width, image.height)
        small = rgb.resize(sides, Image.Resampling.BILINEAR, box=shrink_box(box, factor))
        if orientation in UPRIGHT:
            small = small.transpose(UPRIGHT[orientation])
        return encode_jpeg(small, quality=quality)


def encode_jpeg(image: Image.Image | np.ndarray, *, quality: int = 80) -> bytes:
    """Return an RGB image, or uint8 (H, W, 3), as a JPEG without any metadata of the original photo."""
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=quality, exif=b"")
    return sink.getvalue()


def overlay_heat(thumbnail: bytes, heat: np.ndarray) -> bytes:
    """Return the JPEG `thumbnail` with `heat` (H, W), 0 to 1, overlaid from transparent through yellow to red."""
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
