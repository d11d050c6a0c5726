"""The formats that are read, and what is said of a photo in one that is not."""

from __future__ import annotations

import contextlib
import importlib
import re
from functools import lru_cache

from PIL import features

# The ones that Keras's flow_from_directory reads, GIF, WebP and AVIF; Pillow's many others have little use here and
# parsers that few have tried to break. Pillow counts MPO, the JPEG of several pictures that some phones write, to JPEG.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")
DISTRIBUTION, EXTRA = "catdog-ray", "formats"
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_JXL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")

_NAME = re.compile(r".*\.(jpe?g|jpe|jfif|png|gif|bmp|webp|tiff?|avif|hei[cf]|jxl|jp2|p[pgn]m)", re.I | re.DOTALL)


def is_photo_name(name: str) -> bool:
    """Tell whether a file of this name is meant to be a photo: its content alone decides whether it is one."""
    return _NAME.fullmatch(name) is not None


@lru_cache(maxsize=1)
def readable_formats() -> tuple[str, ...]:
    """Return the names by which Pillow knows what this machine can read; plug-ins are registered on the way."""
    found = list(FORMATS)
    if features.check("jpg_2000"):
        found.append("JPEG2000")
    # A plug-in that is installed and broken (OSError) is as good as none.
    with contextlib.suppress(ImportError, OSError):
        importlib.import_module("pillow_heif").register_heif_opener()
        found.append("HEIF")
    with contextlib.suppress(ImportError, OSError):
        importlib.import_module("pillow_jxl")
        found.append("JXL")
    return tuple(found)


def foreign_format(content: bytes) -> str | None:
    """Return what a photo is that only a plug-in reads which is not there: HEIC or JPEG XL; None for anything else."""
    if content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS:
        return None if "HEIF" in readable_formats() else "HEIC"
    return "JPEG XL" if content.startswith(_JXL) and "JXL" not in readable_formats() else None
