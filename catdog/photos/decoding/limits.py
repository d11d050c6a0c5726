"""Limits on what decoding one photo may cost."""

from __future__ import annotations

import dataclasses

_BYTES_PER_PIXEL = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """Limits for one photo. A photo beyond one of them becomes a reported row and costs next to nothing."""

    max_pixels: int = 64_000_000  # Pillow refuses more than 178,956,970, whatever the caller allows
    max_side: int = 100_000  # decoders keep some bytes for each row, however short it is
    max_scans: int = 300  # of a progressive JPEG, which is decoded once for each; cameras write about 10
    max_scanned_pixels: int = 2_000_000_000  # scans times pixels
    max_seconds: float = 60.0  # of decoding
    max_segments: int = 20_000  # of a file's header: parsers take microseconds for each, however short it is

    @property
    def max_bytes(self) -> int:
        """The most memory that decoding may hold at a time: 8 bytes for each of `max_pixels`, 512 MB by default.

        Four bytes hold a pixel of any Pillow mode. The other four are for what only a few photos need: the lower bytes
        of 16-bit colours, or the planes of a 48-megapixel HEIC, the largest that phones write (10 bytes a pixel).
        """
        return _BYTES_PER_PIXEL * self.max_pixels


DEFAULT_LIMITS = DecodeLimits()
