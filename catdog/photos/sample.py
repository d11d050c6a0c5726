"""Draws a small set of cats and dogs, so that the first run needs no download.

Pictures are cartoons. Both classes share coats, eye colours, poses and backgrounds. As in life, they differ in ears,
muzzle, eyes and whiskers. Lengths are in units of the animal's head radius, y points down, and (0, 0) is the centre of
the head. A picture is drawn at twice its size and reduced, because Pillow's lines are not smooth.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from catdog.errors import FailureError

Color = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

# (coat, shade for ears, stripes and patches, light for muzzle, chest and paws)
COATS: tuple[tuple[Color, Color, Color], ...] = (
    ((226, 152, 78), (176, 102, 40), (250, 226, 190)),  # ginger
    ((146, 148, 156), (92, 94, 104), (226, 228, 232)),  # gray
    ((62, 58, 62), (34, 32, 36), (238, 236, 232)),  # black
    ((240, 232, 216), (198, 172, 138), (255, 251, 244)),  # cream
    ((138, 96, 62), (88, 58, 38), (224, 196, 158)),  # brown
    ((208, 174, 124), (140, 102, 66), (246, 232, 206)),  # tan
    ((250, 248, 244), (70, 64, 64), (255, 255, 255)),  # black and white
)
EYES: tuple[Color, ...] = ((222, 168, 52), (120, 168, 72), (110, 160, 200), (150, 96, 48))
SCENES: tuple[tuple[Color, Color, Color], ...] = (  # (top, bottom, ground)
    ((150, 202, 236), (224, 240, 248), (136, 186, 104)),
    ((250, 214, 170), (252, 238, 216), (196, 148, 102)),
    ((206, 196, 232), (238, 232, 248), (150, 132, 178)),
    ((180, 220, 206), (230, 244, 236), (104, 158, 132)),
    ((242, 190, 190), (252, 230, 226), (190, 116, 116)),
    ((96, 112, 146), (176, 188, 210), (84, 92, 112)),
)
TRINKETS: tuple[Color, ...] = ((214, 62, 62), (52, 108, 190), (60, 150, 96), (236, 190, 60))
INK: Color = (44, 36, 36)
PINK: Color = (240, 158, 158)
WHITE: Color = (255, 255, 255)

_ANGLES = np.linspace(0, 2 * np.pi, 36, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=-1)
_SHARE = np.linspace(0, 1, 12)
_BEZIER = np.stack([(1 - _SHARE) ** 2, 2 * _SHARE * (1 - _SHARE), _SHARE**2], axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """The appearance of one animal, cat or dog."""

    coat: Color
    shade: Color
    light: Color
    eye: Color
    marked: bool  # stripes on a cat, a patch on a dog
    turn: float  # -1 looks left, 1 looks right
    sitting: bool
    collar: Color | None


class Pen:
    """Draws smooth shapes in the animal's own coordinates, with random variation from `rng`."""

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        *,
        rng: np.random.Generator,
        x: float,
        y: float,
        unit: float,
        tilt_degrees: float,
    ) -> None:
        self.rng, self._draw, self._unit = rng, draw, unit
        self._origin, self._matrix = np.array([x, y]), unit * _rotation(tilt_degrees)

    def polygon(self, points: Points | np.ndarray, color: Color) -> None:
        """Fill the polygon with these corners."""
        self._draw.polygon(self._place(points).ravel().tolist(), fill=color)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: Color, *, lean_degrees: float = 0.0) -> None:
        """Fill an ellipse about (x, y), leaning clockwise."""
        self.polygon(_CIRCLE * (rx, ry) @ _rotation(lean_degrees) + (x, y), color)

    def curve(self, points: Points, width: float, color: Color) -> None:
        """Stroke the quadratic Bezier curve of three points, with round ends."""
        places = self._place(_BEZIER @ np.asarray(points, float))
        pixels = max(1, round(width * self._unit))
        # Round joints cost as much as the line, and are invisible in thin lines.
        self._draw.line(places.ravel().tolist(), fill=color, width=pixels, joint="curve" if pixels > 8 else None)
        for x, y in places[[0, -1]].tolist():
            self._draw.circle((x, y), pixels / 2, fill=color)

    def fur(self, x: float, y: float, rx: float, ry: float, color: Color) -> None:
        """Scatter short hairs of about `color` over an ellipse."""
        count = int(90 * rx * ry)
        angles, reach = self.rng.uniform(0, 2 * np.pi, count), np.sqrt(self.rng.uniform(0, 1, (count, 1)))
        outward = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        roots = reach * outward * (rx, ry) + (x, y)
        tips = roots + np.abs(outward) * (0.0, 0.10) + outward * (0.10, 0.0) + (0.0, 0.06)
        hairs = np.hstack([self._place(roots), self._place(tips)]).tolist()
        width = max(1, round(0.03 * self._unit))
        for hair, change in zip(hairs, self.rng.integers(-22, 16, count).tolist(), strict=True):
            self._draw.line(hair, fill=_lit(color, change), width=width)

    def _place(self, points: Points | np.ndarray) -> np.ndarray:
        places: np.ndarray = np.asarray(points, float) @ self._matrix + self._origin
        return places


