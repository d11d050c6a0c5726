"""How a photo of any aspect becomes the square that a network sees."""

from __future__ import annotations

import dataclasses

RESIZES = ("squash", "crop", "pad")
RESAMPLINGS = ("bilinear", "bicubic")
PAD_LEVEL = 127  # of all three channels: next to zero in every scaling

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclasses.dataclass(frozen=True, kw_only=True)
class Framing:
    """`squash` does not keep the aspect, `crop` takes the centre square, `pad` shows all on gray.

    Resampling takes all pixels into account where it makes a picture smaller. A network must see at prediction what
    it saw in training, so a model's card has its framing; models from before it had been made with the default.
    """

    resize: str = "squash"
    resampling: str = "bilinear"

    def window(self, width: int, height: int, *, size: int) -> tuple[Box, tuple[int, int]]:
        """Return the part of a photo that is shown, in its pixels, and the sides that it gets in the square."""
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
