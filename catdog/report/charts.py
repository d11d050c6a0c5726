"""Small charts as inline SVG: colours and fonts come from the page's style sheet, values from hovering.

Whatever has `data-tip` shows its text when the pointer or the keyboard comes to it (page.js).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from catdog.report.markup import Html, join, tag

History = Sequence[Mapping[str, float]]

_WIDTH, _HEIGHT = 440, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 12, 16, 40
_LOG_RATIO = 30  # values that spread over more than this are shown on a logarithmic axis


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """From values to pixels: `low` lies at pixel `start`, `high` at `end`."""

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
    """Tell whether `values` belong on a logarithmic axis: all positive, and far apart."""
    return len(values) > 0 and min(values) > 0 and max(values) / min(values) > _LOG_RATIO


def number_text(value: Any) -> str:
    """Return a number as a label shows it, four digits of it; any other value as text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def axis_of(values: Sequence[float], *, start: float, end: float, log: bool = False, margin: float = 0.06) -> Axis:
    """Return an axis that holds `values` with a margin; one of zero width is opened around its value."""
    low, high = min(values), max(values)
    if log:
        widen = (high / low) ** margin if high > low else 2.0
        return Axis(low=low / widen, high=high * widen, start=start, end=end, log=True)
    widen = (high - low) * margin if high > low else max(abs(high) * 0.05, 0.05)
    return Axis(low=low - widen, high=high + widen, start=start, end=end)


def _horizontal(values: Sequence[float], *, log: bool = False, margin: float = 0.06) -> Axis:
    return axis_of(values, start=_LEFT, end=_WIDTH - _RIGHT, log=log, margin=margin)


def _frame(
    x: Axis,
    y: Axis,
    *marks: Html,
    title: str,
    x_label: str,
    y_label: str,
    x_names: Mapping[float, str] | None = None,
) -> Html:
    """Return a chart: grid, tick labels, axis labels, `marks` upon them."""
    left, right, bottom, top = x.start, x.end, y.start, y.end
    parts = []
    for value in y.ticks():
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


def picture(title: str, *parts: Html, width: float = _WIDTH, height: float = _HEIGHT) -> Html:
    """Return the svg element that holds `parts`: an image with a name, and a stop for the keyboard."""
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=title,
        tabindex="0",
        class_="chart",
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def curve(histories: Mapping[str, History], score: str, *, title: str) -> Html:
    """Return training dots and validation line over the epochs of all stages, as in the article.

    `histories` has rows of history.csv by stage; a value that is no finite number has no mark.
    """
    stages = [(name, rows) for name, rows in histories.items() if rows]
    total = sum(len(rows) for _, rows in stages)
    values = [float(row[key]) for _, rows in stages for row in rows for key in (score, f"val_{score}")]
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    bottom = _HEIGHT - _BOTTOM
    x = Axis(low=0.5, high=total + 0.5, start=_LEFT, end=_WIDTH - _RIGHT)
    if score == "acc":
        y = Axis(low=min(finite) - 0.05 * (1.02 - min(finite)), high=1.005, start=bottom, end=_TOP)
    else:
        y = Axis(low=0, high=max(finite) * 1.05 or 1.0, start=bottom, end=_TOP)
    marks, dots, bands, start = [], [], [], 0
    for index, (name, rows) in enumerate(stages):
        places = [x.place(start + 1 + offset) for offset in range(len(rows))]
        line = [
            (place, y.place(row[f"val_{score}"]))
            for place, row in zip(places, rows, strict=True)
            if math.isfinite(row[f"val_{score}"])
        ]
        if len(line) > 1:
            marks.append(tag("path", d=_path(line), class_="line s0"))
        else:
            marks += [tag("circle", cx=a, cy=b, r=3.5, class_="dot s0") for a, b in line]
        for place, row in zip(places, rows, strict=True):
            if math.isfinite(row[score]):
                dots.append(tag("circle", cx=place, cy=y.place(row[score]), r=3, class_="dot s1"))
            tip = f"{name}, epoch {int(row['epoch'])}\ntraining {row[score]:.4f}\nvalidation {row[f'val_{score}']:.4f}"
            width = (x.end - x.start) / total
            bands.append(
                tag("rect", x=place - width / 2, y=_TOP, width=width, height=bottom - _TOP, class_="hit", data_tip=tip)
            )
        marks.append(tag("text", name, x=x.place(start + 0.5) + 4, y=_TOP - 5, class_="label"))
        start += len(rows)
        if index + 1 < len(stages):
            border = x.place(start + 0.5)
            marks.append(tag("line", x1=border, x2=border, y1=_TOP - 12, y2=bottom, class_="border"))
    ticks = {tick: str(round(tick)) for tick in x.ticks(at_most=10) if tick == round(tick) and tick >= 1}
    return _frame(x, y, *marks, *dots, *bands, title=title, x_label="epoch", y_label=title.lower(), x_names=ticks)


