"""Axes of charts: from values to pixels, round tick values, and the frame of grid and labels around the marks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from catdog.report.markup import Html, tag

# The size of a chart and the margins that its labels take, in pixels.
WIDTH, HEIGHT = 440, 270
LEFT, RIGHT, TOP, BOTTOM = 66, WIDTH - 12, 16, HEIGHT - 40
_LOG_RATIO = 30  # values that spread over more than this are shown on a logarithmic axis


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """A mapping from values to pixels: `low` is at pixel `start`, `high` at pixel `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Return the pixel of `value`."""
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (self.end - self.start) * ((value - low) / (high - low) if high > low else 0.5)

    def ticks(self, *, at_most: int = 6) -> list[float]:
        """Return round values between `low` and `high`."""
        if not self.high > self.low:
            return [self.low]
        if self.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            if len(powers) >= 2:
                return [10.0**power for power in powers[:: -(-len(powers) // at_most)]]
            factors = [f * 10.0**p for p in range(powers.start - 1, powers.stop + 1) for f in (1, 2, 3, 5)]
            return [value for value in factors if self.low <= value <= self.high][:at_most]
        step = _round_step((self.high - self.low) / at_most)
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _round_step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9)))


def is_wide(values: Sequence[float]) -> bool:
    """Return whether `values` belong on a logarithmic axis: all are positive, and they are far apart."""
    return len(values) > 0 and min(values) > 0 and max(values) / min(values) > _LOG_RATIO


def number_text(value: Any) -> str:
    """Return the text of a label: a float with four significant digits, any other value as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def axis_of(values: Sequence[float], *, start: float, end: float, log: bool = False, margin: float = 0.06) -> Axis:
    """Return an axis that covers `values` with a margin; equal values get an axis around them."""
    low, high = min(values), max(values)
    if log:
        widen = (high / low) ** margin if high > low else 2.0
        return Axis(low=low / widen, high=high * widen, start=start, end=end, log=True)
    widen = (high - low) * margin if high > low else abs(high) * 0.05 or 0.05
    return Axis(low=low - widen, high=high + widen, start=start, end=end)


def horizontal_axis(low: float, high: float) -> Axis:
    """Return the axis from `low` at the left end of a chart to `high` at its right end."""
    return Axis(low=low, high=high, start=LEFT, end=RIGHT)


def vertical_axis(low: float, high: float, *, log: bool = False) -> Axis:
    """Return the axis from `low` at the bottom of a chart to `high` at its top."""
    return Axis(low=low, high=high, start=BOTTOM, end=TOP, log=log)


def names_axis(values: Sequence[Any], *, top: float, bottom: float, log: bool = False) -> tuple[Axis, list[str]]:
    """Return a vertical axis between two pixels and, if `values` are not all numbers, the names along it.

    The axis of numbers is logarithmic if they are far apart, or with `log` if they are positive.
    """
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return axis_of(values, start=bottom, end=top, log=is_wide(values) or (log and min(values) > 0)), []
    names = sorted({str(value) for value in values})
    return axis_of([0, max(1, len(names) - 1)], start=bottom, end=top), names


def frame(
    x: Axis,
    y: Axis,
    *marks: Html,
    title: str,
    x_label: str,
    y_label: str,
    x_names: Mapping[float, str] | None = None,
    whole_y: bool = False,
) -> Html:
    """Return a chart: grid, tick labels and axis labels, with `marks` on top.

    `x_names` replaces the ticks of x: it maps values to texts. With `whole_y`, only whole numbers are ticks of y.
    """
    left, right, bottom, top = x.start, x.end, y.start, y.end
    parts = []
    for value in (tick for tick in y.ticks() if not whole_y or tick == round(tick)):
        place = y.place(value)
        parts.append(tag("line", x1=left, x2=right, y1=place, y2=place, class_="grid"))
        parts.append(tag("text", number_text(value), x=left - 6, y=place + 4, text_anchor="end"))
    for value, name in (x_names or {tick: number_text(tick) for tick in x.ticks()}).items():
        parts.append(tag("line", x1=x.place(value), x2=x.place(value), y1=bottom, y2=bottom + 4, class_="tick"))
        parts.append(tag("text", name, x=x.place(value), y=bottom + 17, text_anchor="middle"))
    parts.append(tag("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"))
    middle = (top + bottom) / 2
    turned = f"rotate(-90 12 {middle:.1f})"
    parts.append(tag("text", x_label, x=(left + right) / 2, y=bottom + 34, text_anchor="middle", class_="label"))
    parts.append(tag("text", y_label, x=12, y=middle, text_anchor="middle", transform=turned, class_="label"))
    return picture(title, *parts, *marks)


def picture(title: str, *parts: Html, width: float = WIDTH, height: float = HEIGHT) -> Html:
    """Return an svg element that holds `parts`, has `title` as its accessible name, and takes keyboard focus."""
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=title,
        tabindex="0",
        class_="chart",
    )


def line_path(points: Sequence[tuple[float, float]]) -> str:
    """Return the `d` of an SVG path through `points`, in pixels."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
