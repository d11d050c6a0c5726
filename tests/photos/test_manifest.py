from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog.errors import FailureError
from catdog.photos.manifest import Manifest, read_manifest, write_manifest
from catdog.storage.schemas import MANIFEST, REJECTED


def made(*, train: int = 2) -> Manifest:
    splits = ["train"] * train * 2 + ["validation"] * 2 + ["test"] * 2 + ["unused"]
    rows = [
        {"path": f"/p/{row}", "label": row % 2, "class": ("cat", "dog")[row % 2], "split": part, "digest": "d"}
        | {"width": 1, "height": 1}
        for row, part in enumerate(splits)
    ]
    reasons = ["empty: no bytes", "duplicate: same bytes as /p/1", "duplicate: same bytes as /p/2"]
    rejected = [{"path": f"/q/{row}", "reason": reason} for row, reason in enumerate(reasons)]
    return Manifest(
        table=pa.Table.from_pylist(rows, MANIFEST),
        rejected=pa.Table.from_pylist(rejected, REJECTED),
        classes=("cat", "dog"),
    )


def test_the_summary_counts_all_photos_by_class_and_split() -> None:
    assert made(train=1000).summary_lines() == [
        "Found 2005 images belonging to 2 classes.",
        "Classes: cat 1003, dog 1002.",
        "Splits: train 2000 (1000 per class), validation 2 (1 per class), test 2 (1 per class).",
        "2008 files: 2004 used, 1 unused, 3 rejected.",
        "  2 duplicate, such as /q/1: same bytes as /p/1",
        "  1 empty, such as /q/0: no bytes",
    ]


def test_uneven_classes_are_said_with_the_setting_that_evens_them_out() -> None:
    few = made(train=20).table.to_pylist()
    rows = [row for row in few if row["class"] == "cat" or row["split"] != "train"] + few[1:4:2]
    lines = Manifest(
        table=pa.Table.from_pylist(rows, MANIFEST), rejected=REJECTED.empty_table(), classes=("cat", "dog")
    ).summary_lines()
    assert lines[2] == "Splits: train 22 (2 to 20 per class), validation 2 (1 per class), test 2 (1 per class)."
    assert lines[4] == (
        "Imbalanced classes: 22 of cat, 4 of dog; training uses class weights (--class-weights none turns them off)."
    )


def test_of_many_classes_the_summary_shows_the_first() -> None:
    names = tuple(f"breed{number:03}" for number in range(200))
    row = made().table.to_pylist()[0]
    rows = [row | {"path": name, "label": place, "class": name} for place, name in enumerate(names)]
    table = pa.Table.from_pylist(rows, MANIFEST)
    lines = Manifest(table=table, rejected=REJECTED.empty_table(), classes=names).summary_lines()
    assert lines[0] == "Found 200 images belonging to 200 classes."
    assert lines[1].endswith("breed018 1, breed019 1, and 180 more.")
    assert lines[2] == "Splits: train 200 (1 per class), validation 0, test 0."


def test_a_manifest_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    write_manifest(made(), directory=str(tmp_path))
    path = tmp_path / "manifest.parquet"
    table = pq.read_table(path)
    for old in (table.rename_columns({"perceptual_hash": "look"}), table.drop_columns("perceptual_hash")):
        pq.write_table(old.replace_schema_metadata(table.schema.metadata), path)
        assert read_manifest(str(tmp_path)).table.equals(made().table)


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_manifest_survives_writing(tmp_path: Path, prefix: str) -> None:
    manifest = made()
    write_manifest(manifest, directory=f"{prefix}{tmp_path}/manifest")
    assert sorted(path.name for path in (tmp_path / "manifest").iterdir()) == ["manifest.parquet", "rejected.parquet"]
    found = read_manifest(f"{prefix}{tmp_path}/manifest")
    assert found.table.equals(manifest.table, check_metadata=True)
    assert found.rejected.equals(manifest.rejected)
    assert found.classes == ("cat", "dog")
    assert found.select("train")["path"].to_pylist() == ["/p/0", "/p/1", "/p/2", "/p/3"]


def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FailureError, match=r"cannot read .*manifest\.parquet"):
        read_manifest(str(tmp_path))
    write_manifest(made(), directory=str(tmp_path))
    pq.write_table(pa.table({"path": ["x"]}), tmp_path / "rejected.parquet")
    with pytest.raises(FailureError, match="expected the columns path string, reason string, found path string"):
        read_manifest(str(tmp_path))
    write_manifest(made(), directory=str(tmp_path))
    pq.write_table(made().table, tmp_path / "manifest.parquet")
    with pytest.raises(FailureError, match="names no classes"):
        read_manifest(str(tmp_path))