def histogram(counts: Sequence[int], *, low: float, high: float, title: str, x_label: str, series: int = 0) -> Html:
    """Return bars of `counts` in equal bins from `low` to `high`; a logarithmic axis where they are far apart."""
    bottom = _HEIGHT - _BOTTOM
    most, positive = max([1, *counts]), [count for count in counts if count]
    log = bool(positive) and most / min(positive) > _LOG_RATIO
    x = Axis(low=low, high=high, start=_LEFT, end=_WIDTH - _RIGHT)
    y = Axis(low=0.5 if log else 0, high=most * (1.4 if log else 1.05), start=bottom, end=_TOP, log=log)
    width = (x.end - x.start) / len(counts)
    bars = []
    for index, count in enumerate(counts):
        edges = (low + (high - low) * (index + step) / len(counts) for step in (0, 1))
        tip = f"{' to '.join(number_text(round(edge, 4)) for edge in edges)}\n{count:,} photos"
        place = x.start + index * width
        if count:
            top = y.place(count)
            bars.append(
                tag("rect", x=place + 0.5, y=top, width=width - 1, height=bottom - top, class_=f"bar s{series}")
            )
        bars.append(tag("rect", x=place, y=_TOP, width=width, height=bottom - _TOP, class_="hit", data_tip=tip))
    return _frame(x, y, *bars, title=title, x_label=x_label, y_label="photos (logarithmic)" if log else "photos")


