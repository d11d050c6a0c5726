"""What decoding one photo may cost."""

from __future__ import annotations

import dataclasses

_BYTES_PER_PIXEL = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """Bounds of one photo; a photo beyond one of them is a reported row, and costs next to nothing."""

    max_pixels: int = 64_000_000  # Pillow refuses more than 178,956,970, whatever the caller allows
    max_side: int = 100_000  # decoders keep some bytes for each row, however short it is
    max_scans: int = 300  # of a progressive JPEG, which is decoded once for each; cameras write 10 or so
    max_scanned_pixels: int = 2_000_000_000  # scans times pixels
    max_seconds: float = 60.0  # of decoding
    max_segments: int = 20_000  # of a file's header: parsers take microseconds for each, however short it is

    @property
    def max_bytes(self) -> int:
        """The most that decoding may hold at once: 8 bytes for each of `max_pixels`, 512 MB by default.

        Four hold a pixel of any mode of Pillow, and four more what few photos need beside it: the lower bytes of 16-bit
        colours, or the planes of a HEIC of 48 megapixels, the largest that phones write (10 bytes a pixel).
        """
        return _BYTES_PER_PIXEL * self.max_pixels


DEFAULT_LIMITS = DecodeLimits()
