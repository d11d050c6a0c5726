import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog.errors import FailureError
from catdog.prediction import rows as predictions
from catdog.prediction.rows import LabelRule, build_rows, decode, encode
from catdog.storage import files

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


# Committing


def write_parts(out: Path, counts: list[int]) -> list[str]:
    paths = [f"/p/{index}.jpg" for index in range(sum(counts))]
    start = 0
    for part, count in enumerate(counts):
        predictions.write_part(str(out), part, rows_of(paths[start : start + count]), retried=part)
        start += count
    return paths


def commit(out: Path, counts: list[int], *, format: str = "parquet") -> None:
    runs = predictions.plan_files(counts, columns=6)
    staging = predictions.staging_directory(str(out))
    entries = [predictions.write_file(str(out), staging, number, run, format=format) for number, run in enumerate(runs)]
    predictions.finish_commit(str(out), {"format": format, "files": entries})


def test_parts_are_known_by_their_numbers(tmp_path: Path) -> None:
    assert predictions.present_parts(str(tmp_path)) == set()
    write_parts(tmp_path, [2, 3])
    (tmp_path / "parts/part-0000007.parquet.1234abcd.part").write_bytes(b"half")
    assert predictions.present_parts(str(tmp_path)) == {0, 1}


def test_a_commit_joins_the_parts_in_order_and_drops_them(tmp_path: Path) -> None:
    paths = write_parts(tmp_path, [2, 3, 1])
    assert not predictions.is_committed(str(tmp_path))
    commit(tmp_path, [2, 3, 1])
    assert predictions.is_committed(str(tmp_path))
    assert pq.read_table(tmp_path / "predictions")["path"].to_pylist() == paths
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == [
        "_MANIFEST.json", "_SUCCESS", "predictions-00000.parquet",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["predictions"]


def test_the_manifest_counts_labels_errors_and_retries(tmp_path: Path) -> None:
    rows = build_rows(["a", "b", "c"], ["", "empty: x", "empty: y"], [np.array([[0.0, 1.0]], np.float32)], TWO)
    predictions.write_part(str(tmp_path), 0, rows, retried=2)
    entry = predictions.write_file(str(tmp_path), str(tmp_path / "s"), 0, range(1), format="csv")
    assert (entry["name"], entry["rows"], entry["labels"], entry["errors"], entry["retried"]) == (
        "predictions-00000.csv", 3, {"dog": 1}, {"empty": 2}, 2,
    )  # fmt: skip


def test_a_part_that_is_not_here_tells_of_shared_storage(tmp_path: Path) -> None:
    with pytest.raises(FailureError, match=r"part-0000000\.parquet cannot be read .* machines share"):
        predictions.write_file(str(tmp_path), str(tmp_path / "s"), 0, range(1), format="csv")


def test_files_end_before_they_are_too_large_for_a_spreadsheet() -> None:
    runs = predictions.plan_files([256] * 4000, columns=6)
    assert [len(run) for run in runs] == [976, 976, 976, 976, 96]
    assert [part for run in runs for part in run] == list(range(4000))


@pytest.mark.parametrize("harm", ["missing", "additional", "changed", "unfinished"])
def test_a_result_that_was_tampered_with_is_found_out(tmp_path: Path, harm: str) -> None:
    write_parts(tmp_path, [2])
    commit(tmp_path, [2], format="csv")
    file = tmp_path / "predictions/predictions-00000.csv"
    if harm == "missing":
        file.unlink()
    elif harm == "additional":
        (tmp_path / "predictions/extra.csv").write_text("x")
    elif harm == "changed":
        file.write_text(file.read_text().replace("cat", "dog"))
    else:
        (tmp_path / "predictions/_SUCCESS").unlink()
    words = {"additional": "does not belong", "unfinished": "not finished"}.get(harm, harm)
    with pytest.raises(FailureError, match=words):
        predictions.check_files(str(tmp_path))


def test_an_untouched_result_passes(tmp_path: Path) -> None:
    write_parts(tmp_path, [2, 2])
    commit(tmp_path, [2, 2])
    assert predictions.check_files(str(tmp_path))["files"][0]["rows"] == 4


def test_a_commit_on_an_object_store_ends_with_its_mark(tmp_path: Path) -> None:
    out = f"file://{tmp_path}/out"
    predictions.write_part(out, 0, rows_of(["a"]), retried=0)
    staging = predictions.staging_directory(out)
    assert staging == files.join(out, "predictions")
    entry = predictions.write_file(out, staging, 0, range(1), format="json")
    assert not predictions.is_committed(out)
    predictions.finish_commit(out, {"format": "json", "files": [entry]})
    assert predictions.is_committed(out)
    assert next(predictions.read_rows(out, rule=TWO))["path"].to_pylist() == ["a"]