def reliability(series: Mapping[str, Sequence[Mapping[str, Any]]], *, title: str) -> Html:
    """Return accuracy against confidence, bin by bin, for each of `series`; the diagonal is what 0.9 should mean."""
    bottom = _HEIGHT - _BOTTOM
    rows = [one for bins in series.values() for one in bins]
    least = min([0.9, *(min(one["confidence"], one["accuracy"]) for one in rows)])
    x = Axis(low=max(0, least - 0.04), high=1.02, start=_LEFT, end=_WIDTH - _RIGHT)
    y = Axis(low=x.low, high=x.high, start=bottom, end=_TOP)
    most = max([1, *(one["photos"] for one in rows)])
    corner = [(x.place(value), y.place(value)) for value in (x.low, 1)]
    marks = [tag("path", d=_path(corner), class_="diagonal")]
    for index, (name, bins) in enumerate(series.items()):
        points = [(x.place(one["confidence"]), y.place(one["accuracy"])) for one in bins]
        if len(points) > 1:
            marks.append(tag("path", d=_path(points), class_=f"line thin s{index}"))
        for (a, b), one in zip(points, bins, strict=True):
            tip = (
                f"{name}: {one['low']:.3f} to {one['high']:.3f}\n{one['photos']:,} photos\n"
                f"mean probability {one['confidence']:.4f}\naccuracy {one['accuracy']:.4f}"
            )
            radius = 3 + 7 * math.sqrt(one["photos"] / most)
            marks.append(tag("circle", cx=a, cy=b, r=radius, class_=f"dot s{index}", data_tip=tip))
    return _frame(x, y, *marks, title=title, x_label="probability said", y_label="share right")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One mark of a scatter chart; `series` decides its colour, a hollow one is unfinished."""

    x: float
    y: float
    tip: str
    series: int = 0
    hollow: bool = False


def scatter(
    points: Sequence[Point],
    *,
    title: str,
    x_label: str,
    y_label: str,
    names: Sequence[str] | None = None,
    steps: Sequence[tuple[float, float]] = (),
) -> Html:
    """Return a mark for each of `points`; axes are logarithmic where values are far apart.

    With `names`, x counts through them. `steps` is a line that holds its value until the next of its points.
    """
    bottom = _HEIGHT - _BOTTOM
    across = [point.x for point in points]
    x = _horizontal([-0.5, len(names) - 0.5], margin=0) if names else _horizontal(across, log=is_wide(across))
    heights = [point.y for point in points]
    y = axis_of(heights, start=bottom, end=_TOP, log=is_wide(heights))
    marks = []
    if steps:
        line = [(x.place(steps[0][0]), y.place(steps[0][1]))]
        for a, b in steps[1:]:
            line += [(x.place(a), line[-1][1]), (x.place(a), y.place(b))]
        line.append((x.end, line[-1][1]))
        marks.append(tag("path", d=_path(line), class_="line s0"))
    for point in points:
        kind = f"dot s{point.series}" + (" hollow" if point.hollow else "")
        marks.append(tag("circle", cx=x.place(point.x), cy=y.place(point.y), r=4.5, class_=kind, data_tip=point.tip))
    ticks = {float(index): name[:14] for index, name in enumerate(names)} if names else None
    suffix = " (logarithmic)" if y.log else ""
    return _frame(x, y, *marks, title=title, x_label=x_label, y_label=y_label + suffix, x_names=ticks)


def parallel(columns: Sequence[tuple[str, Sequence[Any]]], *, tips: Sequence[str], ranks: Sequence[float]) -> Html:
    """Return parallel coordinates: an upright axis for each column, a line for each row.

    `ranks` in [0, 1] colours the rows, 0 the best, which is drawn last. Texts and truth values stand in their order.
    """
    width, height, top, bottom = 150 * max(len(columns), 4), 312, 46, 300
    places = [70 + index * (width - 140) / max(1, len(columns) - 1) for index in range(len(columns))]
    axes, heights = [], []
    for index, ((name, values), place) in enumerate(zip(columns, places, strict=True)):
        axis, names = _upright(values, top=top, bottom=bottom)
        heights.append([axis.place(names.index(str(value)) if names else value) for value in values])
        axes.append(tag("line", x1=place, x2=place, y1=top, y2=bottom, class_="axis"))
        # Names of neighbours stand on two heights, so that long ones do not meet.
        axes.append(tag("text", name, x=place, y=16 + 14 * (index % 2), text_anchor="middle", class_="label"))
        ticks = dict(enumerate(names)) if names else {tick: number_text(tick) for tick in axis.ticks()}
        for value, text in ticks.items():
            axes.append(tag("line", x1=place - 4, x2=place, y1=axis.place(value), y2=axis.place(value), class_="tick"))
            axes.append(tag("text", text[:14], x=place - 7, y=axis.place(value) + 4, text_anchor="end"))
    order = sorted(range(len(tips)), key=lambda row: -ranks[row])
    lines = []
    for row in order:
        path = _path([(place, heights[column][row]) for column, place in enumerate(places)])
        level = min(4, int(ranks[row] * 5))
        # The wide invisible twin is what the pointer meets.
        lines.append(
            tag(
                "g",
                tag("path", d=path, class_=f"line r{level}"),
                tag("path", d=path, class_="wide"),
                class_="trial",
                data_tip=tips[row],
            )
        )
    return picture("Trials as parallel coordinates", *lines, *axes, width=width, height=height)


def _upright(values: Sequence[Any], *, top: float, bottom: float) -> tuple[Axis, list[str]]:
    """Return an upright axis and, where `values` are no numbers, the names along it."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return axis_of(values, start=bottom, end=top, log=is_wide(values)), []
    names = sorted({str(value) for value in values})
    return axis_of([0, max(1, len(names) - 1)], start=bottom, end=top), names


def share_bar(share: float, *, series: int = 0) -> Html:
    """Return a bar as long as `share` of its cell."""
    bar = tag("rect", width=100.0 * min(1.0, max(0.0, share)), height=8, rx=1, class_=f"bar s{series}")
    back = tag("rect", width=100, height=8, rx=1, class_="track")
    return tag("svg", back, bar, viewBox="0 0 100 8", preserveAspectRatio="none", class_="share", aria_hidden="true")


def legend(*entries: tuple[str, str]) -> Html:
    """Return a line of (class of the mark, text): a dot or a line."""
    marks = (
        tag(
            "li",
            tag(
                "svg",
                tag("path", d="M0 6L18 6", class_=kind)
                if kind.startswith("line")
                else tag("circle", cx=9, cy=6, r=4.5, class_=kind),
                viewBox="0 0 18 12",
                aria_hidden="true",
            ),
            text,
        )
        for kind, text in entries
    )
    return tag("ul", join(marks), class_="legend")