def draw_sample(directory: Path, *, per_class: int = 120, size: tuple[int, int] = (320, 240), seed: int = 0) -> None:
    """Write `per_class` JPEGs of `size` (width, height) pixels to `directory`/Cat and as many to `directory`/Dog.

    The bytes depend only on the arguments, Pillow and NumPy. `directory` appears with all files or not at all. It is
    left unchanged if it is not empty. Raises FailureError when the files cannot be written.
    """
    if _is_filled(directory):
        return
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as scratch:
            finished = Path(scratch) / "sample"
            _write_classes(finished, per_class=per_class, size=size, seed=seed)
            finished.replace(directory)
    except OSError as error:
        # Another process that draws the same pictures may have finished first.
        if not _is_filled(directory):
            raise FailureError(f"cannot draw the sample pictures to {directory}: {error}") from error


def _is_filled(directory: Path) -> bool:
    return directory.is_dir() and any(directory.iterdir())


def _write_classes(directory: Path, *, per_class: int, size: tuple[int, int], seed: int) -> None:
    for label, (name, draw_head) in enumerate((("Cat", _draw_cat_head), ("Dog", _draw_dog_head))):
        (directory / name).mkdir(parents=True)
        for number in range(per_class):
            picture = _draw_picture(draw_head, size=size, rng=np.random.default_rng([seed, label, number]))
            picture.save(directory / name / f"{name.lower()}_{number:03d}.jpg", quality=90)


def _draw_picture(
    draw_head: Callable[[Pen, Look], None], *, size: tuple[int, int], rng: np.random.Generator
) -> Image.Image:
    width, height = 2 * size[0], 2 * size[1]
    picture = _draw_scene(width, height, rng=rng)
    draw = ImageDraw.Draw(picture)
    coat, shade, light = (_jittered(color, rng=rng) for color in COATS[rng.integers(len(COATS))])
    look = Look(
        coat=coat,
        shade=shade,
        light=light,
        eye=EYES[rng.integers(len(EYES))],
        marked=bool(rng.random() < 0.6),
        turn=rng.uniform(-1, 1),
        sitting=bool(rng.random() < 0.6),
        collar=TRINKETS[rng.integers(len(TRINKETS))] if rng.random() < 0.4 else None,
    )
    unit = rng.uniform(0.17, 0.30) * height
    x, y = rng.uniform(0.3, 0.7) * width, rng.uniform(1.45, 1.75) * unit + rng.uniform(0, 0.12) * height
    _draw_body(Pen(draw, rng=rng, x=x, y=y, unit=unit, tilt_degrees=0), look)
    draw_head(Pen(draw, rng=rng, x=x, y=y, unit=unit, tilt_degrees=rng.uniform(-18, 18)), look)
    pixels = rng.uniform(0.85, 1.08) * np.asarray(picture.reduce(2), np.float32)
    pixels += rng.uniform(1, 5) * rng.standard_normal((*pixels.shape[:2], 1), np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8))


def _draw_scene(width: int, height: int, *, rng: np.random.Generator) -> Image.Image:
    top, bottom, ground = (_jittered(color, rng=rng) for color in SCENES[rng.integers(len(SCENES))])
    column = np.linspace(top, bottom, height).astype(np.uint8)[:, None]
    picture = Image.fromarray(column).resize((width, height), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(0, 9)):  # lights out of focus, or clouds
        radius = rng.uniform(0.03, 0.14) * height
        draw.circle(
            (rng.uniform(0, width), rng.uniform(0, 0.6 * height)), radius, fill=_lit(top, int(rng.integers(8, 40)))
        )
    horizon = rng.uniform(0.55, 0.8) * height
    draw.rectangle((0, horizon, width, height), fill=ground)
    for _ in range(rng.integers(10, 40)):  # grass, or the pile of a carpet
        x, y, reach = rng.uniform(0, width), rng.uniform(horizon, height), rng.uniform(0.01, 0.04) * height
        blade = (x, y, x + rng.uniform(-reach, reach), y - reach)
        draw.line(blade, fill=_lit(ground, int(rng.integers(-25, 25))), width=4)
    if rng.random() < 0.4:  # a ball
        x, y, radius = rng.uniform(0, width), rng.uniform(horizon, height), rng.uniform(0.04, 0.08) * height
        color = TRINKETS[rng.integers(len(TRINKETS))]
        draw.circle((x, y), radius, fill=color)
        draw.circle((x - 0.3 * radius, y - 0.3 * radius), 0.3 * radius, fill=_lit(color, 60))
    return picture


