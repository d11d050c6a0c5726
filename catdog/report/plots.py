"""PNG plots of a run and of a sweep, and the table of stages that a train job ends with."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from catdog.console import duration, table_text
from catdog.report.charts import History
from catdog.storage import files


def draw_curves(histories: Mapping[str, History], *, run_dir: str) -> None:
    """Write accuracy.png and loss.png: training dots, validation line, all stages on one axis.

    `histories` has the rows of history.csv by stage, in order; the border between stages is marked.
    """
    for score, title in (("acc", "accuracy"), ("loss", "loss")):
        files.write_bytes(files.join(run_dir, f"{title}.png"), _curve_png(histories, score, title))


def _curve_png(histories: Mapping[str, History], score: str, title: str) -> bytes:
    # The object interface: pyplot looks for a display and keeps global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    start, stages = 0, [(name, rows) for name, rows in histories.items() if rows]
    for index, (name, rows) in enumerate(stages):
        epochs = [start + int(row["epoch"]) for row in rows]
        first = index == 0
        axes.plot(
            epochs,
            [row[score] for row in rows],
            "o",
            color="#e07a1f",
            markersize=5,
            alpha=0.85,
            label="training" if first else None,
        )
        axes.plot(
            epochs,
            [row[f"val_{score}"] for row in rows],
            "-",
            color="#1f5fa8",
            linewidth=2,
            marker="." if len(rows) == 1 else None,
            label="validation" if first else None,
        )
        axes.text(start + 0.6, 1.01, f"{name} stage", transform=axes.get_xaxis_transform(), fontsize=9, color="#555")
        start += len(rows)
        if index + 1 < len(stages):
            axes.axvline(start + 0.5, color="#999", linestyle="--", linewidth=1)
    axes.set_xlim(0.5, start + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(title)
    if score == "loss":
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, loc="best")
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()


def stage_table(stages: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the stages side by side: epochs, validation and test scores, seconds. `stages` as in report.json.

    Balanced accuracy has columns where it differs from accuracy.
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

    `records` are trial.json files; without a learning rate or dropout among `settings`, others take their place.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rated = sorted((record for record in records if "validation" in record), key=lambda record: record["ended"])
    numeric = [key for key in settings if all(_is_number(record["values"].get(key)) for record in rated)]
    across = next((key for key in numeric if "learning_rate" in key), numeric[0] if numeric else None)
    colour = next((key for key in numeric if key == "dropout"), next((key for key in numeric if key != across), None))
    figure = Figure(figsize=(10, 4.5), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    accuracies = [record["validation"]["accuracy"] for record in rated]
    places = [record["values"][across] for record in rated] if across else list(range(len(rated)))
    colours = [record["values"][colour] for record in rated] if colour else "#1f5fa8"
    for status, marker in (("finished", "o"), ("stopped", "x")):
        chosen = [index for index, record in enumerate(rated) if record["status"] == status]
        if chosen:
            dots = left.scatter(
                [places[index] for index in chosen],
                [accuracies[index] for index in chosen],
                c=[colours[index] for index in chosen] if colour else colours,
                marker=marker,
                label=status,
                **({"vmin": min(colours), "vmax": max(colours), "cmap": "viridis"} if colour else {}),
            )
            if colour and status == "finished":
                figure.colorbar(dots, ax=left, label=colour)
    if across and "learning_rate" in across:
        left.set_xscale("log")
    left.set_xlabel(across or "trial")
    left.set_ylabel("validation accuracy")
    left.legend(frameon=False, loc="best")
    best = [max(accuracies[: index + 1]) for index in range(len(accuracies))]
    minutes = [(record["ended"] - rated[0]["ended"] + rated[0]["seconds"]) / 60 for record in rated]
    right.step(minutes, best, where="post", color="#1f5fa8", linewidth=2)
    right.plot(minutes, accuracies, "o", color="#e07a1f", markersize=4, alpha=0.7)
    right.set_xlabel("minutes since the first trial began")
    right.set_ylabel("best validation accuracy so far")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    files.write_bytes(files.join(run_dir, "sweep.png"), content.getvalue())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
