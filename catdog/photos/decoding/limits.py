"""What decoding one photo may cost."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """Bounds of one photo; a photo beyond one of them is a reported row, and costs next to nothing."""

    # Decoded pixels take 4 bytes at most. Pillow refuses more than 178,956,970, whatever the caller allows.
    max_pixels: int = 64_000_000
    max_side: int = 100_000  # decoders keep some bytes for each row, however short it is
    max_scans: int = 300  # of a progressive JPEG, which is decoded once for each; cameras write 10 or so
    max_scanned_pixels: int = 2_000_000_000  # scans times pixels
    max_seconds: float = 60.0  # of decoding
    max_segments: int = 20_000  # of a file's header: parsers take microseconds for each, however short it is


DEFAULT_LIMITS = DecodeLimits()
