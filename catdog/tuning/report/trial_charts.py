"""The charts of a sweep's page: trials side by side, the effect of each setting, the best so far, a trial's curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from catdog.report.axes import number_text
from catdog.report.charts import Point, curve, legend, scatter
from catdog.report.markup import Child, Html, join, tag
from catdog.report.page import figure, table
from catdog.report.parallel_coordinates import parallel_coordinates
from catdog.tuning.records import effective_values, stage_text
from catdog.tuning.selection import objective, record_scores
from catdog.tuning.space import Space

DRAWN = 500  # trials in a chart, at most
_CURVES = 60  # trials whose curves the page has, at most

Record = Mapping[str, Any]  # trial.json
# The series, and so the colour, of each status. The mark of a trial that did not finish is hollow.
STATES = {"finished": 0, "stopped": 1, "failed": 6}
SCORES = (("loss", "validation loss"), ("accuracy", "validation accuracy"))


def full_values(record: Record, records: Mapping[int, Record], space: Space) -> dict[str, Any]:
    """Return a trial's values, with trial 0's values for settings whose condition does not hold."""
    defaults = records.get(0, {}).get("values", {})
    values = effective_values(record)
    return {key: values.get(key, defaults.get(key)) for key in space}


def tip_text(record: Record) -> str:
    """Return the tooltip of a trial's mark."""
    scores = record_scores(record) or {}
    values = [f"{key} {number_text(value)}" for key, value in effective_values(record).items()]
    head = f"trial {record['number']}{', the default settings' if record['number'] == 0 else ''}, {stage_text(record)}"
    return "\n".join([head, f"validation loss {scores['loss']:.4g}, accuracy {scores['accuracy']:.4f}", *values])


def draw_parallel(ranked: Sequence[Record], records: Mapping[int, Record], space: Space, *, metric: str) -> Html:
    """Return a parallel coordinates chart of the best trials: one line per trial, through its values and scores."""
    drawn = ranked[:DRAWN]
    values = [full_values(record, records, space) for record in drawn]
    columns = [(key, [one[key] for one in values]) for key in space if all(one[key] is not None for one in values)]
    columns += [(title, [(record_scores(record) or {})[name] for record in drawn]) for name, title in SCORES]
    # A score that is the same for all trials says nothing.
    columns = [(name, found) for name, found in columns if name in space or len(set(found)) > 1]
    text = f"Each line is a trial. A stronger blue means a better {metric}; the dashed line is trial 0, the defaults."
    if len(ranked) > len(drawn):
        text += f" It shows the best {len(drawn):,} of {len(ranked):,}."
    numbers = [record["number"] for record in drawn]
    chart = parallel_coordinates(
        columns,
        tips=[tip_text(record) for record in drawn],
        ranks=[place / max(1, len(drawn) - 1) for place in range(len(drawn))],
        logs=[key for key, domain in space.items() if domain.is_log],
        names=[str(number) for number in numbers],
        marked=numbers.index(0) if 0 in numbers else None,
    )
    return figure(text, chart, wide=True)


def draw_settings(ranked: Sequence[Record], records: Mapping[int, Record], space: Space) -> Html:
    """Return charts of the scores against each setting. The page shows one setting at a time."""
    drawn = ranked[:DRAWN]
    states = [state for state in STATES if any(record["status"] == state for record in drawn)]
    chooser = tag("label", "Setting", tag("select", join(tag("option", key) for key in space), id="setting"))
    parts: list[Child] = [tag("div", chooser, class_="tools")]
    for index, (key, domain) in enumerate(space.items()):
        points = [
            (record, value) for record in drawn if (value := full_values(record, records, space)[key]) is not None
        ]
        charts = (
            figure(
                f"{title.capitalize()} against {key}; a stopped trial counts with its best epoch, trial 0 has a ring.",
                _state_legend(states),
                _scatter(points, key, name, title, log=domain.is_log),
            )
            for name, title in SCORES
            if points
        )
        parts.append(tag("div", join(charts), class_="columns", data_setting=key, hidden=index > 0))
    return tag("div", join(parts), class_="stack")