def _draw_body(pen: Pen, look: Look) -> None:
    side = 1 if pen.rng.random() < 0.5 else -1
    rim = _lit(look.coat, -26)  # a darker rim separates limbs of one colour
    reach, rise = pen.rng.uniform(1.5, 2.2), pen.rng.uniform(0.6, 1.8)
    if look.sitting:
        pen.curve([(0.7 * side, 2.9), (reach * side, 3.0), (reach * side, rise)], 0.3, rim)
        for x in (-0.75, 0.75):
            pen.ellipse(x, 2.65, 0.62, 0.72, rim)
        pen.ellipse(0, 1.75, 0.98, 1.4, look.coat)
        pen.fur(0, 1.8, 0.9, 1.25, look.coat)
        pen.ellipse(0, 1.45, 0.5, 0.75, look.light)
        pen.fur(0, 1.45, 0.5, 0.7, look.light)
        paws = [(-0.36, 3.2), (0.36, 3.2)]
    else:
        pen.curve([(2.4 * side, 1.3), (3.3 * side, 1.5), (2.9 * side, rise - 0.6)], 0.28, rim)
        pen.ellipse(1.25 * side, 1.1, 1.6, 0.85, look.coat, lean_degrees=4 * side)
        pen.fur(1.25 * side, 1.1, 1.5, 0.75, look.coat)
        pen.ellipse(2.05 * side, 1.35, 0.75, 0.68, rim)
        pen.fur(2.05 * side, 1.3, 0.7, 0.6, rim)
        pen.ellipse(0, 1.05, 0.62, 0.7, look.light)
        paws = [(-0.45, 1.75), (0.5, 1.8)]
    for x, y in paws:
        pen.curve([(0.8 * x, y - 1.3), (x, y - 0.7), (x, y)], 0.56, rim)
        pen.curve([(0.8 * x, y - 1.3), (x, y - 0.7), (x, y)], 0.48, look.coat)
        pen.ellipse(x, y + 0.08, 0.34, 0.22, look.light)
        for toe in (-0.1, 0.1):
            pen.curve([(x + toe, y + 0.06), (x + toe, y + 0.15), (x + toe, y + 0.24)], 0.03, rim)
    if look.collar:
        pen.ellipse(0, 0.72, 0.72, 0.42, look.collar)


def _draw_cat_head(pen: Pen, look: Look) -> None:
    """Draw pointed ears, slit pupils, a small nose and whiskers."""
    middle, ear = 0.16 * look.turn, pen.rng.uniform(1.25, 1.55)
    for side in (-1, 1):
        pen.polygon([(0.98 * side, -0.1), (0.84 * side, -ear), (0.1 * side, -0.8)], look.coat)
        pen.polygon([(0.86 * side, -0.35), (0.80 * side, 0.2 - ear), (0.32 * side, -0.74)], PINK)
        pen.polygon([(0.7 * side, 0.15), (1.2 * side, 0.42), (0.6 * side, 0.72)], look.coat)  # cheek tuft
    pen.ellipse(0, 0, 1.0, 0.86, look.coat)
    pen.fur(0, 0, 0.98, 0.84, look.coat)
    if look.marked:
        for x in (-0.3, 0.0, 0.3):
            pen.curve([(x + middle, -0.78), (0.8 * x + middle, -0.6), (0.7 * x + middle, -0.4)], 0.09, look.shade)
        for side in (-1, 1):
            for y in (0.0, 0.22):
                pen.curve([(0.95 * side, y), (0.8 * side, y + 0.04), (0.66 * side, y + 0.12)], 0.07, look.shade)
    opening = pen.rng.uniform(0.15, 0.23)
    for side in (-1, 1):
        x = 0.42 * side + middle
        pen.ellipse(x, -0.1, 0.28, opening + 0.035, INK, lean_degrees=-14 * side)
        pen.ellipse(x, -0.1, 0.25, opening, look.eye, lean_degrees=-14 * side)
        pen.ellipse(x, -0.1, pen.rng.uniform(0.04, 0.09), opening - 0.01, INK)
        pen.ellipse(x + 0.07, -0.18, 0.045, 0.045, WHITE)
    for side in (-1, 1):
        pen.ellipse(0.2 * side + 1.2 * middle, 0.42, 0.27, 0.22, look.light)
    pen.ellipse(1.2 * middle, 0.6, 0.17, 0.14, look.light)
    nose = 1.3 * middle
    pen.polygon([(nose - 0.13, 0.2), (nose + 0.13, 0.2), (nose, 0.34)], (214, 112, 116))
    whisker = WHITE if sum(look.coat) < 540 else (96, 86, 84)
    for side in (-1, 1):
        pen.curve([(nose, 0.33), (nose + 0.03 * side, 0.56), (nose + 0.25 * side, 0.5)], 0.045, INK)
        for y in (-0.1, 0.08, 0.26):
            tip = (1.5 * side + middle, 0.38 + 1.2 * y + pen.rng.uniform(-0.08, 0.08))
            pen.curve([(0.28 * side + middle, 0.38 + 0.4 * y), (0.9 * side, 0.3 + 0.9 * y), tip], 0.022, whisker)


