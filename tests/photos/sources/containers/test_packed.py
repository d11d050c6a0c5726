"""Parquet files and archives with more photos than one process should list are left to tasks; few are listed here."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_packed import left, write_table, write_tar, write_zip

from catdog.errors import UsageError
from catdog.photos.sources.containers import packed
from catdog.photos.sources.inputs import list_inputs


def test_tables_of_more_rows_than_are_asked_for_are_left_to_tasks(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_table(tmp_path / f"{name}.parquet", "1", "2", "3")
    assert list_inputs(str(tmp_path), at_most=6).num_rows == 6
    assert [Path(file.path).name for file in left(f"{tmp_path}/*.parquet", at_most=5).files] == [
        "a.parquet",
        "b.parquet",
    ]
    assert left(f"{tmp_path}/a.parquet", at_most=2).files[0].relative == "a.parquet"
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"expected a Parquet file at .*/a\.parquet"):
        list_inputs(str(tmp_path), at_most=5)


def test_tars_that_seem_to_hold_more_photos_than_are_asked_for_are_left_to_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        write_tar(tmp_path / f"{number}.tar", "1.jpg", "2.jpg")
    assert list_inputs(str(tmp_path), at_most=8).num_rows == 8
    (tmp_path / "3.tar").write_bytes(bytes((tmp_path / "3.tar").stat().st_size))
    assert len(left(str(tmp_path), at_most=7).files) == 4  # judged by the first alone, although the last is empty now
    assert len(left(f"{tmp_path}/*.tar", at_most=7).files) == 4
    monkeypatch.setattr(packed, "_MAX_BYTES_PER_PHOTO", 1)
    (tmp_path / "0.tar").write_bytes(b"not even opened")
    assert len(left(str(tmp_path), at_most=8).files) == 4


def test_zips_that_a_glob_matches_are_left_to_tasks_too(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_zip(tmp_path / f"{name}.zip", "1.jpg", "2.jpg")
    assert list_inputs(f"{tmp_path}/*.zip", at_most=4).num_rows == 4
    assert [file.relative for file in left(f"{tmp_path}/*.zip", at_most=3).files] == ["a.zip", "b.zip"]
    for source in (f"{tmp_path}/a*.zip", f"{tmp_path}/a.zip"):
        assert list_inputs(source, at_most=2).num_rows == 2
        assert [file.relative for file in left(source, at_most=1).files] == ["a.zip"]


def test_a_tar_alone_is_left_to_a_task(tmp_path: Path) -> None:
    write_tar(tmp_path / "one/x.tar", "1.jpg", "y.tar!2.jpg", "z.jpg")
    for source in (f"{tmp_path}/one", f"{tmp_path}/one/x.tar"):
        assert list_inputs(source, at_most=3).num_rows == 3
        assert left(source, at_most=2).around is False


def test_tars_whose_keys_are_mixed_are_listed_here(tmp_path: Path) -> None:
    write_tar(tmp_path / "mixed/x.tar", "1.jpg", "z.jpg")
    write_tar(tmp_path / "mixed/x.tar!y.tar", "2.jpg")
    found = list_inputs(f"{tmp_path}/mixed", at_most=1)["path"].to_pylist()
    assert [path.removeprefix(f"{tmp_path}/mixed/") for path in found] == [
        "x.tar!1.jpg",
        "x.tar!y.tar!2.jpg",
        "x.tar!z.jpg",
    ]


def test_an_empty_tar_is_refused_where_it_was_meant(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", "1.jpg")
    write_tar(tmp_path / "b.tar")
    assert list_inputs(str(tmp_path)).num_rows == 1
    with pytest.raises(UsageError, match=r"^expected photos in .*/b.tar, found no files"):
        list_inputs(f"{tmp_path}/*.tar")
