"""HTML and SVG from Python, safe by default: every text is escaped unless it was built here."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any

_VOID = frozenset({"br", "col", "hr", "img", "input", "link", "meta"})
# Inside <script> the parser looks for "</script" and "<!--"; old JavaScript takes the two separators for line ends.
_JSON_ESCAPES = {ord(mark): f"\\u{ord(mark):04x}" for mark in "<>&\u2028\u2029"}


class Html(str):
    """Text that is markup already; any other str is untrusted and is escaped."""

    __slots__ = ()


Child = str | int | float | None | Iterable[Any]


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """Return the element `name` with `children`: texts are escaped, iterables are flattened, None is left out.

    In names of attributes, underscores become hyphens (`data_tip`), and one at the end is dropped (`class_`). True
    gives an attribute without a value. None and False give no attribute.
    """
    text = "".join(
        f" {_attribute_name(key)}" if value is True else f' {_attribute_name(key)}="{_escape(_plain(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Html(f"<{name}{text}>")
    return Html(f"<{name}{text}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Html:
    """Return `children` concatenated, each rendered as `tag` renders it."""
    return Html("".join(_render(child) for child in children))


def embed_json(name: str, content: Any) -> Html:
    """Return `content` as a block of JSON that a script finds by its id `name`; its texts may hold any characters."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_JSON_ESCAPES)
    return tag("script", Html(text), type="application/json", id=name)


def _render(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, str | int | float):
        return _escape(_plain(child))
    return "".join(_render(one) for one in child)


def _plain(value: str | float) -> str:
    # A coordinate needs no more than a hundredth of a pixel.
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _attribute_name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _escape(text: str) -> str:
    # HTML does not allow NUL, but a name may contain one.
    return html.escape(text, quote=True).replace("\0", "\ufffd")