def _scatter(points: Sequence[tuple[Record, Any]], key: str, score: str, title: str, *, log: bool) -> Html:
    values, names = [value for _, value in points], None
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        names = sorted({str(value) for value in values})
        values = [names.index(str(value)) for value in values]
    marks = [_point(record, value, score) for (record, _), value in zip(points, values, strict=True)]
    return scatter(
        marks,
        title=f"{title} against {key}",
        x_label=key,
        y_label=title,
        names=names,
        log_x=log,
        greatest=_greatest(score),
    )


def _greatest(score: str) -> float:
    return 1.0 if score == "accuracy" else math.inf


def _point(record: Record, x: float, score: str) -> Point:
    status = record["status"]
    return Point(
        x=x,
        y=(record_scores(record) or {})[score],
        tip=tip_text(record),
        series=STATES.get(status, 6),
        hollow=status != "finished",
        ringed=record["number"] == 0,
        name=str(record["number"]),
    )


def _state_legend(states: Sequence[str]) -> Html:
    return legend(*((f"dot s{STATES[state]}" + (" hollow" if state != "finished" else ""), state) for state in states))


def draw_progress(ranked: Sequence[Record], *, metric: str) -> Html:
    """Return a chart of each trial's score at the time when it ended, with the best score so far."""
    order = sorted(ranked, key=lambda record: record["ended"])[:DRAWN]
    begin = order[0]["ended"] - order[0]["seconds"]
    minutes = [(record["ended"] - begin) / 60 for record in order]
    name = metric.removeprefix("val_")
    title, best = dict(SCORES)[name], order[0]
    steps = []
    for minute, record in zip(minutes, order, strict=True):
        best = min((best, record), key=lambda one: objective(record_scores(one) or {}, metric))
        steps.append((minute, (record_scores(best) or {})[name]))
    points = [_point(record, minute, name) for minute, record in zip(minutes, order, strict=True)]
    chart = scatter(
        points,
        title=f"Best {title} so far",
        x_label="minutes since the first trial started",
        y_label=title,
        steps=steps,
        greatest=_greatest(name),
    )
    return figure(f"{title.capitalize()} of each trial when it ended; the line is the best so far.", chart)


def draw_curves(ranked: Sequence[Record]) -> Html:
    """Return the curves of the best trials and of trial 0. The page shows the winner's first."""
    chosen = list(ranked[:_CURVES])
    chosen += [record for record in ranked[_CURVES:] if record["number"] == 0]
    parts = [_curves(record, hidden=index > 0) for index, record in enumerate(chosen)]
    missing = tag("p", "The page has the curves of the best trials only.", id="no-curves", hidden=True, class_="soft")
    text = tag("p", "Click a trial in any chart, or its number in the table, to see its curves here.", class_="soft")
    return join([text, *parts, missing])


def _curves(record: Record, *, hidden: bool) -> Html:
    histories = {name: stage["history"] for name, stage in record.get("stages", {}).items()}
    epochs = sum(len(rows) for rows in histories.values())
    parts: list[Child] = [tag("h3", f"Trial {record['number']}, {stage_text(record)}")]
    if epochs > 1:
        charts = (
            figure(title, curve(histories, key, title=title)) for key, title in (("loss", "Loss"), ("acc", "Accuracy"))
        )
        parts.append(tag("div", join(charts), class_="columns"))
    elif histories:
        parts.append(tag("p", "Its head was solved, not trained in epochs: there are no curves.", class_="soft"))
    if record.get("folds"):
        parts.append(_folds_table(record["folds"]))
    return tag("div", join(parts), class_="stack", data_curves=str(record["number"]), hidden=hidden)


def _folds_table(folds: Mapping[str, Any]) -> Html:
    rows: list[Sequence[Child]] = [
        (str(index), f"{one['loss']:.4f}", f"{one['accuracy']:.4f}") for index, one in enumerate(folds["scores"], 1)
    ]
    means = (f"{folds[name]:.4f} ± {folds[f'{name}_error']:.4f}" for name in ("loss", "accuracy"))
    return table(("fold left out", "loss", "accuracy"), [*rows, ("mean ± standard error", *means)])
