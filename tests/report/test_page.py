import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from catdog.report import axes, charts
from catdog.report.markup import Html, embed_json, join, tag
from catdog.report.page import Section, build_page, share_table, table, write_page
from catdog.storage import files

EVIL = '</script><img src=x onerror="alert(1)">&\'<!--'


class Elements(HTMLParser):
    """The elements of a page, and its scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.raw: list[tuple[str, str]] = []
        self.policy = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"] or ""

    def handle_data(self, data: str) -> None:
        if self.names and self.names[-1] in ("script", "style"):
            self.raw.append((self.names[-1], data))


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


def test_a_page_holds_all_it_shows_and_its_policy_allows_nothing_else() -> None:
    body = tag("p", EVIL, data_tip=EVIL)
    page = build_page(
        title=EVIL,
        subtitle=EVIL,
        sections=[Section(name="one", title=EVIL, body=body), None],
        scripts=["predict_page.js", "tune_page.js"],
        content={"name": EVIL},
    )
    found = Elements(page)
    assert "img" not in found.names
    assert not {name for name, _ in found.attributes} & {"style", "onerror", "onclick"}
    assert not re.search(r"https?://", page)
    assert [value for name, value in found.attributes if name in ("src", "href")] == ["data:,", "#one"]
    allowed = re.findall(r"'sha256-[^']+'", found.policy)
    blocks = [text for name, text in found.raw if text.strip() and not text.startswith("{")]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in blocks]
    assert allowed == [f"'sha256-{digest}'" for digest in digests]
    assert len(allowed) == 4
    assert found.policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")


def test_scripts_never_make_markup_of_text() -> None:
    for path in sorted(Path("catdog/report/assets").glob("*.js")):
        code = path.read_text()
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "http"):
            assert way not in code, f"{path} has {way}"


def test_no_class_of_the_style_sheet_is_dead() -> None:
    style = Path("catdog/report/assets/page.css").read_text()
    code = "\n".join(path.read_text() for kind in ("*.py", "*.js") for path in sorted(Path("catdog").rglob(kind)))
    # Numbered classes are made from a number: right level3, line r4, bar s7.
    for name in {re.sub(r"\d$", "", name) for name in re.findall(r"\.([a-z][\w-]*)", style)}:
        assert re.search(rf"""["' ]{name}(["' {{\d]|$)""", code), f".{name}"


def test_a_page_that_cannot_be_built_is_one_warning(tmp_path: Path) -> None:
    said: list[str] = []

    def fail() -> str:
        raise KeyError("two\nlines")

    write_page(str(tmp_path), fail, say=said.append)
    assert said == ["Warning: no report.html was written: KeyError: 'two\\nlines'"]
    assert list(tmp_path.iterdir()) == []
    write_page(str(tmp_path), lambda: "lone surrogate \udcff", say=said.append)
    assert said[1] == f"Report: {tmp_path}/report.html"
    assert files.read_bytes(f"{tmp_path}/report.html") == b"lone surrogate ?"


def test_a_cell_sorts_by_its_value_and_shows_its_text() -> None:
    text = table(("name", "time"), [("a", (61.5, "1m02s"))], sortable=True)
    assert '<td data-value="61.5">1m02s</td>' in text
    assert text.count("<button") == 2
    assert "75.0%" in share_table({"<cat>": 3, "dog": 1}, head=("label", "photos"))
    assert "<cat>" not in share_table({"<cat>": 3}, head=("label", "photos"))


def test_of_many_labels_those_without_photos_are_counted_and_not_listed() -> None:
    few, many = ({f"label {index}": index % 2 for index in range(count)} for count in (4, 200))
    assert "label 0" in share_table(few, head=("label", "photos"))
    assert "label 0" not in share_table(many, head=("label", "photos"))
    assert "Not listed: 100 without photos." in share_table(many, head=("label", "photos"))


def test_ticks_are_round() -> None:
    axis = axes.Axis(low=0.497, high=1.005, start=0, end=100)
    assert axis.ticks() == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    wide = axes.Axis(low=0.9e-5, high=0.02, start=0, end=100, log=True)
    assert wide.ticks() == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2])
    assert axes.Axis(low=0.0021, high=0.0049, start=0, end=1, log=True).ticks() == pytest.approx([0.003])
    assert axes.Axis(low=1, high=1, start=0, end=100).ticks() == [1]
    assert (axis.place(0.497), axis.place(1.005)) == (0, 100)


def test_curves_show_every_epoch_of_both_stages_and_skip_what_is_no_number() -> None:
    row = {"loss": 0.5, "acc": 0.75, "val_loss": 0.4, "val_acc": 0.8125}
    histories = {
        "frozen": [{"epoch": 1, **row}, {"epoch": 2, **row, "loss": float("nan")}],
        "unfrozen": [{"epoch": 1, **row}],
    }
    chart = charts.curve(histories, "acc", title="Accuracy")
    assert re.findall(r'data-tip="([^"]+)"', chart) == [
        "frozen, epoch 1\ntraining 0.7500\nvalidation 0.8125",
        "frozen, epoch 2\ntraining 0.7500\nvalidation 0.8125",
        "unfrozen, epoch 1\ntraining 0.7500\nvalidation 0.8125",
    ]
    assert charts.curve(histories, "loss", title="Loss").count('class="dot s1"') == 2
    assert "nan" not in re.sub(r'data-tip="[^"]+"', "", charts.curve(histories, "loss", title="Loss"))


def test_counts_far_apart_are_drawn_on_a_logarithmic_axis() -> None:
    assert "logarithmic" in charts.histogram([1, 0, 1000], low=0, high=1, title="x", x_label="x")
    assert "logarithmic" not in charts.histogram([1, 0, 10], low=0, high=1, title="x", x_label="x")
    assert "NaN" not in charts.histogram([0, 0], low=0, high=1, title="x", x_label="x")
