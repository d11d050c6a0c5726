"""Parquet files and archives, listed by tasks: rows, order and digest are those of one process."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_packed import left, write_table, write_tar, write_zip

from catdog.errors import UsageError
from catdog.photos.sources import inputs as inputs_module
from catdog.photos.sources.containers.packed import MorePackedError
from catdog.photos.sources.containers.tables import TableColumns
from catdog.photos.sources.inputs import list_inputs
from catdog.photos.sources.listing import packed_tasks
from catdog.photos.sources.listing.packed_tasks import list_group, list_many
from catdog.photos.sources.listing.shards import SetDigest, Shard, read_all

pytestmark = pytest.mark.usefixtures("ray_session")


def list_both_ways(source: str, place: Path, **options: Any) -> list[Shard]:
    """List `source` in this process and by tasks of one file; check that both find the same, and return the shards."""
    wanted = list_inputs(source, **options)
    with pytest.raises(MorePackedError) as raised:
        list_inputs(source, at_most=1, **options)
    exclude = options.get("exclude", ())
    found = list_many(raised.value, exclude=exclude, shards=str(place), num_cpus=0.5)
    assert read_all(found).equals(wanted)
    assert SetDigest.total(shard.digest for shard in found) == SetDigest.of(wanted)
    assert list_many(raised.value, exclude=exclude, num_cpus=0.5) == [
        Shard(first=shard.first, digest=shard.digest) for shard in found
    ]
    return found


@pytest.fixture(autouse=True)
def _a_task_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_tasks, "_BYTES_PER_TASK", 1)


def test_tables_are_the_same_rows(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    for name in ("a", "labels/b"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        rows = {"name": ["x", "y", "x", None, "z"], "bytes": [b"X", b"Y", None, b"W", b"Z"], "mask": [b"m"] * 5}
        pq.write_table(pa.table(rows), folder / f"{name}.parquet", row_group_size=2)
    columns = TableColumns(content="bytes")
    found = list_both_ways(str(folder), tmp_path / "shards", columns=columns)
    assert [shard.rows for shard in found] == [5, 5]
    assert list_both_ways(str(folder), tmp_path / "shards", columns=columns, exclude=[f"{folder}/labels"]) == found[:1]
    images = [{"bytes": b"A", "path": "1.jpg"}, {"bytes": None, "path": "x/2.jpg"}]
    for number in range(2):
        pq.write_table(pa.table({"image": images, "label": [0, 1]}), tmp_path / f"{number} #.parquet")
    list_both_ways(f"{tmp_path}/*.parquet", tmp_path / "globbed")
    list_both_ways(f"file://{tmp_path}/0%20%23.parquet", tmp_path / "one")


def test_tars_are_the_same_photos_in_the_same_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = {
        "numbered": {"pets-1": ["b.jpg", "a.jpg", "a.cls"], "pets-0": ["d.jpg", "cat/c.jpg"]},
        "splits": {"train": ["cat/1.jpg"], "test": ["cat/1.jpg", "2.jpg"]},
        "classes": {"cat": ["1.jpg", "2.jpg"], "dog": ["1.jpg"], "x/cat": ["1.jpg"]},
        "folders": {"one": ["1.jpg", "2.jpg"], "two": ["cat/1.jpg", "dog/1.jpg"]},
    }
    places = {
        "numbered": ["cat/c.jpg", "d.jpg", "a.jpg", "b.jpg"],
        "splits": ["test/2.jpg", "test/cat/1.jpg", "train/cat/1.jpg"],
        "classes": ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "cat/1.jpg"],
        "folders": ["1.jpg", "2.jpg", "cat/1.jpg", "dog/1.jpg"],
    }
    for kind, tars in sets.items():
        for name, members in tars.items():
            write_tar(tmp_path / kind / f"{name}.tar", *members)
        capsys.readouterr()
        found = list_both_ways(str(tmp_path / kind), tmp_path / "shards" / kind)
        assert read_all(found)["relative"].to_pylist() == places[kind]
        said = f"{len(tars)} archives, {len(places[kind])} photos in them.\n"
        assert capsys.readouterr().out == 3 * said
        list_both_ways(f"{tmp_path}/{kind}/*.tar", tmp_path / "globbed" / kind)
        assert capsys.readouterr().out == ""


def test_an_archive_by_itself_is_the_same_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = ["b.jpg", "cat/1.jpg", ".hidden.jpg", "cat/2.jpg"]
    write_zip(tmp_path / "pets.zip", *members)
    write_tar(tmp_path / "pets.tar", *members)
    (tmp_path / "pets.tar.gz").write_bytes(gzip.compress((tmp_path / "pets.tar").read_bytes()))
    for name in ("pets.zip", "pets.tar", "pets.tar.gz"):
        found = list_both_ways(str(tmp_path / name), tmp_path / "shards" / name)
        assert read_all(found)["relative"].to_pylist() == ["b.jpg", "cat/1.jpg", "cat/2.jpg"]
    assert capsys.readouterr().out == ""


def test_zips_that_a_glob_matches_are_the_same_photos(tmp_path: Path) -> None:
    for number in range(3):
        write_zip(tmp_path / f"zips/{number}.zip", "b.jpg", f"cat/{number}.jpg")
    write_tar(tmp_path / "zips/3.tar", "c.jpg")
    list_both_ways(f"{tmp_path}/zips/*.zip", tmp_path / "shards")
    list_both_ways(f"{tmp_path}/zips/*", tmp_path / "shards")


def test_tars_that_nobody_opened_before_are_in_folders_of_their_names_where_none_of_them_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catdog.photos.sources.containers.packed._MAX_BYTES_PER_PHOTO", 1)
    for number, names in enumerate((["1.jpg"], ["cat/1.jpg"])):
        folder = tmp_path / str(number)
        write_tar(folder / "one.tar", "1.jpg")
        write_tar(folder / "two.tar", *names)
        assert left(str(folder), at_most=1).around is None
        list_both_ways(str(folder), tmp_path / "shards")


def test_the_files_of_a_task_are_cut_into_shards_of_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (packed_tasks, inputs_module):
        monkeypatch.setattr(module, "SHARD_ROWS", 4)
    for number in range(3):
        write_table(tmp_path / f"tables/{number}.parquet", "1", "2", "3")
        write_tar(tmp_path / f"tars/{number}.tar", *(f"{name}.jpg" for name in range(9)))
    for source, rows in (("tables", [4, 4, 1]), ("tars", [4, 4, 4, 4, 4, 4, 3])):
        packed = left(str(tmp_path / source), at_most=1)
        found = list_group(packed, False, [], str(tmp_path / "shards"))
        assert [shard.rows for shard in found.shards] == rows
        assert found.photos == sum(rows)
        assert read_all(found.shards).equals(list_inputs(str(tmp_path / source)))


def test_files_are_shared_out_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_tasks, "_BYTES_PER_TASK", 1000)
    monkeypatch.setattr(packed_tasks, "_BYTES_PER_FILE", 100)
    for name, size in (("a", 350), ("b", 450), ("c", 50), ("d", 5000), ("e", 0)):
        (tmp_path / f"{name}.parquet").write_bytes(bytes(size))
    monkeypatch.setattr("catdog.photos.sources.inputs.are_more_rows", lambda *_, **__: True)
    groups = packed_tasks._groups(left(str(tmp_path), at_most=1).files)
    assert ["".join(file.relative[0] for file in group) for group in groups] == ["ab", "c", "d", "e"]


def test_the_first_file_that_cannot_be_listed_is_told(tmp_path: Path) -> None:
    for name in ("a", "d"):
        write_table(tmp_path / f"{name}.parquet", "1", "2")
    for name in ("b", "c"):
        (tmp_path / f"{name}.parquet").write_bytes(b"<html>")
    more = MorePackedError(left(str(tmp_path), at_most=1))
    with pytest.raises(UsageError, match=r"^expected a Parquet file at .*/b.parquet, found a web page"):
        list_many(more, num_cpus=0.5)
    write_tar(tmp_path / "tars/a.tar", "1.jpg")
    write_tar(tmp_path / "tars/b.tar", "1.jpg")
    more = MorePackedError(left(str(tmp_path / "tars"), at_most=1))
    with pytest.raises(UsageError, match=r"^expected photos in .*/tars, found only what earlier jobs wrote there"):
        list_many(more, exclude=[str(tmp_path / "tars")], num_cpus=0.5)
