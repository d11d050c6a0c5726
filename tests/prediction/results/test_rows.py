import csv
import io
import json

import numpy as np
import pyarrow as pa
import pytest

from catdog.errors import FailureError
from catdog.prediction.results.rows import LabelRule, build_rows, decode, encode

TWO = LabelRule(classes=("cat", "dog"), threshold=0.0, top_k=1, models=1)
ODD = [
    "/p/a, b.jpg",
    '/p/"quoted".jpg',
    "/p/line\nbreak\r\n.jpg",
    "/p/кошка 猫 🐈.jpg",
    "/p/'=1+2.jpg",
    "/p/null",
    "/p/NaN.jpg",
    "/p/ space ",
    "/p/caf\\x{e9}.jpg",
]


def rows_of(paths: list[str], rule: LabelRule = TWO) -> pa.Table:
    count, classes = len(paths), len(rule.classes)
    random = np.random.default_rng(0).random((count, classes)).astype(np.float32)
    probabilities = random / random.sum(axis=1, keepdims=True)
    return build_rows(paths, [""] * count, [probabilities] * rule.models, rule)


# Rows


def test_a_photo_with_an_error_has_no_label_and_the_others_keep_theirs() -> None:
    rows = build_rows(
        ["a", "b", "c"], ["", "truncated: cut", ""], [np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)], TWO
    )
    assert rows.to_pylist() == [
        {"path": "a", "label": "dog", "probability": 0.75, "p_cat": 0.25, "p_dog": 0.75, "error": None},
        {"path": "b", "label": None, "probability": None, "p_cat": None, "p_dog": None, "error": "truncated: cut"},
        {"path": "c", "label": "cat", "probability": 0.5, "p_cat": 0.5, "p_dog": 0.5, "error": None},
    ]


def test_rows_of_errors_alone_need_no_probabilities() -> None:
    rows = build_rows(["a"], ["empty: no bytes"], [np.zeros((0, 2), np.float32)], TWO)
    assert rows["label"].to_pylist() == [None]
    assert rows["error"].to_pylist() == ["empty: no bytes"]


def test_below_the_threshold_the_label_is_unsure_and_the_probabilities_stay() -> None:
    rule = LabelRule(classes=("cat", "dog"), threshold=0.75, top_k=1, models=1)
    rows = build_rows(["a", "b"], ["", ""], [np.array([[0.25, 0.75], [0.7, 0.3]], np.float32)], rule)
    assert rows["label"].to_pylist() == ["dog", "unsure"]
    assert rows["p_cat"].to_pylist() == pytest.approx([0.25, 0.7])


def test_the_next_classes_follow_in_the_order_of_their_probability() -> None:
    rule = LabelRule(classes=("ant", "bee", "cat"), threshold=0.0, top_k=3, models=1)
    (row,) = build_rows(["a"], [""], [np.array([[0.25, 0.625, 0.125]], np.float32)], rule).to_pylist()
    assert (row["label"], row["top2_label"], row["top3_label"]) == ("bee", "ant", "cat")
    assert (row["probability"], row["top2_probability"], row["top3_probability"]) == (0.625, 0.25, 0.125)


def test_an_unsure_photo_keeps_its_top_class_where_ranks_are_asked_for() -> None:
    rule = LabelRule(classes=("ant", "bee", "cat"), threshold=0.9, top_k=2, models=1, names_top=True)
    (row,) = build_rows(["a"], [""], [np.array([[0.25, 0.625, 0.125]], np.float32)], rule).to_pylist()
    assert (row["label"], row["probability"]) == ("unsure", 0.625)
    assert (row["top1_label"], row["top1_probability"], row["top2_label"]) == ("bee", 0.625, "ant")
    assert "top3_label" not in row


def test_the_rest_is_a_probability_and_never_a_label() -> None:
    rule = LabelRule(classes=("cat", "dog", "other"), threshold=0.25, top_k=2, models=1, names_top=True, rest="other")
    probabilities = np.array([[0.5, 0.125, 0.375], [0.125, 0.0625, 0.8125]], np.float32)
    first, second = build_rows(["a", "b"], ["", ""], [probabilities], rule).to_pylist()
    assert (first["label"], first["probability"], first["p_other"], first["top2_label"]) == ("cat", 0.5, 0.375, "dog")
    assert (second["label"], second["probability"], second["top1_label"]) == ("unsure", 0.125, "cat")


def test_a_second_model_has_columns_of_its_own() -> None:
    rule = LabelRule(classes=("cat", "dog"), threshold=0.0, top_k=1, models=2)
    first, second = np.array([[0.25, 0.75]], np.float32), np.array([[0.875, 0.125]], np.float32)
    (row,) = build_rows(["a"], [""], [first, second], rule).to_pylist()
    assert (row["label"], row["second_label"], row["p_dog"], row["second_p_dog"]) == ("dog", "cat", 0.75, 0.125)


# Formats


@pytest.mark.parametrize("format", ["parquet", "csv", "json"])
def test_every_format_gives_back_what_was_written(format: str) -> None:
    rows = rows_of(ODD)
    broken = build_rows(["/p/x"], ["not-an-image: a, b\n'c'"], [np.zeros((0, 2), np.float32)], TWO)
    both = pa.concat_tables([rows, broken])
    assert decode(encode(both, format=format), format=format, schema=TWO.schema, where="x").equals(both)


@pytest.mark.parametrize("format", ["parquet", "csv", "json"])
def test_a_file_of_no_rows_is_a_file(format: str) -> None:
    rows = rows_of([])
    assert decode(encode(rows, format=format), format=format, schema=TWO.schema, where="x").num_rows == 0


def test_python_s_csv_reader_reads_every_name() -> None:
    found = list(csv.DictReader(io.StringIO(encode(rows_of(ODD), format="csv").decode(), newline="")))
    assert [row["path"] for row in found] == ODD
    assert list(found[0]) == ["path", "label", "probability", "p_cat", "p_dog", "error"]


def test_python_s_json_reads_every_line() -> None:
    rows = rows_of(ODD)
    found = [json.loads(line) for line in encode(rows, format="json").decode().splitlines()]
    assert [row["path"] for row in found] == ODD
    assert [np.float32(row["p_cat"]) for row in found] == rows["p_cat"].to_pylist()


@pytest.mark.parametrize("name", ["=1+2", "+1", "-1", "@SUM(A1)", "\tx", "'quoted"])
def test_no_cell_of_a_csv_begins_like_a_formula(name: str) -> None:
    rule = LabelRule(classes=(name, "dog"), threshold=0.0, top_k=1, models=1)
    rows = build_rows([name], [""], [np.array([[1.0, 0.0]], np.float32)], rule)
    content = encode(rows, format="csv")
    cells = next(csv.reader(io.StringIO(content.decode().split("\n", 1)[1], newline="")))
    assert cells[:2] == ["'" + name] * 2
    assert decode(content, format="csv", schema=rule.schema, where="x").equals(rows)


def test_a_file_that_is_damaged_is_named() -> None:
    for format in ("parquet", "csv", "json"):
        with pytest.raises(FailureError, match="predictions-00000"):
            decode(b"\x00\xff{", format=format, schema=TWO.schema, where="predictions-00000")
