"""The report.html of a predict job: counts, confidences, a gallery for corrections, errors, a search by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from catdog.console import counted, duration
from catdog.prediction.page.cards import gallery_section, search_section
from catdog.prediction.page.content import page_content
from catdog.prediction.page.gallery import Shown, choose_rows
from catdog.prediction.results.commit import read_rows
from catdog.prediction.results.rows import LabelRule
from catdog.report.charts import histogram
from catdog.report.evaluation_tables import comparison_sentence, score_sentence, score_tables
from catdog.report.markup import Child, Html, join, tag
from catdog.report.page import (
    Section,
    build_page,
    details,
    figure,
    folded,
    settings_table,
    share_table,
    table,
    tiles,
)
from catdog.storage import artifacts, files
from catdog.storage.schemas import UNSURE

_HISTOGRAMS = 6  # shown, for the labels with the most photos

# Takes the paths of photos and returns the thumbnails that could be made, by path.
Thumbnails = Callable[[Sequence[str]], Mapping[str, bytes]]


def build_predict_page(
    out: str,
    *,
    rule: LabelRule,
    summary: Mapping[str, Any],
    photos: str,
    thumbnails: Thumbnails,
    true: Iterable[np.ndarray] | None = None,
) -> str:
    """Return the page of the committed predictions below `out`; its size is bounded however many there are.

    `summary` is the content of summary.json, `photos` is what was labelled, and `true` is as choose_rows takes it.
    """
    rows = read_rows(out, rule=rule)
    shown = choose_rows(rows, classes=rule.labels, unsure=rule.threshold > 0, true=true)
    pictures = thumbnails([photo["path"] for photo in shown.photos])
    evaluation = files.join(out, "evaluation.json")
    found = files.read_json(evaluation) if files.exists(evaluation) else {}
    return build_page(
        title="Labels",
        subtitle=photos,
        sections=[
            Section(name="labels", title="Summary", body=_overview(shown, summary)),
            _scores(found),
            Section(name="probabilities", title="Confidence", body=_histograms(shown)),
            Section(name="gallery", title="Photos", body=gallery_section(shown, pictures)),
            Section(name="names", title="Search by file name", body=search_section(shown)),
            _errors(shown),
            Section(name="model", title="Model and versions", body=_model(out, summary)),
        ],
        scripts=["predict_page.js"],
        content=page_content(shown, pictures, classes=rule.labels, key=_key(out, summary)),
    )


def _overview(shown: Shown, summary: Mapping[str, Any]) -> Html:
    errors = sum(shown.error_counts.values())
    counts = {**shown.labels, **({"errors": errors} if errors else {})}
    return join(
        [
            tiles(
                ("photos", f"{shown.rows:,}", "one row each"),
                ("labelled", f"{shown.rows - errors - shown.labels.get(UNSURE, 0):,}", "with a class"),
                (UNSURE, f"{shown.labels[UNSURE]:,}", "below the threshold") if UNSURE in shown.labels else None,
                ("errors", f"{errors:,}", "could not be read") if errors else None,
                ("time", duration(summary["seconds"]), f"{summary['photos_per_second']:.1f} photos/s"),
            ),
            tag("h3", "Labels"),
            share_table(counts, head=("label", "photos")),
        ]
    )


def _scores(found: Mapping[str, Any]) -> Section | None:
    models = found.get("models", [])
    parts: list[Child] = []
    for one in models:
        if len(models) > 1:
            parts.append(tag("h3", tag("span", one["path"], class_="name")))
        parts += [tag("p", score_sentence(one)), score_tables(one)]
    if "comparison" in found:
        parts.append(tag("h3", "First and second model compared"))
        parts.append(tag("p", comparison_sentence(found["comparison"], first="the first", second="the second")))
    return (
        Section(name="scores", title="Compared with the class folders" if models else "Two models", body=join(parts))
        if (parts)
        else None
    )


def _histograms(shown: Shown) -> Html:
    labels = sorted((label for label in shown.labels if shown.labels[label]), key=lambda name: -shown.labels[name])
    parts = []
    for label in labels[:_HISTOGRAMS]:
        counts = shown.histograms[label]
        # The axis starts at the lowest confidence of any label.
        first = min(next(index for index, count in enumerate(shown.histograms[one]) if count) for one in labels)
        first = min(first, len(counts) - 10)
        chart = histogram(
            counts[first:],
            low=first / len(counts),
            high=1,
            title=f"Confidence of {label}",
            x_label="confidence",
            series=list(shown.labels).index(label) % 8,
        )
        parts.append(figure([tag("strong", label, class_="name"), f", {counted(shown.labels[label], 'photo')}"], chart))
    more = len(labels) - _HISTOGRAMS
    return join(
        [
            tag("div", join(parts), class_="columns"),
            tag("p", f"Not shown: {counted(more, 'label')} with fewer photos.", class_="soft") if more > 0 else None,
        ]
    )


def _errors(shown: Shown) -> Section | None:
    total = sum(shown.error_counts.values())
    if not total:
        return None
    rows: list[Sequence[Child]] = []
    for error in shown.errors:
        code, _, message = error["error"].partition(": ")
        rows.append((tag("span", error["path"], class_="name"), code, tag("span", message, class_="name")))
    more = total - len(rows)
    listing = table(("file", "code", "reason"), rows, sortable=True, texts=3)
    said = ", ".join(f"{count:,} {code}" for code, count in shown.error_counts.items())
    body = join(
        [
            tag("p", f"{total:,} {'files have' if total > 1 else 'file has'} no label: {said}."),
            tag("p", f"{len(rows):,} of them are listed, at most 100 of each kind.", class_="soft") if more else None,
            folded(len(rows), "row", listing),
        ]
    )
    return Section(name="errors", title="Files that could not be read", body=body)


def _model(out: str, summary: Mapping[str, Any]) -> Html:
    models = [(tag("span", one["path"], class_="name"), tag("code", one["fingerprint"])) for one in summary["models"]]
    return join(
        [
            tag("p", "Rows: ", tag("code", files.join(out, "predictions")), f"; {_engine_text(summary)}."),
            table(("model", "fingerprint"), models),
            details("Versions", settings_table(summary["versions"], head=("package", "version"))),
        ]
    )


def _engine_text(summary: Mapping[str, Any]) -> str:
    return f"engine {summary['engine']}, {summary.get('precision', 'float32')}"


def _key(out: str, summary: Mapping[str, Any]) -> str:
    """Return the key that separates this job's corrections from those of other jobs in the same browser."""
    return artifacts.fingerprint({"out": out, "models": [one["fingerprint"] for one in summary["models"]]})
