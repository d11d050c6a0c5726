import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

from heard import heard

from catdog.report.markup import tag
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
    # Some class names end in a digit that the code fills in: right level3, line r4, bar s7.
    for name in {re.sub(r"\d$", "", name) for name in re.findall(r"\.([a-z][\w-]*)", style)}:
        assert re.search(rf"""["' ]{name}(["' {{\d]|$)""", code), f".{name}"


def test_a_page_that_cannot_be_built_is_one_warning(tmp_path: Path) -> None:
    said: list[str] = []

    def fail() -> str:
        raise KeyError("two\nlines")

    heard(said, write_page, str(tmp_path), fail)
    assert said == ["Warning: no report.html was written: KeyError: 'two\\nlines'"]
    assert list(tmp_path.iterdir()) == []
    heard(said, write_page, str(tmp_path), lambda: "lone surrogate \udcff")
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
