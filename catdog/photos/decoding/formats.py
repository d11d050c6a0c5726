"""The image formats that are read, and the names of known formats that need a missing plug-in."""

from __future__ import annotations

import contextlib
import importlib
import re
from functools import lru_cache

from PIL import features

# The formats that Keras's flow_from_directory reads, plus GIF, WebP and AVIF. Pillow's many others have little use
# here, and few people have tried to break their parsers. Pillow treats MPO, a JPEG of several pictures that some phones
# write, as JPEG.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")
DISTRIBUTION, EXTRA = "catdog-ray", "formats"
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_JXL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")

_NAME = re.compile(r".*\.(jpe?g|jpe|jfif|png|gif|bmp|webp|tiff?|avif|hei[cf]|jxl|jp2|p[pgn]m)", re.I | re.DOTALL)


def is_photo_name(name: str) -> bool:
    """Return whether a file of this name is meant to be a photo; only its content decides whether it is one."""
    return _NAME.fullmatch(name) is not None


@lru_cache(maxsize=1)
def readable_formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that this machine can read, after registering the installed plug-ins."""
    found = list(FORMATS)
    if features.check("jpg_2000"):
        found.append("JPEG2000")
    # A plug-in that is installed but broken (OSError) counts as missing.
    with contextlib.suppress(ImportError, OSError):
        importlib.import_module("pillow_heif").register_heif_opener()
        found.append("HEIF")
    with contextlib.suppress(ImportError, OSError):
        importlib.import_module("pillow_jxl")
        found.append("JXL")
    return tuple(found)


def foreign_format(content: bytes) -> str | None:
    """Return the format of a photo that needs a missing plug-in, HEIC or JPEG XL; None for anything else."""
    if content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS:
        return None if "HEIF" in readable_formats() else "HEIC"
    return "JPEG XL" if content.startswith(_JXL) and "JXL" not in readable_formats() else None
