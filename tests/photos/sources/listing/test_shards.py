from pathlib import Path

import pyarrow as pa
import pytest

from catdog.errors import FailureError
from catdog.photos.sources.inputs import photo_table
from catdog.photos.sources.keys import Photo
from catdog.photos.sources.listing import shards
from catdog.photos.sources.listing.shards import SetDigest, cut_into_shards, read_all, write_shard


def inputs(*paths: str, version: str | None = "1") -> pa.Table:
    return photo_table([Photo(path, path, version) for path in paths])


def test_digests_of_sets_add_up_whatever_the_order() -> None:
    whole = SetDigest.of(inputs("a", "b", "c"))
    assert SetDigest.of(inputs("c")) + SetDigest.of(inputs("b", "a")) == whole
    assert SetDigest.total([]) == SetDigest()
    assert whole.to_json()["paths"] == "3738952c73a591f7943876ce346e132766d80bfb3a748e521e66cbd627e5391e"
    assert SetDigest.from_json(whole.to_json()) == whole
    assert SetDigest.of(inputs("a", "bc")).paths != SetDigest.of(inputs("ab", "c")).paths


def test_a_version_changes_only_the_digest_of_versions() -> None:
    first, second, none = (SetDigest.of(inputs("a", version=version)) for version in ("1", "2", None))
    assert first.paths == second.paths == none.paths
    assert len({first.versions, second.versions, none.versions}) == 3


def test_inputs_in_memory_are_cut_and_a_piece_holds_no_more_than_its_own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 100)
    whole = inputs(*(f"/photos/{number:04d}.jpg" for number in range(250)))
    found = cut_into_shards(whole)
    assert [(shard.first, shard.rows) for shard in found] == [
        ("/photos/0000.jpg", 100), ("/photos/0100.jpg", 100), ("/photos/0200.jpg", 50),
    ]  # fmt: skip
    assert read_all(found) == whole
    assert found[2].table.get_total_buffer_size() < whole.get_total_buffer_size() / 3
    assert SetDigest.total(shard.digest for shard in found) == SetDigest.of(whole)


def test_a_shard_in_a_file_is_known_by_its_first_path(tmp_path: Path) -> None:
    rows = inputs("/p/a.jpg", "/p/b.jpg")
    shard = write_shard(rows, str(tmp_path))
    assert (shard.first, shard.rows, shard.path) == ("/p/a.jpg", 2, f"{tmp_path}/{shard.name}.parquet")
    assert shard.read() == rows
    assert shard.name == write_shard(inputs("/p/a.jpg"), "").name
    Path(shard.path).unlink()
    with pytest.raises(FailureError, match="--out must be a folder that all machines share"):
        shard.read()
