import json

import pytest

from catdog.report.markup import Html, embed_json, join, tag

EVIL = '</script><img src=x onerror="alert(1)">&\'<!--'


def test_texts_are_escaped_and_markup_is_not() -> None:
    assert tag("p", "a < b", tag("b", "c & d"), None, ["e", 1]) == "<p>a &lt; b<b>c &amp; d</b>e1</p>"
    assert tag("i", title='"x"', class_="y", hidden=True, data_tip=None, open=False) == (
        '<i title="&quot;x&quot;" class="y" hidden></i>'
    )
    assert tag("img", alt="") == '<img alt="">'
    assert tag("line", x1=1.005, x2=2.0, y1=1 / 3) == '<line x1="1" x2="2" y1="0.33"></line>'
    assert isinstance(join(["<"]), Html)
    assert join(["<", "\0"]) == "&lt;\ufffd"


def test_embedded_json_cannot_end_its_script() -> None:
    element = embed_json("content", {"name": EVIL, "lines": "\u2028"})
    inside = element.removeprefix('<script type="application/json" id="content">').removesuffix("</script>")
    assert "<" not in inside
    assert json.loads(inside) == {"name": EVIL, "lines": "\u2028"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        embed_json("content", [float("nan")])
