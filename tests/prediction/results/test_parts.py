from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from catdog.photos.sources.listing.shards import SetDigest, Shard
from catdog.prediction.results import parts
from catdog.prediction.results.parts import Part, plan_parts
from catdog.prediction.results.rows import LabelRule, build_rows

TWO = LabelRule(classes=("cat", "dog"), threshold=0.0, top_k=1, models=1)


def inputs(paths: list[str], versions: list[str]) -> pa.Table:
    nothing, numbers = pa.nulls(len(paths), pa.string()), pa.nulls(len(paths), pa.int32())
    columns = {"path": paths, "relative": paths, "table": nothing, "row_group": numbers, "row": numbers}
    return pa.table({**columns, "version": versions})


def test_a_part_is_named_by_its_number_and_what_its_photos_are() -> None:
    first = plan_parts(inputs(["a", "b", "c"], ["1", "2", "3"]), shard="s", photos_per_part=2)
    assert first == [
        Part(name="s/part-0000000-37664b19301f4651.parquet", start=0, stop=2),
        Part(name="s/part-0000001-5291763509c7d077.parquet", start=2, stop=3),
    ]
    second = plan_parts(inputs(["a", "b", "c"], ["1", "2", "4"]), shard="s", photos_per_part=2)
    assert second[0] == first[0]
    assert second[1].name != first[1].name


def test_parts_are_known_by_their_names(tmp_path: Path) -> None:
    assert parts.finished_parts(str(tmp_path), "s") == set()
    rows = build_rows(["a"], [""], [np.full((1, 2), 0.5, np.float32)], TWO)
    parts.write_prediction_part(str(tmp_path), "s/part-0000000-12345678.parquet", rows, retried=3)
    parts.write_prediction_part(str(tmp_path), "t/part-0000000-12345678.parquet", rows, retried=0)
    (tmp_path / "parts/s/part-0000007-12345678.parquet.1234abcd.part").write_bytes(b"half")
    assert parts.finished_parts(str(tmp_path), "s") == {"s/part-0000000-12345678.parquet"}
    found, retried = parts.read_prediction_part(str(tmp_path), "s/part-0000000-12345678.parquet")
    assert (found, retried) == (rows, 3)


@pytest.mark.parametrize(
    ("error", "passing"),
    [("io: refused", True), ("missing: no such file", True), ("truncated: cut", False), ("", False)],
)
def test_faults_of_the_world_may_pass_and_those_of_a_photo_do_not(error: str, passing: bool, tmp_path: Path) -> None:
    rows = build_rows(["a"], [error], [np.full((0 if error else 1, 2), 0.5, np.float32)], TWO)
    assert parts.has_passing_errors(rows) is passing
    shard = Shard(first="a", digest=SetDigest(files=1))
    name = f"{shard.name}/part-0.parquet"
    parts.write_prediction_part(str(tmp_path), name, rows, retried=0)
    parts.drop_parts_with_passing_errors(str(tmp_path), shard)
    assert parts.finished_parts(str(tmp_path), shard.name) == (set() if passing else {name})
