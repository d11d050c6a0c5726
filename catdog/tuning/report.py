"""report.html of a tune job: the trials side by side, the effect of each setting, the best so far, the cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from catdog.console import counted, duration
from catdog.report.axes import number_text
from catdog.report.charts import Point, legend, parallel, scatter, share_bar
from catdog.report.markup import Child, Html, join, tag
from catdog.report.page import Section, build_page, details, figure, folded, settings_table, table, tiles

_DRAWN = 500  # trials in a chart; the table has four times as many

Record = Mapping[str, Any]  # trial.json
# Status by series: its colour; the mark of a trial that did not run to its end is hollow.
_STATES = {"finished": 0, "stopped": 1, "failed": 6}
_SCORES = (("accuracy", "validation accuracy", True), ("loss", "validation loss", False))


def build_tune_page(
    records: Sequence[Record], settings: Sequence[str], *, result: Mapping[str, Any], run_dir: str
) -> str:
    """Return the page of a sweep: `records` of its trials, the `settings` that varied, `result` as in best.json."""
    rated = sorted((record for record in records if _is_rated(record)), key=_worth)
    drawn = rated[:_DRAWN]
    return build_page(
        title="Hyperparameter sweep",
        subtitle=run_dir,
        sections=[
            Section(name="best", title="The best trial", body=_overview(records, result)),
            Section(name="parallel", title="Trials side by side", body=_parallel(drawn, settings, total=len(rated)))
            if len(drawn) > 1
            else None,
            Section(name="settings", title="Effect of each setting", body=_scatters(drawn, settings))
            if drawn and settings
            else None,
            Section(name="progress", title="Best so far", body=_progress(rated)) if rated else None,
            Section(name="cost", title="Cost", body=_cost(records)),
            Section(name="trials", title="All trials", body=_trials(records, settings, rated)),
            Section(name="versions", title="Versions", body=_versions(result)),
        ],
        scripts=["tune_page.js"],
    )


def _is_rated(record: Record) -> bool:
    scores = record.get("validation") or {}
    return all(isinstance(scores.get(key), int | float) and math.isfinite(scores[key]) for key in ("accuracy", "loss"))


def _worth(record: Record) -> tuple[float, float, int]:
    """Return the key that sorts the best first, by the rule of the sweep; unfinished trials count too."""
    return -record["validation"]["accuracy"], record["validation"]["loss"], record["number"]


def _overview(records: Sequence[Record], result: Mapping[str, Any]) -> Html:
    test = result.get("test")
    chosen = "The best trial was chosen on the validation photos"
    if test:
        chosen += (
            "; report its accuracy on the test photos, which were not used to choose it. Its accuracy on validation "
            "is too high, because the best of many trials was chosen by it."
        )
    else:
        chosen += (
            ". There were no test photos: its accuracy is too high, because the best of many trials was chosen by it."
        )
    return join(
        [
            tiles(
                ("validation accuracy", f"{result['validation']['accuracy']:.4f}", "chosen on this"),
                ("test accuracy", f"{test['accuracy']:.4f}", "reported on this") if test else None,
                ("best trial", str(result["number"]), f"its {result['stage']} stage"),
                ("trials", f"{len(records):,}", ", ".join(f"{n} {state}" for state, n in result["trials"].items())),
                ("time", duration(result["seconds"]), "of the last command"),
            ),
            tag("p", chosen),
            settings_table(result["values"], head=("setting", "best value")),
            tag("p", "To train it again:"),
            tag("pre", tag("code", result["command"])),
        ]
    )


def _tip(record: Record) -> str:
    scores = record["validation"]
    values = [f"{key} {number_text(value)}" for key, value in record["values"].items()]
    head = f"trial {record['number']}, {record['status']}"
    return "\n".join([head, f"validation accuracy {scores['accuracy']:.4f}, loss {scores['loss']:.4g}", *values])


def _parallel(drawn: Sequence[Record], settings: Sequence[str], *, total: int) -> Html:
    columns = [(key, [record["values"][key] for record in drawn]) for key in settings]
    columns += [(title, [record["validation"][key] for record in drawn]) for key, title, _ in _SCORES]
    # A score that is the same for all trials says nothing.
    columns = [(name, values) for name, values in columns if name in settings or len(set(values)) > 1]
    ranks = [place / max(1, len(drawn) - 1) for place in range(len(drawn))]
    text = "Each line is a trial. A stronger blue means a better validation accuracy, on a tie a lower loss."
    if total > len(drawn):
        text += f" It shows the best {len(drawn):,} of {total:,}."
    chart = parallel(columns, tips=[_tip(record) for record in drawn], ranks=ranks)
    return figure(text, chart, wide=True)


def _scatters(drawn: Sequence[Record], settings: Sequence[str]) -> Html:
    states = [state for state in _STATES if any(record["status"] == state for record in drawn)]
    parts: list[Child] = [
        tag(
            "div",
            tag("label", "Setting", tag("select", join(tag("option", key) for key in settings), id="setting")),
            class_="tools",
        )
    ]
    for key in settings:
        charts = (
            figure(
                f"{title.capitalize()} against {key}; a stopped trial counts with its best epoch.",
                _state_legend(states),
                _scatter(drawn, key, score, title),
            )
            for score, title, _ in _SCORES
        )
        parts.append(tag("div", join(charts), class_="columns", data_setting=key, hidden=key != settings[0]))
    return tag("div", join(parts), class_="stack")


def _scatter(drawn: Sequence[Record], key: str, score: str, title: str) -> Html:
    values = [record["values"][key] for record in drawn]
    names = None
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        names = sorted({str(value) for value in values})
        values = [names.index(str(value)) for value in values]
    points = [_point(record, value, record["validation"][score]) for record, value in zip(drawn, values, strict=True)]
    limit = _greatest(score)
    return scatter(points, title=f"{title} against {key}", x_label=key, y_label=title, names=names, greatest=limit)


def _greatest(score: str) -> float:
    return 1.0 if score == "accuracy" else math.inf


def _point(record: Record, x: float, y: float) -> Point:
    status = record["status"]
    return Point(x=x, y=y, tip=_tip(record), series=_STATES.get(status, 6), hollow=status != "finished")


def _state_legend(states: Sequence[str]) -> Html:
    return legend(*((f"dot s{_STATES[state]}" + (" hollow" if state != "finished" else ""), state) for state in states))


def _progress(rated: Sequence[Record]) -> Html:
    order = sorted(rated, key=lambda record: record["ended"])[:_DRAWN]
    begin = order[0]["ended"] - order[0]["seconds"]
    minutes = [(record["ended"] - begin) / 60 for record in order]
    charts = []
    for score, title, is_best_high in _SCORES:
        values = [record["validation"][score] for record in order]
        choose = max if is_best_high else min
        best = [choose(values[: index + 1]) for index in range(len(values))]
        points = [_point(*one) for one in zip(order, minutes, values, strict=True)]
        chart = scatter(
            points,
            title=f"Best {title} so far",
            x_label="minutes since the first trial started",
            y_label=title,
            steps=list(zip(minutes, best, strict=True)),
            greatest=_greatest(score),
        )
        charts.append(figure(f"{title.capitalize()} of each trial when it ended; the line is the best so far.", chart))
    return tag("div", join(charts), class_="columns")


def _cost(records: Sequence[Record]) -> Html:
    seconds: Counter[str] = Counter()
    for record in records:
        seconds[record["status"]] += record["seconds"]
    counts = Counter(record["status"] for record in records)
    total = max(1e-9, sum(seconds.values()))
    rows: list[Sequence[Child]] = [
        (
            state,
            f"{counts[state]:,}",
            duration(seconds[state]),
            duration(seconds[state] / counts[state]),
            f"{seconds[state] / total:.0%}",
            share_bar(seconds[state] / total, series=_STATES.get(state, 6)),
        )
        for state in sorted(counts, key=lambda state: -seconds[state])
    ]
    rows.append(("total", f"{len(records):,}", duration(total), duration(total / max(1, len(records))), "", ""))
    text = "Time of the trials' processes, several of which run at once, without the trunk pass before them."
    return join([table(("trials", "number", "time", "each", "share", ""), rows), tag("p", text, class_="soft")])


def _trials(records: Sequence[Record], settings: Sequence[str], rated: Sequence[Record]) -> Html:
    known = {record["number"] for record in rated}
    order = [*rated, *(record for record in records if record["number"] not in known)][: 4 * _DRAWN]
    rows: list[Sequence[Child]] = []
    for record in order:
        scores = record["validation"] if record["number"] in known else {}
        rows.append(
            (
                str(record["number"]),
                record["status"],
                f"{scores['accuracy']:.4f}" if scores else "",
                (scores["loss"], f"{scores['loss']:.4g}") if scores else "",
                str(record.get("epochs", 0)),
                (record["seconds"], duration(record["seconds"])),
                *((record["values"].get(key), number_text(record["values"].get(key))) for key in settings),
            )
        )
    head = ("trial", "status", "val accuracy", "val loss", "epochs", "time", *settings)
    reasons = Counter(record["reason"] for record in records if record.get("reason"))
    lines = [tag("p", f"{counted(count, 'trial')} failed: {reason}") for reason, count in reasons.most_common(10)]
    listing = table(
        head, rows, sortable=True, texts=2, caption="Scores are on validation photos; click a column to sort by it."
    )
    more = len(records) - len(rows)
    note = tag("p", f"{more:,} more trials are in trials.csv.", class_="soft") if more else None
    return join([folded(len(rows), "trial", listing), note, join(lines)])


def _versions(result: Mapping[str, Any]) -> Html:
    return details("Versions", settings_table(result.get("versions", {}), head=("package", "version")))
