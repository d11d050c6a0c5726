from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog.errors import FailureError
from catdog.prediction import commit
from catdog.prediction.rows import LabelRule, build_rows
from catdog.storage import files

TWO = LabelRule(classes=("cat", "dog"), threshold=0.0, top_k=1, models=1)


def rows_of(paths: list[str]) -> pa.Table:
    dog = np.random.default_rng(0).random(len(paths)).astype(np.float32)
    return build_rows(paths, [""] * len(paths), [np.stack([1 - dog, dog], axis=1)], TWO)


def write_parts(out: Path, counts: list[int]) -> list[str]:
    paths = [f"/p/{index}.jpg" for index in range(sum(counts))]
    start = 0
    for part, count in enumerate(counts):
        commit.write_prediction_part(str(out), part, rows_of(paths[start : start + count]), retried=part)
        start += count
    return paths


def commit_parts(out: Path, counts: list[int], *, format: str = "parquet") -> None:
    runs = commit.plan_files(counts, columns=6)
    staging = commit.staging_directory(str(out))
    entries = [commit.write_file(str(out), staging, number, run, format=format) for number, run in enumerate(runs)]
    commit.finish_commit(str(out), {"format": format, "files": entries})


def test_parts_are_known_by_their_numbers(tmp_path: Path) -> None:
    assert commit.finished_parts(str(tmp_path)) == set()
    write_parts(tmp_path, [2, 3])
    (tmp_path / "parts/part-0000007.parquet.1234abcd.part").write_bytes(b"half")
    assert commit.finished_parts(str(tmp_path)) == {0, 1}


def test_a_commit_joins_the_parts_in_order_and_drops_them(tmp_path: Path) -> None:
    paths = write_parts(tmp_path, [2, 3, 1])
    assert not commit.is_committed(str(tmp_path))
    commit_parts(tmp_path, [2, 3, 1])
    assert commit.is_committed(str(tmp_path))
    assert pq.read_table(tmp_path / "predictions")["path"].to_pylist() == paths
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == [
        "_MANIFEST.json", "_SUCCESS", "predictions-00000.parquet",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["predictions"]


def test_the_manifest_counts_labels_errors_and_retries(tmp_path: Path) -> None:
    rows = build_rows(["a", "b", "c"], ["", "empty: x", "empty: y"], [np.array([[0.0, 1.0]], np.float32)], TWO)
    commit.write_prediction_part(str(tmp_path), 0, rows, retried=2)
    entry = commit.write_file(str(tmp_path), str(tmp_path / "s"), 0, range(1), format="csv")
    assert (entry["name"], entry["rows"], entry["labels"], entry["errors"], entry["retried"]) == (
        "predictions-00000.csv", 3, {"dog": 1}, {"empty": 2}, 2,
    )  # fmt: skip


def test_a_part_that_is_not_here_tells_of_shared_storage(tmp_path: Path) -> None:
    with pytest.raises(FailureError, match=r"part-0000000\.parquet cannot be read .* machines share"):
        commit.write_file(str(tmp_path), str(tmp_path / "s"), 0, range(1), format="csv")


def test_files_end_before_they_are_too_large_for_a_spreadsheet() -> None:
    runs = commit.plan_files([256] * 4000, columns=6)
    assert [len(run) for run in runs] == [976, 976, 976, 976, 96]
    assert [part for run in runs for part in run] == list(range(4000))


@pytest.mark.parametrize("harm", ["missing", "additional", "changed", "unfinished"])
def test_a_result_that_was_tampered_with_is_found_out(tmp_path: Path, harm: str) -> None:
    write_parts(tmp_path, [2])
    commit_parts(tmp_path, [2], format="csv")
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
        commit.check_files(str(tmp_path))


def test_an_untouched_result_passes(tmp_path: Path) -> None:
    write_parts(tmp_path, [2, 2])
    commit_parts(tmp_path, [2, 2])
    assert commit.check_files(str(tmp_path))["files"][0]["rows"] == 4


def test_a_commit_on_an_object_store_ends_with_its_mark(tmp_path: Path) -> None:
    out = f"file://{tmp_path}/out"
    commit.write_prediction_part(out, 0, rows_of(["a"]), retried=0)
    staging = commit.staging_directory(out)
    assert staging == files.join(out, "predictions")
    entry = commit.write_file(out, staging, 0, range(1), format="json")
    assert not commit.is_committed(out)
    commit.finish_commit(out, {"format": "json", "files": [entry]})
    assert commit.is_committed(out)
    assert next(commit.read_rows(out, rule=TWO))["path"].to_pylist() == ["a"]
