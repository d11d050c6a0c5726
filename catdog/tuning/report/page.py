"""report.html of a tune job: the winner and its gain, the trials side by side, setting importance, the cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from catdog.console import counted, duration
from catdog.report.axes import number_text
from catdog.report.charts import share_bar
from catdog.report.evaluation_tables import accuracy_interval
from catdog.report.markup import Child, Html, join, tag
from catdog.report.page import Section, build_page, details, folded, settings_table, table, tiles
from catdog.tuning.records import effective_values, stage_text
from catdog.tuning.report.trial_charts import (
    DRAWN,
    STATES,
    draw_curves,
    draw_parallel,
    draw_progress,
    draw_settings,
)
from catdog.tuning.selection import gain_text, record_scores, with_winner_first
from catdog.tuning.space import Space

_LISTED = 4 * DRAWN

Record = Mapping[str, Any]  # trial.json


def build_tune_page(records: Mapping[int, Record], space: Space, *, result: Mapping[str, Any], run_dir: str) -> str:
    """Return the page of a sweep, from its trials' `records`, the searched `space`, and `result` as in best.json."""
    metric = result["metric"]
    ranked = with_winner_first(records, result["number"], metric)
    several = len(ranked) > 1
    return build_page(
        title="Hyperparameter sweep",
        subtitle=run_dir,
        sections=[
            Section(name="best", title="The best trial", body=_overview(records, result)),
            Section(
                name="parallel", title="Trials side by side", body=draw_parallel(ranked, records, space, metric=metric)
            )
            if several
            else None,
            Section(name="settings", title="Effect of each setting", body=_effects(ranked, records, space, result))
            if several and space
            else None,
            Section(name="curves", title="Curves of a trial", body=draw_curves(ranked)),
            Section(name="progress", title="Best so far", body=draw_progress(ranked, metric=metric)),
            Section(name="cost", title="Cost", body=_cost(list(records.values()))),
            Section(name="trials", title="All trials", body=_trials(ranked, records, space, result)),
            Section(
                name="versions",
                title="Versions",
                body=details("Versions", settings_table(result.get("versions", {}), head=("package", "version"))),
            ),
        ],
        scripts=["tune_page.js"],
    )


def _overview(records: Mapping[int, Record], result: Mapping[str, Any]) -> Html:
    test, folds = result.get("test"), result.get("folds")
    scores = folds or result["validation"]
    rated = f"mean of {len(folds['scores'])} folds, chosen on this" if folds else "chosen on this"
    other = "validation loss" if result["metric"] == "val_loss" else "validation accuracy"
    parts: list[Child] = [
        tiles(
            (other, f"{scores[other.split()[1]]:.4f}", rated),
            ("validation accuracy", f"{scores['accuracy']:.4f}", _interval_text(scores["accuracy"], result))
            if result["metric"] == "val_loss"
            else None,
            ("test accuracy", f"{test['accuracy']:.4f}", "measured once, not used for selection") if test else None,
            ("best trial", str(result["number"]), f"its {result['stage']} stage"),
            ("trials", f"{len(records):,}", ", ".join(f"{n} {state}" for state, n in result["trials"].items())),
            ("time", duration(result["seconds"]), "of the last command"),
        ),
        tag("p", _gain_sentence(result)),
        tag("p", _caution(result)),
        _comparison(result),
        settings_table(effective_values(records[result["number"]]), head=("setting", "best value")),
        tag("p", "To train it again:"),
        tag("pre", tag("code", result["command"])),
    ]
    return join(parts)


def _interval_text(accuracy: float, result: Mapping[str, Any]) -> str:
    photos = result.get("photos")
    if not photos:
        return ""
    low, high = accuracy_interval(accuracy, photos)
    return f"95 % interval {low:.3f} to {high:.3f}"


def _gain_sentence(result: Mapping[str, Any]) -> str:
    if result["number"] == 0:
        return "No trial was better than trial 0, the default settings."
    if "gain" not in result:
        return "There is no trial 0 to compare with: it did not end with a model."
    photos = "photos, each left out of its fold" if result.get("folds") else "validation photos"
    return gain_text(result["gain"], winner=result["number"], photos=photos)


def _caution(result: Mapping[str, Any]) -> str:
    text = f"The winner was chosen by its {result['metric']}, so that score is a little too good"
    if result.get("test"):
        return f"{text}; report the one on the test photos."
    return f"{text}, and there are no test photos to report."