def _draw_dog_head(pen: Pen, look: Look) -> None:
    """Draw hanging ears, round pupils, a long muzzle with a big nose and, usually, a tongue."""
    middle, drop = 0.2 * look.turn, pen.rng.uniform(0.6, 0.85)
    pen.ellipse(0, -0.02, 0.86, 0.92, look.coat)
    pen.fur(0, -0.02, 0.84, 0.9, look.coat)
    if look.marked:
        pen.ellipse(middle + 0.38, -0.2, 0.34, 0.42, look.shade, lean_degrees=15)
    else:
        pen.ellipse(middle, -0.45, 0.14, 0.5, look.light)
    for side in (-1, 1):
        x, lean = 0.88 * side, -side * pen.rng.uniform(8, 28)
        pen.ellipse(x, drop - 0.5, 0.33, drop, _lit(look.shade, -14), lean_degrees=lean)
        pen.ellipse(x, drop - 0.52, 0.29, drop - 0.04, look.shade, lean_degrees=lean)
        pen.fur(x, drop - 0.5, 0.24, drop - 0.15, look.shade)
    for side in (-1, 1):
        x = 0.36 * side + middle
        pen.ellipse(x, -0.16, 0.17, 0.18, INK)
        pen.ellipse(x, -0.16, 0.14, 0.15, look.eye)
        pen.ellipse(x, -0.15, 0.095, 0.1, INK)
        pen.ellipse(x + 0.05, -0.21, 0.04, 0.04, WHITE)
        pen.curve([(x - 0.12, -0.42), (x, -0.5), (x + 0.12, -0.42)], 0.06, _lit(look.shade, -10))
    x, length = 1.9 * middle, pen.rng.uniform(0.46, 0.62)
    if pen.rng.random() < 0.7:
        pen.ellipse(x, 0.5 + length, 0.19, 0.34, (226, 100, 112))
        pen.curve([(x, 0.4 + length), (x, 0.5 + length), (x, 0.68 + length)], 0.03, (186, 70, 84))
    pen.ellipse(x, 0.42, 0.5, length + 0.02, _lit(look.light, -30))
    pen.ellipse(x, 0.4, 0.48, length, look.light)
    pen.fur(x, 0.4, 0.44, length - 0.06, look.light)
    pen.ellipse(x, 0.2, 0.25, 0.18, INK)
    pen.ellipse(x - 0.07, 0.13, 0.08, 0.04, (150, 140, 140))
    pen.curve([(x, 0.36), (x, 0.5), (x, 0.34 + length)], 0.04, INK)
    for side in (-1, 1):
        pen.curve([(x, 0.34 + length), (x + 0.2 * side, 0.4 + length), (x + 0.36 * side, 0.2 + length)], 0.045, INK)


def _lit(color: Color, change: int) -> Color:
    """Return `color` with `change` added to every channel, within 0 to 255."""
    red, green, blue = (max(0, min(255, channel + change)) for channel in color)
    return red, green, blue


def _jittered(color: Color, *, rng: np.random.Generator) -> Color:
    """Return nearly the same color; its brightness changes more than its hue, or black coats would turn green."""
    red, green, blue = np.clip(np.array(color) + rng.integers(-12, 13) + rng.integers(-4, 5, 3), 0, 255).tolist()
    return red, green, blue


def _rotation(degrees: float) -> np.ndarray:
    """Return the (2, 2) matrix that turns row vectors clockwise (y points down) when applied from the right."""
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
