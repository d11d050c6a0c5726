"""What decoding one photo may cost."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """Bounds of one photo; a photo beyond one of them is a reported row, and costs next to nothing."""

    # Pillow refuses more than 2 * MAX_IMAGE_PIXELS, 178,956,970, whatever the caller allows.
    max_pixels: int = 64_000_000


DEFAULT_LIMITS = DecodeLimits()