def _comparison(result: Mapping[str, Any]) -> Html | None:
    """Return the winner and trial 0 side by side."""
    default = result.get("default")
    if not default:
        return None
    rows: list[Sequence[Child]] = []
    for name, one in ((f"trial {result['number']}", result), ("trial 0 (defaults)", default)):
        cells = [
            f"{one[split][score]:.4f}" if one.get(split) else "-"
            for split in ("folds", "validation", "test")
            for score in ("loss", "accuracy")
        ]
        rows.append((name, *cells))
    head = ("", "fold loss", "fold accuracy", "validation loss", "validation accuracy", "test loss", "test accuracy")
    shown = [index for index in range(len(head)) if index == 0 or any(row[index] != "-" for row in rows)]
    return table([head[index] for index in shown], [[row[index] for index in shown] for row in rows])


def _effects(ranked: Sequence[Record], records: Mapping[int, Record], space: Space, result: Mapping[str, Any]) -> Html:
    return join([_importance(result.get("importance")), draw_settings(ranked, records, space)])


def _importance(found: Mapping[str, Any] | None) -> Html | None:
    """Return the share of the objective's variance that each setting explains, as a table."""
    if not found:
        return tag("p", "Fewer than 8 trials differ: too few to estimate how much each setting matters.", class_="soft")
    how = "by fANOVA" if found["method"] == "fANOVA" else "by permuting one setting of a random forest"
    rows: list[Sequence[Child]] = [(key, f"{share:.0%}", share_bar(share)) for key, share in found["shares"].items()]
    listing = table(("setting", "importance", ""), rows, caption=f"How much each setting mattered, {how}.")
    return join([listing, tag("p", "With few trials these shares are rough.", class_="soft")])


def _cost(records: Sequence[Record]) -> Html:
    seconds: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for record in records:
        seconds[stage_text(record)] += record["seconds"]
        counts[stage_text(record)] += 1
    total = max(1e-9, sum(seconds.values()))
    rows: list[Sequence[Child]] = [
        (
            state,
            f"{counts[state]:,}",
            duration(seconds[state]),
            duration(seconds[state] / counts[state]),
            f"{seconds[state] / total:.0%}",
            share_bar(seconds[state] / total, series=STATES.get(state.split()[0], 6)),
        )
        for state in sorted(counts, key=lambda state: -seconds[state])
    ]
    rows.append(("total", f"{len(records):,}", duration(total), duration(total / max(1, len(records))), "", ""))
    text = "Total time of the trials' processes, several of which run in parallel. The trunk pass is not included."
    return join([table(("trials", "number", "time", "each", "share", ""), rows), tag("p", text, class_="soft")])


def _trials(ranked: Sequence[Record], records: Mapping[int, Record], space: Space, result: Mapping[str, Any]) -> Html:
    known = {record["number"] for record in ranked}
    order = [*ranked, *(record for number, record in records.items() if number not in known)][:_LISTED]
    photos = result.get("photos", 0)
    rows: list[Sequence[Child]] = [_row(record, space, photos=photos) for record in order]
    head = ("trial", "ended", "loss", "accuracy", "95 % interval", "best stage", "epochs", "time", *space)
    reasons = Counter(record["reason"] for record in records.values() if record["status"] == "failed")
    lines = [tag("p", f"{counted(count, 'trial')} failed: {reason}") for reason, count in reasons.most_common(10)]
    caption = (
        "The winner is first. Scores are on photos that the trial was not trained on; click a column to sort by it."
    )
    listing = table(head, rows, sortable=True, texts=2, caption=caption)
    more = len(records) - len(rows)
    note = tag("p", f"{more:,} more trials are in trials.csv.", class_="soft") if more else None
    return join([folded(len(rows), "trial", listing), note, join(lines)])


def _row(record: Record, space: Space, *, photos: int) -> Sequence[Child]:
    scores, values = record_scores(record), effective_values(record)
    number = record["number"]
    name = tag("button", f"{number}{' (defaults)' if number == 0 else ''}", type="button", data_trial=str(number))
    cells: list[Child] = ["", "", ""]
    # Sort keys are texts, because `tag` rounds a float attribute to the two decimals that a drawing needs.
    if scores:
        error = f" ± {scores['loss_error']:.2g}" if "loss_error" in scores else ""
        interval = accuracy_interval(scores["accuracy"], photos) if photos else None
        cells = [
            (repr(scores["loss"]), f"{scores['loss']:.4g}{error}"),
            (repr(scores["accuracy"]), f"{scores['accuracy']:.4f}"),
            f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "",
        ]
    return (
        (number, name),
        stage_text(record),
        *cells,
        record.get("stage") or "",
        str(record.get("epochs", 0)),
        (repr(record["seconds"]), duration(record["seconds"])),
        *((str(value), number_text(value)) if (value := values.get(key)) is not None else "-" for key in space),
    )
