"""Rows of Parquet files, read in any order: with a cache, a process reads no row group more than twice."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog.errors import ImageError
from catdog.photos.sources.containers import cells
from catdog.photos.sources.files import read_photo
from catdog.photos.sources.inputs import list_inputs, read_input

ROWS, ROWS_A_GROUP = 60, 5


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a table of twelve row groups, whose photos contain their row numbers."""
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))
    cells.forget_tables()
    return write(tmp_path / "pets.parquet", "photo")


def write(path: Path, word: str) -> str:
    names = [f"{row % 7}/{word} é{row}" for row in range(ROWS)]
    content = [f"{word} {row}".encode() for row in range(ROWS)]
    pq.write_table(pa.table({"name": names, "bytes": content}), path, row_group_size=ROWS_A_GROUP)
    return str(path)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list to which every row group is appended when it is read from a table."""
    found: list[int] = []
    read = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda *args, **options: found.append(args[1]) or read(*args, **options)
    )
    return found


def shuffled_keys(table: str) -> list[tuple[str, bytes]]:
    inputs = list_inputs(table)
    keys = [(key, f"photo {key.rpartition('é')[2]}".encode()) for key in inputs["path"].to_pylist()]
    random.Random(0).shuffle(keys)
    return keys


def test_photos_in_a_random_order_read_each_row_group_twice_and_then_from_the_cache(
    table: str, reads: list[int], tmp_path: Path
) -> None:
    keys = shuffled_keys(table)
    for _ in range(5):
        for key, content in keys:
            assert read_photo(key) == content
    assert {reads.count(group) for group in range(ROWS // ROWS_A_GROUP)} <= {1, 2}
    assert all(name.endswith(".arrow") for name in os.listdir(tmp_path / "cache/tables"))  # noqa: PTH208

    # Another process uses the cached files as soon as it returns to a row group.
    cells.forget_tables()
    del reads[:]
    for key, content in keys:
        assert read_photo(key) == content
    assert {reads.count(group) for group in reads} == {1}


def test_a_large_row_group_is_never_held_in_memory(
    table: str, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "_LARGE_BYTES", 0)
    keys = shuffled_keys(table)
    assert [read_photo(key) for key, _ in keys] == [content for _, content in keys]
    assert sorted(reads) == list(range(ROWS // ROWS_A_GROUP))
    cells.forget_tables()
    assert [read_photo(key) for key, _ in keys] == [content for _, content in keys]
    assert len(reads) == ROWS // ROWS_A_GROUP


def test_a_table_that_changed_is_not_taken_for_what_the_cache_has_of_it(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "_LARGE_BYTES", 0)
    key = list_inputs(table)["path"].to_pylist()[0]
    assert read_photo(key) == b"photo 0"
    changed = pq.read_table(table).set_column(1, "bytes", pa.array([b"another"] * ROWS))
    pq.write_table(changed, table)
    cells.forget_tables()
    assert read_photo(key) == b"another"


def test_without_a_cache_that_can_be_written_photos_are_read_all_the_same(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("no folder")
    for large in (0, 2**26):
        monkeypatch.setattr(cells, "_LARGE_BYTES", large)
        for _ in range(2):
            for key, content in shuffled_keys(table):
                assert read_photo(key) == content


def test_rows_that_are_read_in_order_at_three_places_read_each_row_group_once(
    table: str, reads: list[int], tmp_path: Path
) -> None:
    rows = list_inputs(table).to_pylist()
    third = ROWS // 3
    for places in zip(rows[:third], rows[third : 2 * third], rows[2 * third :], strict=True):
        for row in places:
            assert read_input(row) == f"photo {row['path'].rpartition('é')[2]}".encode()
    assert sorted(reads) == [*range(ROWS // ROWS_A_GROUP)]
    assert not (tmp_path / "cache").exists()


def test_a_name_that_no_row_has_is_an_error_of_that_photo(table: str) -> None:
    for name in ("0/photo é", "zebra", "", "0/photo é600"):
        with pytest.raises(ImageError, match="no such row in the table"):
            read_photo(f"{table}!{name}")
