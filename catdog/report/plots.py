"""PNG plots of a run and of a sweep, and the table of stages that a train job ends with."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from catdog.console import duration, table_text
from catdog.report.axes import is_wide
from catdog.report.charts import History
from catdog.storage import files

_BLUE, _ORANGE = "#1f5fa8", "#e07a1f"


def draw_curves(histories: Mapping[str, History], *, run_dir: str) -> None:
    """Write accuracy.png and loss.png: training dots, validation line, all stages on one axis.

    `histories` has the rows of history.csv by stage, in order; the border between stages is marked.
    """
    for score, title in (("acc", "accuracy"), ("loss", "loss")):
        files.write_bytes(files.join(run_dir, f"{title}.png"), _curve_png(histories, score, title))


def _curve_png(histories: Mapping[str, History], score: str, title: str) -> bytes:
    from matplotlib.ticker import MaxNLocator

    figure = _new_figure(8)
    axes = figure.add_subplot()
    start, stages = 0, [(name, rows) for name, rows in histories.items() if rows]
    for name, rows in stages:
        if start:
            axes.axvline(start + 0.5, color="#999", linestyle="--", linewidth=1)
        _draw_stage(axes, rows, score, start=start)
        axes.text(start + 0.6, 1.01, f"{name} stage", transform=axes.get_xaxis_transform(), fontsize=9, color="#555")
        start += len(rows)
    axes.set_xlim(0.5, start + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(title)
    if score == "loss":
        axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="best")
    return _png(figure)


def _draw_stage(axes: Any, rows: History, score: str, *, start: int) -> None:
    """Draw one stage's epochs after the first `start` epochs; the first stage names the marks in the legend."""
    epochs = [start + int(row["epoch"]) for row in rows]
    names = ("training", "validation") if start == 0 else (None, None)
    axes.plot(epochs, [row[score] for row in rows], "o", color=_ORANGE, markersize=5, alpha=0.85, label=names[0])
    validation = [row[f"val_{score}"] for row in rows]
    marker = "." if len(rows) == 1 else None
    axes.plot(epochs, validation, "-", color=_BLUE, linewidth=2, marker=marker, label=names[1])


def _new_figure(inches: float) -> Any:
    # Matplotlib's object interface, because pyplot looks for a display and keeps global state.
    from matplotlib.figure import Figure

    return Figure(figsize=(inches, 4.5), dpi=120, layout="constrained")


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for axes in figure.axes:
        if axes.get_label() != "<colorbar>":
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()


def stage_table(stages: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of `stages`, as in report.json: epochs, validation and test scores, and seconds of each.

    Balanced accuracy has columns only if it differs from accuracy.
    """
    names = {"accuracy": "acc", "balanced_accuracy": "balanced", "loss": "loss"}
    if not any(_is_unbalanced(stage.get(split, {})) for stage in stages.values() for split in ("validation", "test")):
        del names["balanced_accuracy"]
    head = [f"{short} {name}" for short in ("val", "test") for name in names.values()]
    rows: list[tuple[str, ...]] = [("stage", "epochs", *head, "time")]
    for name, stage in stages.items():
        scores = [
            f"{stage[split][score]:.4f}" if score in stage.get(split, {}) else "-"
            for split in ("validation", "test")
            for score in names
        ]
        epochs = "solved" if stage.get("head") else str(stage["epochs"])
        rows.append((name, epochs, *scores, duration(stage["seconds"])))
    return table_text(rows)


def _is_unbalanced(scores: Mapping[str, float]) -> bool:
    return abs(scores.get("balanced_accuracy", scores.get("accuracy", 0.0)) - scores.get("accuracy", 0.0)) >= 5e-5


def draw_sweep(records: Sequence[Mapping[str, Any]], settings: Sequence[str], *, run_dir: str) -> None:
    """Write sweep.png: validation accuracy against a learning rate, coloured by dropout, and the best one so far.

    `records` are the contents of trial.json files. If `settings` has no learning rate or no dropout, other numeric
    settings take their place.
    """
    rated = sorted((record for record in records if "validation" in record), key=lambda record: record["ended"])
    numeric = [key for key in settings if all(_is_number(record["values"].get(key)) for record in rated)]
    across = next((key for key in numeric if "learning_rate" in key), numeric[0] if numeric else None)
    colour = next((key for key in numeric if key == "dropout"), next((key for key in numeric if key != across), None))
    figure = _new_figure(10)
    left, right = figure.subplots(1, 2)
    _draw_settings(left, rated, across=across, colour=colour)
    _draw_progress(right, rated)
    files.write_bytes(files.join(run_dir, "sweep.png"), _png(figure))


def _draw_settings(axes: Any, rated: Sequence[Mapping[str, Any]], *, across: str | None, colour: str | None) -> None:
    """Draw the accuracy of each trial against the setting `across`, coloured by the setting `colour`."""
    places = [record["values"][across] if across else index for index, record in enumerate(rated)]
    colours = [record["values"][colour] for record in rated] if colour else []
    scale = {"vmin": min(colours), "vmax": max(colours), "cmap": "viridis"} if colours else {"color": _BLUE}
    for status, marker in (("finished", "o"), ("stopped", "x")):
        chosen = [index for index, record in enumerate(rated) if record["status"] == status]
        if not chosen:
            continue
        accuracies = [rated[index]["validation"]["accuracy"] for index in chosen]
        shades = {"c": [colours[index] for index in chosen]} if colours else {}
        at = [places[index] for index in chosen]
        dots = axes.scatter(at, accuracies, marker=marker, label=status, **shades, **scale)
        if colours and status == "finished":
            axes.figure.colorbar(dots, ax=axes, label=colour)
    if across and ("learning_rate" in across or is_wide(places)):
        axes.set_xscale("log")
    axes.set_xlabel(across or "trial")
    axes.set_ylabel("validation accuracy")
    axes.legend(frameon=False, loc="best")


def _draw_progress(axes: Any, rated: Sequence[Mapping[str, Any]]) -> None:
    """Draw the accuracy of each trial at the time when it ended, and the best one so far."""
    accuracies = [record["validation"]["accuracy"] for record in rated]
    best = list(itertools.accumulate(accuracies, max))
    minutes = [(record["ended"] - rated[0]["ended"] + rated[0]["seconds"]) / 60 for record in rated]
    axes.step(minutes, best, where="post", color=_BLUE, linewidth=2)
    axes.plot(minutes, accuracies, "o", color=_ORANGE, markersize=4, alpha=0.7)
    axes.set_xlabel("minutes since the first trial started")
    axes.set_ylabel("best validation accuracy so far")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
