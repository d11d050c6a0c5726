"""The gallery and the search section of a page of labels; predict_page.js fills both with cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from catdog.console import counted
from catdog.prediction.page.gallery import DIFFERENT, WRONG, Shown, summarize_kinds
from catdog.report.markup import Child, Html, join, tag


def gallery_section(shown: Shown, pictures: Mapping[str, bytes]) -> Html:
    """Return the gallery: what it shows, its filters, an empty list for the cards, the corrections."""
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
    """Return the sentence that says which photos the gallery shows."""
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


def search_section(shown: Shown) -> Html:
    """Return the search by file name."""
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
