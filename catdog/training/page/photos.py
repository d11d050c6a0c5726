"""Sections that show photos: errors with heatmaps, low confidence, likely label errors, near-duplicates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from catdog.report.markup import Html, join, tag
from catdog.report.page import Section, details, image

_SHOWN_FIRST = 12  # photos of a list; the rest are folded

Pictures = Mapping[tuple[str, str], bytes]  # by name and kind, "photo" or "heat"

_KINDS = {
    "worst": (
        "Worst errors",
        "Wrong predictions, the most confident first. The second picture is a Grad-CAM heatmap: warm regions count "
        "most for the predicted class.",
    ),
    "least_sure": ("Least confident", "Photos whose predicted class has the lowest probability."),
    "label_errors": (
        "Labels that may be wrong",
        "Training photos for which a model that was not trained on them predicts another class with high confidence. "
        "To correct a label, list the photo in a corrections.csv with the columns path and label, and give it to the "
        "next training: --corrections corrections.csv.",
    ),
}


def photos_section(diagnosis: Mapping[str, Any], pictures: Pictures, kind: str) -> Section | None:
    """Return the section for one list of diagnosis.json: worst, least_sure or label_errors; None if it is empty."""
    rows = diagnosis.get(kind) or []
    if not rows:
        return None
    title, text = _KINDS[kind]
    heatmaps = kind == "worst" and any((row["path"], "heat") in pictures for row in rows)
    cards = [_card(row, pictures, heatmaps=heatmaps) for row in rows]
    style = "cards pairs" if heatmaps else "cards"
    rest = tag("ul", join(cards[_SHOWN_FIRST:]), class_=style)
    body = join(
        [
            tag("p", text),
            tag("ul", join(cards[:_SHOWN_FIRST]), class_=style),
            details(f"{len(cards) - _SHOWN_FIRST} more", rest) if len(cards) > _SHOWN_FIRST else None,
        ]
    )
    return Section(name=kind.replace("_", "-"), title=title, body=body)


def _card(row: Mapping[str, Any], pictures: Pictures, *, heatmaps: bool) -> Html:
    """Return the card of one photo, with its heatmap next to it if `heatmaps` is true and there is one."""
    path, true, label = row["path"], row["true"], row["label"]
    name = "/".join(path.replace("!", "/").rsplit("/", 2)[-2:])
    heatmap = pictures.get((path, "heat")) if heatmaps else None
    views = [image(pictures.get((path, "photo")), text=f"{name}, class {true}, predicted {label}")]
    if heatmap:
        views.append(image(heatmap, text=f"heatmap of {name}"))
    wrong = true != label
    said = f"{label} {row['probability']:.5f}" if row["probability"] > 0.9995 else f"{label} {row['probability']:.3f}"
    text = tag(
        "div",
        tag("span", said, class_="said"),
        tag("span", f"labelled {true}", class_="bad" if wrong else "soft"),
        tag("span", name, class_="name", title=path),
        tag("span", row["split"], class_="name"),
        class_="text",
    )
    return tag("li", tag("div", join(views), class_="views"), text, class_="card")


def near_duplicates_section(diagnosis: Mapping[str, Any], pictures: Pictures) -> Section | None:
    """Return the section on photos in different splits that look the same; None if there are none."""
    pairs = diagnosis.get("near_duplicates") or []
    if not pairs:
        return None
    count = max(len(pairs), diagnosis.get("near_duplicate_count") or 0)
    cards = []
    for pair in pairs:
        sides = [(pair[key], pair[f"{key}_split"]) for key in ("first", "second")]
        views = (image(pictures.get((path, "photo")), text=f"{path}, in {split}") for path, split in sides)
        lines = (
            tag("span", f"{split}: {'/'.join(path.rsplit('/', 2)[-2:])}", class_="name", title=path)
            for path, split in sides
        )
        text = tag("div", join(lines), tag("span", f"distance {pair['distance']}", class_="soft"), class_="text")
        cards.append(tag("li", tag("div", join(views), class_="views"), text, class_="card"))
    pairs_look = (
        "pair of photos in different splits looks" if count == 1 else "pairs of photos in different splits look"
    )
    warning = (
        f"{count:,} {pairs_look} the same although the files differ. Scores are too high when a model is tested with "
        "photos that it was trained on."
    )
    listed = tag("p", f"The {len(pairs)} nearest of them:", class_="soft") if count > len(pairs) else None
    body = join([tag("p", warning), listed, tag("ul", join(cards), class_="cards pairs")])
    return Section(name="near-duplicates", title="Near-duplicates across splits", body=body)
