"""Parquet files found in practice: every type of bytes, several columns, repeated names, labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog.errors import ImageError, UsageError
from catdog.photos.sources.containers.tables import TableColumns, read_labels
from catdog.photos.sources.files import read_photo
from catdog.photos.sources.inputs import list_inputs, read_inputs


def write(path: Path, columns: dict[str, Any], **options: Any) -> str:
    pq.write_table(pa.table(columns), path, row_group_size=2, **options)
    return str(path)


def contents(inputs: pa.Table) -> list[Any]:
    return [content.code if isinstance(content, ImageError) else content for _, content in read_inputs(inputs)]


@pytest.mark.parametrize(
    "kind",
    [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(1), pa.dictionary(pa.int32(), pa.binary())],
    ids=str,
)
def test_every_type_of_bytes_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    values = pa.array([b"A", b"B", b"A"], pa.binary()).cast(kind)
    inputs = list_inputs(write(tmp_path / "t.parquet", {"photo": values}))
    assert contents(inputs) == [b"A", b"B", b"A"]
    assert [read_photo(key) for key in inputs["path"].to_pylist()] == [b"A", b"B", b"A"]


def test_a_struct_without_bytes_is_read_from_its_path(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/2.jpg").write_bytes(b"from the file")
    images = [{"bytes": b"A", "path": "1.jpg"}, {"bytes": None, "path": "x/2.jpg"},
              {"bytes": None, "path": "gone.jpg"}, {"bytes": None, "path": None}]  # fmt: skip
    inputs = list_inputs(write(tmp_path / "t.parquet", {"image": images}))
    assert inputs["relative"].to_pylist() == ["1.jpg", "x/2.jpg", "gone.jpg", "#3"]
    assert contents(inputs) == [b"A", b"from the file", "missing", "missing"]


def test_of_several_columns_a_person_says_which(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"id": [7, 7, 9], "mask": [b"m"] * 3, "photo": [b"A", b"B", b"C"],
                                          "title": ["a", "b", "c"]})  # fmt: skip
    with pytest.raises(UsageError, match=r"has several columns of bytes \(mask, photo\): choose one by --bytes-column"):
        list_inputs(path)
    inputs = list_inputs(path, columns=TableColumns(content="photo", name="title"))
    assert inputs["path"].to_pylist() == [f"{path}!photo[0]!a", f"{path}!photo[1]!b", f"{path}!photo[2]!c"]
    assert contents(inputs) == [b"A", b"B", b"C"]
    assert [read_photo(key) for key in inputs["path"].to_pylist()] == [b"A", b"B", b"C"]
    with pytest.raises(UsageError, match="--bytes-column title: expected a column of bytes, found id int64, mask"):
        list_inputs(path, columns=TableColumns(content="title"))
    with pytest.raises(UsageError, match="--name-column no: found no such column"):
        list_inputs(path, columns=TableColumns(content="photo", name="no"))


def test_a_folder_of_tables_is_all_their_rows(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "data").mkdir(exist_ok=True)
        write(tmp_path / f"data/{name}.parquet", {"bytes": [name.encode(), b"2"]})
    (tmp_path / "data/.cache").mkdir()
    assert contents(list_inputs(str(tmp_path / "data"))) == [b"a", b"2", b"b", b"2"]


def test_a_key_whose_row_or_table_is_gone_is_an_error_of_that_photo(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"path": ["a"], "bytes": [b"A"]})
    for key in (f"{path}!b", f"{tmp_path}/gone.parquet!a", f"{path}!bytes[5]!a"):
        with pytest.raises(ImageError):
            read_photo(key)


def test_labels_are_texts_or_names_of_class_labels(tmp_path: Path) -> None:
    texts = write(tmp_path / "t.parquet", {"bytes": [b"A", b"B"], "label": ["Cat", None]})
    assert read_labels(texts, "") == ["Cat", ""]
    features = {"info": {"features": {"species": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({"bytes": [b"A", b"B"], "species": [1, 0]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / "u.parquet")
    assert read_labels(str(tmp_path / "u.parquet"), "species") == ["dog", "cat"]
    assert read_labels(str(tmp_path / "u.parquet"), "") is None
    with pytest.raises(UsageError, match="--label-column x: found no such column"):
        read_labels(texts, "x")


def labels_of(folder: Path, labels: Any, description: object) -> list[str] | None:
    table = pa.table({"bytes": [b"A"] * len(labels), "label": labels})
    metadata = {"huggingface": description if isinstance(description, str) else json.dumps(description)}
    pq.write_table(table.replace_schema_metadata(metadata), folder / "v.parquet")
    return read_labels(str(folder / "v.parquet"), "")


NAMED = {"info": {"features": {"label": {"names": ["cat", "dog"]}}}}


@pytest.mark.parametrize(
    ("labels", "description", "found"),
    [
        ([-1, 0, 1, 2, None], NAMED, ["", "cat", "dog", "", ""]),  # -1 means no label in Hugging Face's datasets
        ([1.0, 0.0, None], NAMED, ["dog", "cat", ""]),  # as pandas stores integers if one is missing
        ([1.0, 0.5, None], {}, ["1", "0.5", ""]),
        (["cat", "dog"], NAMED, ["cat", "dog"]),
        ([1, 0], "{no json", ["1", "0"]),
        ([1, 0], [], ["1", "0"]),
        ([1, 0], {"info": {"features": {"label": {"names": "catdog"}}}}, ["1", "0"]),
    ],
)
def test_labels_without_a_name_are_none_and_no_other_one_s(
    tmp_path: Path, labels: Any, description: object, found: list[str]
) -> None:
    assert labels_of(tmp_path, labels, description) == found


def test_labels_that_are_neither_texts_nor_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^expected texts or numbers in the column label of .*, found list<"):
        labels_of(tmp_path, [[1], [0]], {})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><title>404</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a pointer of Git LFS"),
        (b"PK\x03\x04" + bytes(40), "a zip: name the file .zip"),
        (b"PAR1" + bytes(40), "one that cannot be read"),
    ],
)
def test_what_is_no_table_has_its_own_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(UsageError, match=rf"^expected a Parquet file at {tmp_path}/t\.parquet, found {reason}"):
        list_inputs(str(tmp_path / "t.parquet"))


def test_a_readme_beside_tables_is_skipped_with_a_line_and_a_photo_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "train.parquet", {"bytes": [b"A"]})
    (tmp_path / "README.md").write_text("a dataset card")
    assert contents(list_inputs(str(tmp_path))) == [b"A"]
    assert capsys.readouterr().out == "Skipped 1 file next to archives or tables of photos, such as README.md.\n"
    (tmp_path / "1.jpg").write_bytes(b"B")
    assert len(contents(list_inputs(str(tmp_path)))) == 3
