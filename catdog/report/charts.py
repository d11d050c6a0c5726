"""Small charts as inline SVG. The page's style sheet sets colours and fonts, and hovering shows values.

An element with `data-tip` shows that text when the pointer or the keyboard reaches it (page.js).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from catdog.report.axes import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Axis,
    axis_of,
    frame,
    horizontal_axis,
    is_wide,
    line_path,
    number_text,
    vertical_axis,
)
from catdog.report.markup import Html, join, tag

History = Sequence[Mapping[str, float]]


def curve(histories: Mapping[str, History], score: str, *, title: str) -> Html:
    """Return a chart of `score` over the epochs of all stages: training as dots, validation as a line.

    This is how the article draws it. `histories` has the rows of history.csv by stage. Values that are not finite have
    no mark.
    """
    stages = [(name, rows) for name, rows in histories.items() if rows]
    total = sum(len(rows) for _, rows in stages)
    values = [float(row[key]) for _, rows in stages for row in rows for key in (score, f"val_{score}")]
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    x = horizontal_axis(0.5, total + 0.5)
    if score == "acc":
        low = min(0.99, min(finite) - 0.05 * (1.02 - min(finite)))
        y = vertical_axis(low, 1 + 0.02 * (1 - low))
    else:
        y = vertical_axis(0, max(finite) * 1.05 or 1.0)
    marks: list[Html] = []
    hits: list[Html] = []
    start = 0
    for name, rows in stages:
        if start:
            border = x.place(start + 0.5)
            marks.append(tag("line", x1=border, x2=border, y1=TOP - 12, y2=BOTTOM, class_="border"))
        marks.append(tag("text", name, x=x.place(start + 0.5) + 4, y=TOP - 5, class_="label"))
        places = [x.place(start + 1 + offset) for offset in range(len(rows))]
        marks += _stage_marks(rows, places, y, score)
        hits += _epoch_hits(name, rows, places, score, width=(x.end - x.start) / total)
        start += len(rows)
    ticks = {tick: str(round(tick)) for tick in x.ticks(at_most=10) if tick == round(tick) and tick >= 1}
    return frame(x, y, *marks, *hits, title=title, x_label="epoch", y_label=title.lower(), x_names=ticks)


def _stage_marks(rows: History, places: Sequence[float], y: Axis, score: str) -> list[Html]:
    """Return one stage's validation line (a dot if it has a single value) and its training dots."""
    placed = list(zip(places, rows, strict=True))
    key = f"val_{score}"
    line = [(place, y.place(row[key])) for place, row in placed if math.isfinite(row[key])]
    if len(line) > 1:
        marks = [tag("path", d=line_path(line), class_="line s0")]
    else:
        marks = [tag("circle", cx=a, cy=b, r=3.5, class_="dot s0") for a, b in line]
    marks += [
        tag("circle", cx=place, cy=y.place(row[score]), r=3, class_="dot s1")
        for place, row in placed
        if math.isfinite(row[score])
    ]
    return marks


def _epoch_hits(name: str, rows: History, places: Sequence[float], score: str, *, width: float) -> list[Html]:
    """Return an invisible band for each epoch, whose tip shows the scores of that epoch."""
    return [
        tag(
            "rect",
            x=place - width / 2,
            y=TOP,
            width=width,
            height=BOTTOM - TOP,
            class_="hit",
            data_tip=f"{name}, epoch {int(row['epoch'])}\ntraining {row[score]:.4f}\n"
            f"validation {row[f'val_{score}']:.4f}",
        )
        for place, row in zip(places, rows, strict=True)
    ]


def histogram(counts: Sequence[int], *, low: float, high: float, title: str, x_label: str, series: int = 0) -> Html:
    """Return bars of `counts` in equal bins from `low` to `high`; if counts are far apart, y is logarithmic."""
    most, positive = max([1, *counts]), [count for count in counts if count]
    log = is_wide(positive)
    x = horizontal_axis(low, high)
    y = vertical_axis(0.5 if log else 0, most * (1.4 if log else 1.05), log=log)
    width = (x.end - x.start) / len(counts)
    bars = []
    for index, count in enumerate(counts):
        edges = (low + (high - low) * (index + step) / len(counts) for step in (0, 1))
        tip = f"{' to '.join(number_text(round(edge, 4)) for edge in edges)}\n{count:,} photo{'s'[count == 1 :]}"
        place = x.start + index * width
        if count:
            top = y.place(count)
            bars.append(
                tag("rect", x=place + 0.5, y=top, width=width - 1, height=BOTTOM - top, class_=f"bar s{series}")
            )
        bars.append(tag("rect", x=place, y=TOP, width=width, height=BOTTOM - TOP, class_="hit", data_tip=tip))
    return frame(
        x, y, *bars, title=title, x_label=x_label, y_label="photos (logarithmic)" if log else "photos", whole_y=True
    )


