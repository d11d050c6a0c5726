"""report.html of a predict job: counts, probabilities, a gallery to correct, errors, a search by name."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from catdog.console import counted, duration
from catdog.prediction.page.gallery import DIFFERENT, WRONG, Shown, choose_rows, common_prefix, summarize_kinds
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

_HISTOGRAMS = 6  # of the labels with the most photos

# From the paths of photos to their thumbnails, those that can be made.
Thumbnails = Callable[[Sequence[str]], Mapping[str, bytes]]


def build_predict_page(
    out: str,
    *,
    rule: LabelRule,
    summary: Mapping[str, Any],
    photos: str,
    thumbnails: Thumbnails,
    true: np.ndarray | None = None,
) -> str:
    """Return the page of the committed predictions below `out`; its size is bounded whatever their number.

    `summary` is summary.json's content, `photos` what was labelled; `true` (rows,) as choose_rows takes it.
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
            Section(name="gallery", title="Photos", body=_gallery(shown, pictures)),
            Section(name="names", title="Search by file name", body=_search(shown)),
            _errors(shown),
            Section(name="model", title="Model and versions", body=_model(out, summary)),
        ],
        scripts=["predict_page.js"],
        content=_content(shown, pictures, classes=rule.labels, key=_key(out, summary)),
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


def _gallery(shown: Shown, pictures: Mapping[str, bytes]) -> Html:
    missing = "No picture could be made: the photos cannot be read from here, or were moved."
    parts: list[Child] = [
        tag(
            "p",
            _sample_text(shown),
            " If a label is wrong, choose the right class, or leave out a photo that belongs to none. Download ",
            tag("code", "corrections.csv"),
            " with your choices and give it to the next training: ",
            tag("code", "--corrections corrections.csv", class_="flag"),
            ".",
        ),
        tag("p", missing, class_="soft") if shown.photos and not pictures else None,
        tag("noscript", tag("p", "The gallery and the search need JavaScript.")),
        _filters(shown),
        tag("ul", id="photos", class_="cards"),
        tag(
            "div",
            tag("button", "Back", id="back", type="button"),
            tag("span", id="place", role="status"),
            tag("button", "Next", id="next", type="button"),
            class_="pager",
        ),
        tag(
            "div",
            tag("span", id="marked", role="status"),
            tag("button", "Discard", id="clear", type="button"),
            tag("button", "Download corrections.csv", id="download", type="button", class_="main"),
            id="basket",
            class_="basket",
            hidden=True,
        ),
    ]
    return join(parts)


def _sample_text(shown: Shown) -> str:
    """Return which of the photos the gallery has."""
    total, kinds = sum(shown.labels.values()), summarize_kinds(shown.photos)
    if len(shown.photos) == total:
        return f"All {counted(total, 'labelled photo')}."
    more = {WRONG: "those that disagree with their folder", DIFFERENT: "those on which the models differ"}
    text = (
        f"A sample of {len(shown.photos):,} of {total:,} labelled photos: of each label the least confident and some "
    )
    return text + "at random" + "".join(f", {what}" for kind, what in more.items() if kind in kinds) + "."


def _filters(shown: Shown) -> Html:
    labels = [("", "all labels"), *((str(index), label) for index, label in enumerate(shown.labels))]
    kinds = enumerate(summarize_kinds(shown.photos).items())
    reasons = [("", "all shown photos"), *((str(index), f"{kind} ({count})") for index, (kind, count) in kinds)]
    orders = [(text, text) for text in ("least confident first", "most confident first", "by name")]
    return tag(
        "div",
        _select("label", "Label", labels),
        _select("kind", "Reason shown", [*reasons, ("marked", "corrected by you")]),
        _select("order", "Order", orders),
        class_="tools",
    )


def _select(name: str, label: str, options: Sequence[tuple[str, str]]) -> Html:
    inside = tag("select", join(tag("option", text, value=value) for value, text in options), id=name)
    return tag("label", label, inside)


def _search(shown: Shown) -> Html:
    if shown.searched_all:
        what = f"All {shown.rows:,} names are searched."
    else:
        what = (
            f"{len(shown.names):,} of {shown.rows:,} names are searched: the first 5,000, then the first 5,000 errors "
            "and unsure photos. All rows are in the files of predictions/."
        )
    field = tag("input", id="search", type="search", placeholder="part of a file name", autocomplete="off")
    return join(
        [
            tag("div", tag("label", what, field, class_="grow"), class_="tools"),
            tag("p", id="count", role="status", class_="soft"),
            tag("ul", id="found", class_="cards"),
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


def _content(shown: Shown, pictures: Mapping[str, bytes], *, classes: Sequence[str], key: str) -> dict[str, Any]:
    prefix = common_prefix([row["path"] for row in [*shown.names, *shown.photos]])
    number = {label: index for index, label in enumerate(shown.labels)}
    kind = {name: index for index, name in enumerate(summarize_kinds(shown.photos))}

    def short(row: Mapping[str, Any]) -> list[Any]:
        probability = row["probability"]
        return [
            row["path"][len(prefix) :],
            number.get(row["label"], -1),
            None if probability is None else round(probability, 5),
        ]

    return {
        "key": key,
        "classes": list(classes),
        "labels": list(shown.labels),
        "prefix": prefix,
        "photos": [
            [
                *short(photo),
                [kind[name] for name in photo["kinds"]],
                photo["true"],
                photo.get("second_label"),
                base64.b64encode(pictures.get(photo["path"], b"")).decode(),
            ]
            for photo in shown.photos
        ],
        "names": [short(row) for row in shown.names],
    }


def _key(out: str, summary: Mapping[str, Any]) -> str:
    """Return what tells this job's corrections from another's in the same browser."""
    return artifacts.fingerprint({"out": out, "models": [one["fingerprint"] for one in summary["models"]]})
