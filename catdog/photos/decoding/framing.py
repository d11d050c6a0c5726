"""How a photo of any aspect ratio becomes the square that a network sees."""

from __future__ import annotations

import dataclasses

RESIZES = ("squash", "crop", "pad")
RESAMPLINGS = ("bilinear", "bicubic")
PAD_LEVEL = 127  # of all three channels: close to zero in every input scaling

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclasses.dataclass(frozen=True, kw_only=True)
class Framing:
    """How a photo is resized to a square.

    `squash` does not keep the aspect ratio, `crop` takes the centre square, `pad` shows the whole photo on gray.
    Resampling takes all pixels into account when it makes a picture smaller. A network must see at prediction what
    it saw in training, so a model's card records its framing. Models older than this record used the default.
    """

    resize: str = "squash"
    resampling: str = "bilinear"

    def window(self, width: int, height: int, *, size: int) -> tuple[Box, tuple[int, int]]:
        """Return the part of a photo that is shown, in its pixels, and its width and height in the square."""
        if self.resize == "crop":
            side = float(min(width, height))
            left, top = (width - side) / 2, (height - side) / 2
            return (left, top, left + side, top + side), (size, size)
        whole = (0.0, 0.0, float(width), float(height))
        if self.resize == "pad":
            longer = max(width, height)
            return whole, (max(1, round(width * size / longer)), max(1, round(height * size / longer)))
        return whole, (size, size)


SQUASH = Framing()
