"""Parallel coordinates as inline SVG: a vertical axis for each setting or score, a line for each trial."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from catdog.report.axes import Axis, line_path, names_axis, number_text, picture
from catdog.report.markup import Html, tag


def parallel_coordinates(
    columns: Sequence[tuple[str, Sequence[Any]]],
    *,
    tips: Sequence[str],
    ranks: Sequence[float],
    logs: Collection[str] = (),
    names: Sequence[str] | None = None,
    marked: int | None = None,
) -> Html:
    """Return parallel coordinates: a vertical axis for each column, a line for each row.

    `ranks` in [0, 1] sets the colours of the rows: 0 is the best and is drawn last. Text values are placed in
    alphabetical order. The columns in `logs` are logarithmic. A click on a row selects its name in `names`. The row
    `marked` is dashed.
    """
    width, height, top, bottom = 150 * max(len(columns), 4), 312, 46, 300
    places = [70 + index * (width - 140) / max(1, len(columns) - 1) for index in range(len(columns))]
    axes: list[Html] = []
    heights: list[list[float]] = []
    for index, ((name, values), place) in enumerate(zip(columns, places, strict=True)):
        axis, texts = names_axis(values, top=top, bottom=bottom, log=name in logs)
        heights.append([axis.place(texts.index(str(value)) if texts else value) for value in values])
        # Names alternate between two heights, so that long ones next to each other do not overlap.
        axes.append(tag("text", name, x=place, y=16 + 14 * (index % 2), text_anchor="middle", class_="label"))
        axes += _axis(axis, texts, place)
    order = sorted(range(len(tips)), key=lambda row: -ranks[row])
    lines = [
        _line(
            [(place, column[row]) for place, column in zip(places, heights, strict=True)],
            ranks[row],
            tips[row],
            name=names[row] if names else None,
            marked=row == marked,
        )
        for row in order
    ]
    return picture("Trials as parallel coordinates", *lines, *axes, width=width, height=height)


def _axis(axis: Axis, names: Sequence[str], place: float) -> list[Html]:
    ticks = dict(enumerate(names)) if names else {tick: number_text(tick) for tick in axis.ticks()}
    parts = [tag("line", x1=place, x2=place, y1=axis.end, y2=axis.start, class_="axis")]
    for value, text in ticks.items():
        parts.append(tag("line", x1=place - 4, x2=place, y1=axis.place(value), y2=axis.place(value), class_="tick"))
        parts.append(tag("text", text[:14], x=place - 7, y=axis.place(value) + 4, text_anchor="end"))
    return parts


def _line(points: Sequence[tuple[float, float]], rank: float, tip: str, *, name: str | None, marked: bool) -> Html:
    path = line_path(points)
    line = tag("path", d=path, class_=f"line r{min(4, int(rank * 5))}" + (" marked" if marked else ""))
    wide = tag("path", d=path, class_="wide")  # invisible: a wider target for the pointer
    return tag("g", line, wide, class_="trial", data_tip=tip, data_trial=name)
