import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog.errors import FailureError
from catdog.features.spec import PhotoSet
from catdog.photos.sharded.photo_rows import PhotoRows, RowShard
from catdog.storage import artifacts


def photos(count: int) -> pa.Table:
    return pa.table(
        {
            "path": [f"{row}.jpg" for row in range(count)],
            "label": pa.array([row % 3 for row in range(count)], pa.int32()),
            "digest": [f"{row:064x}" for row in range(count)],
        }
    )


def in_files(table: pa.Table, folder: Path, *sizes: int) -> PhotoRows:
    """Write the rows to files of `sizes` rows, each followed by a row of another split; return them as PhotoRows."""
    shards, start = [], 0
    for number, size in enumerate(sizes):
        split = pa.array(["train"] * size + ["test"])
        rows = pa.concat_tables([table.slice(start, size), table.slice(0, 1)]).append_column("split", split)
        path = folder / f"{number}.parquet"
        pq.write_table(rows, path)
        shards.append(RowShard(rows=size, path=str(path), split="train"))
        start += size
    return PhotoRows(tuple(shards))


def test_rows_in_files_are_those_of_one_table(tmp_path: Path) -> None:
    table = photos(100)
    found = pickle.loads(pickle.dumps(in_files(table, tmp_path, 40, 0, 1, 59)))
    assert found.count == 100
    for start, stop in ((0, 100), (0, 40), (39, 41), (40, 41), (41, 100), (99, 100), (7, 7)):
        assert found.read(start, stop).to_pylist() == table.slice(start, stop - start).to_pylist()


def test_the_name_of_photos_is_the_same_in_files_and_as_it_has_always_been(tmp_path: Path) -> None:
    table = photos(100)
    rows = "\n".join(f"{row['digest']} {row['label']}" for row in table.to_pylist())
    name = artifacts.fingerprint({"rows": rows, "views": [1, 2]})
    for found in (PhotoRows.of(table), in_files(table, tmp_path, 0, 40, 60)):
        assert PhotoSet(photos=found, views=(1, 2)).fingerprint == name
    nothing = PhotoSet(photos=PhotoRows.of(table.slice(0, 0)), views=(1,)).fingerprint
    assert nothing == artifacts.fingerprint({"rows": "", "views": [1]})


def test_a_folder_that_is_not_shared_is_named(tmp_path: Path) -> None:
    lost = PhotoRows((RowShard(rows=1, path=str(tmp_path / "lost.parquet"), split="train"),))
    with pytest.raises(
        FailureError, match=r"lost.parquet cannot be read .*--run-dir must be a folder that all machines"
    ):
        lost.read(0, 1)