def reliability(series: Mapping[str, Sequence[Mapping[str, Any]]], *, title: str) -> Html:
    """Return accuracy against confidence by bin for each of `series`; the diagonal is perfect calibration."""
    rows = [one for bins in series.values() for one in bins]
    least = min([0.9, *(min(one["confidence"], one["accuracy"]) for one in rows)])
    x = horizontal_axis(max(0, least - 0.04), 1.02)
    y = vertical_axis(x.low, x.high)
    most = max([1, *(one["photos"] for one in rows)])
    corner = [(x.place(value), y.place(value)) for value in (x.low, 1)]
    marks = [tag("path", d=line_path(corner), class_="diagonal")]
    for index, (name, bins) in enumerate(series.items()):
        points = [(x.place(one["confidence"]), y.place(one["accuracy"])) for one in bins]
        if len(points) > 1:
            marks.append(tag("path", d=line_path(points), class_=f"line thin s{index}"))
        for (a, b), one in zip(points, bins, strict=True):
            tip = (
                f"{name}: {one['low']:.3f} to {one['high']:.3f}\n{one['photos']:,} photos\n"
                f"mean confidence {one['confidence']:.4f}\naccuracy {one['accuracy']:.4f}"
            )
            radius = 3 + 7 * math.sqrt(one["photos"] / most)
            marks.append(tag("circle", cx=a, cy=b, r=radius, class_=f"dot s{index}", data_tip=tip))
    return frame(x, y, *marks, title=title, x_label="confidence", y_label="accuracy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One mark of a scatter chart; `series` decides its colour.

    A `hollow` mark is an unfinished trial. A `ringed` mark is highlighted. In the page's script, a click on the mark
    selects `name`.
    """

    x: float
    y: float
    tip: str
    series: int = 0
    hollow: bool = False
    ringed: bool = False
    name: str = ""


def scatter(
    points: Sequence[Point],
    *,
    title: str,
    x_label: str,
    y_label: str,
    names: Sequence[str] | None = None,
    steps: Sequence[tuple[float, float]] = (),
    greatest: float = math.inf,
    log_x: bool = False,
) -> Html:
    """Return a scatter chart of `points`; an axis is logarithmic if its values are far apart.

    With `log_x`, x is logarithmic whenever its values are positive. With `steps` but without `log_x`, x is linear. With
    `names`, x is an index into them. `steps` is a line over time that holds each value until the next. `greatest` is
    the largest possible value of y, and no tick is above it.
    """
    across = [point.x for point in points]
    if names:
        x = horizontal_axis(-0.5, len(names) - 0.5)
    else:
        log = (is_wide(across) and not steps) or (log_x and min(across) > 0)
        x = axis_of(across, start=LEFT, end=RIGHT, log=log)
    heights = [point.y for point in points]
    y = axis_of(heights, start=BOTTOM, end=TOP, log=is_wide(heights))
    if y.high > greatest:
        y = dataclasses.replace(y, high=greatest + 0.04 * (greatest - y.low))
    marks = [tag("path", d=line_path(_stairs(steps, x, y)), class_="line s0")] if steps else []
    for point in points:
        kind = f"dot s{point.series}" + (" hollow" if point.hollow else "")
        place: dict[str, Any] = {"cx": x.place(point.x), "cy": y.place(point.y)}
        if point.ringed:
            marks.append(tag("circle", **place, r=8, class_="ring"))
        marks.append(tag("circle", **place, r=4.5, class_=kind, data_tip=point.tip, data_trial=point.name or None))
    ticks = {float(index): name[:14] for index, name in enumerate(names)} if names else None
    suffix = " (logarithmic)" if y.log else ""
    return frame(x, y, *marks, title=title, x_label=x_label, y_label=y_label + suffix, x_names=ticks)


def _stairs(steps: Sequence[tuple[float, float]], x: Axis, y: Axis) -> list[tuple[float, float]]:
    """Return the corners, in pixels, of a line that holds each value of `steps` until the next, the last to the end."""
    line = [(x.place(steps[0][0]), y.place(steps[0][1]))]
    for a, b in steps[1:]:
        line += [(x.place(a), line[-1][1]), (x.place(a), y.place(b))]
    return [*line, (x.end, line[-1][1])]


def share_bar(share: float, *, series: int = 0) -> Html:
    """Return a bar that fills `share` of the width of its cell."""
    bar = tag("rect", width=100.0 * min(1.0, max(0.0, share)), height=8, rx=1, class_=f"bar s{series}")
    back = tag("rect", width=100, height=8, rx=1, class_="track")
    return tag("svg", back, bar, viewBox="0 0 100 8", preserveAspectRatio="none", class_="share", aria_hidden="true")


def legend(*entries: tuple[str, str]) -> Html:
    """Return a legend of `entries`, (CSS class of the mark, text); the mark is a line for a class line…, else a dot."""
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
