"""The shell of report.html, one file that needs no network, and the pieces that all pages share.

Style and scripts are files in assets/. They are inlined in the page, and its Content-Security-Policy names them by
their checksum: no other script or style runs, and nothing is fetched.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

from catdog.console import counted, duration, say
from catdog.errors import one_line
from catdog.report.charts import share_bar
from catdog.report.markup import Child, Html, embed_json, join, tag
from catdog.storage import files

_ASSETS = resources.files("catdog.report") / "assets"

PAGE_FILE = "report.html"

_LONG = 40  # rows of a table; a longer one is folded
_MANY_COUNTS = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page with its own heading."""

    name: str  # its anchor
    title: str
    body: Html


def build_page(
    *,
    title: str,
    subtitle: str,
    sections: Sequence[Section | None],
    scripts: Sequence[str] = (),
    content: Mapping[str, Any] | None = None,
) -> str:
    """Return the page: `sections` in order (None is left out), the files `scripts`, and `content` as JSON for them."""
    present = [section for section in sections if section]
    style = _ASSETS.joinpath("page.css").read_text("utf-8")
    code = [_ASSETS.joinpath(name).read_text("utf-8") for name in ("page.js", *scripts)]
    # The browser's parser replaces carriage returns before it computes the checksum.
    assert not any("\r" in text for text in (style, *code))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_checksum(style)}; "
        f"script-src {' '.join(map(_checksum, code))}; base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),  # otherwise the browser asks a server for one
        tag("style", Html(style)),
    )
    links = (tag("a", section.title, href=f"#{section.name}") for section in present)
    body = tag(
        "body",
        tag("header", tag("h1", title), tag("p", subtitle, class_="name"), tag("nav", join(links), aria_label="Parts")),
        tag("main", join(_section(section) for section in present)),
        tag("div", id="tip", role="status", hidden=True),
        embed_json("content", content) if content is not None else None,
        join(tag("script", Html(text)) for text in code),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _section(section: Section) -> Html:
    heading = tag("h2", section.title, id=f"{section.name}-title")
    return tag("section", heading, section.body, id=section.name, aria_labelledby=f"{section.name}-title")


def _checksum(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def write_page(directory: str, build: Callable[[], str]) -> None:
    """Write the page that `build` returns to `directory` and print its path; any failure prints one line instead."""
    path = files.join(directory, PAGE_FILE)
    try:
        files.write_bytes(path, build().encode(errors="replace"))
    except Exception as error:  # the job's results are already written, and a page is not worth failing for
        say(f"Warning: no {PAGE_FILE} was written: {type(error).__name__}: {one_line(error)}")
        return
    say(f"Report: {path}")


# Pieces that pages share


def tiles(*entries: tuple[str, str, str] | None) -> Html:
    """Return tiles of headline numbers; `entries` are (what, the number, its meaning), and None is left out."""
    return tag(
        "dl",
        join(
            tag("div", tag("dt", what), tag("dd", number, class_="number"), tag("dd", meaning) if meaning else None)
            for what, number, meaning in filter(None, entries)
        ),
        class_="tiles",
    )


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[Child]],
    *,
    caption: str | None = None,
    sortable: bool = False,
    texts: int = 1,
) -> Html:
    """Return a table whose first `texts` columns are text and whose others are numbers.

    A cell that is a tuple of (value, text) shows the text and is sorted by the value. A wide table scrolls in its box.
    """
    titles = (
        tag(
            "th",
            tag("button", name, type="button") if sortable else name,
            scope="col",
            class_="text" if index < texts else None,
        )
        for index, name in enumerate(head)
    )
    lines = (tag("tr", join(_cell(cell, place, texts) for place, cell in enumerate(row))) for row in rows)
    inside = tag(
        "table",
        tag("caption", caption) if caption else None,
        tag("thead", tag("tr", join(titles))),
        tag("tbody", join(lines)),
        class_="sortable" if sortable else None,
    )
    return tag("div", inside, class_="scroll", tabindex="0", role="region", aria_label=caption or "Table")


def _cell(cell: Child, place: int, texts: int) -> Html:
    value = None
    if isinstance(cell, tuple):
        value, cell = cell
    kind = "text" if place < texts else None
    if place == 0:
        return tag("th", cell, scope="row", class_=kind, data_value=value)
    return tag("td", cell, class_=kind, data_value=value)


def figure(caption: Child, *body: Child, wide: bool = False) -> Html:
    """Return a chart or a table with its caption."""
    return tag("figure", *body, tag("figcaption", caption), class_="wide" if wide else None)


def details(title: str, *body: Child) -> Html:
    """Return `body` folded under `title`."""
    return tag("details", tag("summary", title), *body)


def folded(rows: int, noun: str, body: Html) -> Html:
    """Return `body`, a table of `rows` rows, folded if it has more than 40."""
    return details(counted(rows, noun), body) if rows > _LONG else body


def settings_table(settings: Mapping[str, Any], *, head: tuple[str, str]) -> Html:
    """Return a table of names and values; values of any type are shown as text."""
    return table(head, [(name, tag("span", str(value), class_="name")) for name, value in settings.items()], texts=2)


def share_table(counts: Mapping[str, int], *, head: tuple[str, str]) -> Html:
    """Return a table of counts, each with its share of the total and a bar.

    If there are more than 12 counts, those that are 0 are left out, and a line below the table reports how many.
    """
    total = max(1, sum(counts.values()))
    omit_zeros = len(counts) > _MANY_COUNTS
    rows = [
        (name, f"{count:,}", f"{count / total:.1%}", share_bar(count / total, series=index % 8))
        for index, (name, count) in enumerate(counts.items())
        if count or not omit_zeros
    ]
    omitted = len(counts) - len(rows)
    note = tag("p", f"Not listed: {omitted:,} without {head[1]}.", class_="soft") if omitted else None
    return join([folded(len(rows), "row", table((*head, "share", ""), rows)), note])


def seconds_table(seconds: Mapping[str, float]) -> Html:
    """Return a table of seconds by step with a bar each; the key `total`, if present, is not a step."""
    steps = {name: value for name, value in seconds.items() if name != "total"}
    whole = max(1e-9, sum(steps.values()))
    rows: list[Sequence[Child]] = [
        (name, _seconds_text(value), f"{value / whole:.0%}", share_bar(value / whole)) for name, value in steps.items()
    ]
    return table(("step", "time", "share", ""), [*rows, ("total", _seconds_text(whole), "", "")])


def _seconds_text(value: float) -> str:
    return f"{value:.1f}s" if value < 9.95 else duration(value)


def image(content: bytes | None, *, text: str) -> Html:
    """Return a JPEG as an img element, or a blank of the same size if `content` is None."""
    if content is None:
        return tag("span", "no picture", class_="blank")
    source = f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
    return tag("img", src=source, alt=text, loading="lazy", decoding="async")
