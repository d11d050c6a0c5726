import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_store import ObjectStore

from catdog.errors import FailureError
from catdog.prediction.results import commit
from catdog.prediction.results.parts import Part, finished_parts, has_passing_errors, write_prediction_part
from catdog.prediction.results.rows import LabelRule, build_rows
from catdog.storage.lease import hold_lease

TWO = LabelRule(classes=("cat", "dog"), threshold=0.0, top_k=1, models=1)


def rows_of(paths: list[str]) -> pa.Table:
    dog = np.random.default_rng(0).random(len(paths)).astype(np.float32)
    return build_rows(paths, [""] * len(paths), [np.stack([1 - dog, dog], axis=1)], TWO)


def write_parts(out: Path | str, counts: list[int]) -> tuple[list[Part], list[str]]:
    """Write a part of each of `counts` rows; return the parts and the paths of their photos."""
    parts, start = [], 0
    for number, count in enumerate(counts):
        parts.append(Part(name=f"part-{number}-00000000.parquet", start=start, stop=start + count))
        paths = [f"/p/{index}.jpg" for index in range(start, start + count)]
        write_prediction_part(str(out), parts[-1].name, rows_of(paths), retried=number)
        start += count
    return parts, [f"/p/{index}.jpg" for index in range(start)]


def commit_parts(out: Path | str, parts: list[Part], *, format: str = "parquet", replaces: bool = False) -> None:
    """Commit `parts` without Ray."""
    with hold_lease(str(out), flag="--out") as lease:
        staging = commit.staging_directory(str(out), owner=lease.owner)
        entries = [
            commit.write_file(
                str(out), staging, f"predictions-{number:05d}-{lease.owner}", [part.name for part in run], format=format
            )
            for number, run in enumerate(commit.plan_files(parts, columns=6))
        ]
        manifest = {"format": format, "files": entries}
        commit.finish_commit(str(out), manifest, lease=lease, replaces=replaces)


def test_a_commit_joins_the_parts_in_order_and_drops_them(tmp_path: Path) -> None:
    parts, paths = write_parts(tmp_path, [2, 3, 1])
    assert not commit.is_committed(str(tmp_path))
    commit_parts(tmp_path, parts)
    assert commit.is_committed(str(tmp_path))
    assert pq.read_table(tmp_path / "predictions")["path"].to_pylist() == paths
    names = sorted(path.name for path in (tmp_path / "predictions").iterdir())
    assert names[:2] == ["_MANIFEST.json", "_SUCCESS"]
    assert re.fullmatch(r"predictions-00000-[0-9a-f]{8}\.parquet", names[2])
    assert len(names) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["predictions"]


def test_the_manifest_counts_labels_errors_and_retries(tmp_path: Path) -> None:
    rows = build_rows(["a", "b", "c"], ["", "empty: x", "empty: y"], [np.array([[0.0, 1.0]], np.float32)], TWO)
    write_prediction_part(str(tmp_path), "part-0.parquet", rows, retried=2)
    entry = commit.write_file(str(tmp_path), str(tmp_path / "s"), "predictions-00000", ["part-0.parquet"], format="csv")
    assert (entry["name"], entry["rows"], entry["labels"], entry["errors"], entry["retried"]) == (
        "predictions-00000.csv", 3, {"dog": 1}, {"empty": 2}, 2,
    )  # fmt: skip


def test_a_part_that_is_not_here_tells_of_shared_storage(tmp_path: Path) -> None:
    with pytest.raises(FailureError, match=r"part-0\.parquet cannot be read .* machines share"):
        commit.write_file(str(tmp_path), str(tmp_path / "s"), "predictions-00000", ["part-0.parquet"], format="csv")


def test_files_end_before_they_are_too_large_for_a_spreadsheet() -> None:
    parts = [Part(name=f"{number}", start=256 * number, stop=256 * (number + 1)) for number in range(4000)]
    runs = commit.plan_files(parts, columns=6)
    assert [len(run) for run in runs] == [976, 976, 976, 976, 96]
    assert [part for run in runs for part in run] == parts


@pytest.mark.parametrize("harm", ["missing", "additional", "changed", "unfinished"])
def test_a_result_that_was_tampered_with_is_found_out(tmp_path: Path, harm: str) -> None:
    commit_parts(tmp_path, write_parts(tmp_path, [2])[0], format="csv")
    (file,) = (tmp_path / "predictions").glob("*.csv")
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
    commit_parts(tmp_path, write_parts(tmp_path, [2, 2])[0])
    assert commit.check_files(str(tmp_path))["files"][0]["rows"] == 4
    (tmp_path / "predictions/predictions-00000-12345678.csv.12345678.part").write_text("of a killed write")
    commit.check_files(str(tmp_path))
    commit.check_standing(str(tmp_path))
    next((tmp_path / "predictions").glob("*.parquet")).unlink()
    with pytest.raises(FailureError, match="is missing: label the photos again with --overwrite"):
        commit.check_standing(str(tmp_path))


def test_what_killed_commits_left_is_cleaned_and_nothing_else(tmp_path: Path) -> None:
    commit_parts(tmp_path, write_parts(tmp_path, [2])[0])
    before = sorted(path.name for path in (tmp_path / "predictions").iterdir())
    (tmp_path / "predictions.12345678.part").mkdir()
    (tmp_path / "predictions.12345678.part/predictions-00000-12345678.csv").write_text("half")
    (tmp_path / "predictions/predictions-00000-12345678.csv").write_text("half")
    (tmp_path / "predictions/mine.csv").write_text("of the user")
    for half in ("predictions.part", "predict.json.12345678.part", ".catdog-lease-12345678.json.12345678.part"):
        (tmp_path / half).write_text("half")
    (tmp_path / "predictions.part.txt").write_text("of the user")
    commit.clean_staging(str(tmp_path))
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == sorted([*before, "mine.csv"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions", "predictions.part.txt"]


def test_a_committed_result_outlasts_the_commit_of_another_job(tmp_path: Path) -> None:
    parts, _ = write_parts(tmp_path, [2])
    with hold_lease(str(tmp_path), flag="--out") as lease:
        staging = commit.staging_directory(str(tmp_path), owner=lease.owner)
        entry = commit.write_file(str(tmp_path), staging, "predictions-00000-slow", [parts[0].name], format="parquet")
        (tmp_path / "predictions").mkdir()  # as the other job does
        (tmp_path / "predictions/_SUCCESS").write_text("")
        with pytest.raises(FailureError, match="another job has finished"):
            commit.finish_commit(str(tmp_path), {"files": [entry]}, lease=lease, replaces=False)
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["_SUCCESS"]
    assert finished_parts(str(tmp_path)) == {parts[0].name}


def test_no_success_is_written_where_a_file_is_missing(tmp_path: Path) -> None:
    parts, _ = write_parts(tmp_path, [2])
    with hold_lease(str(tmp_path), flag="--out") as lease:
        staging = commit.staging_directory(str(tmp_path), owner=lease.owner)
        entry = commit.write_file(str(tmp_path), staging, "predictions-00000-x", [parts[0].name], format="parquet")
        Path(staging, entry["name"]).unlink()
        with pytest.raises(FailureError, match="is missing"):
            commit.finish_commit(str(tmp_path), {"files": [entry]}, lease=lease, replaces=False)
    assert not commit.is_committed(str(tmp_path))


def test_a_result_that_is_replaced_stands_until_the_new_one_does(tmp_path: Path) -> None:
    parts, paths = write_parts(tmp_path, [2, 3])
    commit_parts(tmp_path, parts)
    bad = build_rows(paths[2:], ["io: broken", *[""] * 2], [np.full((2, 2), 0.5, np.float32)], TWO)
    assert has_passing_errors(bad)
    commit.restore_parts(str(tmp_path), parts, rule=TWO, changed=[])
    assert finished_parts(str(tmp_path)) == {part.name for part in parts}
    commit_parts(tmp_path, parts, replaces=True)
    assert len(list((tmp_path / "predictions").iterdir())) == 3
    assert pq.read_table(next((tmp_path / "predictions").glob("*.parquet")))["path"].to_pylist() == paths


def test_parts_of_photos_that_failed_or_changed_are_not_restored(tmp_path: Path) -> None:
    parts, paths = write_parts(tmp_path, [2, 2, 2])
    rows = build_rows(paths[:2], ["io: broken", ""], [np.full((1, 2), 0.5, np.float32)], TWO)
    write_prediction_part(str(tmp_path), parts[0].name, rows, retried=0)
    commit_parts(tmp_path, parts)
    commit.restore_parts(str(tmp_path), parts, rule=TWO, changed=[paths[5]])
    assert finished_parts(str(tmp_path)) == {parts[1].name}


def test_a_result_knows_the_photos_that_it_was_made_of(tmp_path: Path) -> None:
    parts, _ = write_parts(tmp_path, [2])
    commit_parts(tmp_path, parts)
    assert commit.read_inputs(str(tmp_path)) is None  # as in results of earlier versions
    inputs = pa.table({"path": ["a", "b"], "version": ["1", None], "row": [1, 2]})
    entry = commit.write_inputs(str(tmp_path), inputs, owner="12345678")
    manifest = {**commit.read_result_manifest(str(tmp_path)), "inputs": entry}
    (tmp_path / "predictions/_MANIFEST.json").write_text(json.dumps(manifest))
    assert commit.check_files(str(tmp_path)) == manifest
    found = commit.read_inputs(str(tmp_path))
    assert found is not None
    assert found.to_pydict() == {"path": ["a", "b"], "version": ["1", None]}
    assert (
        pq.read_table(tmp_path / "predictions").num_rows == 2
    )  # readers of a folder leave out names with an underscore


def test_everything_that_success_vouches_for_is_on_the_disk_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink()))
    commit_parts(tmp_path, write_parts(tmp_path, [2])[0])
    names = [re.sub(r"\.[0-9a-f]{8}", "", path.name) for path in synced]
    assert [re.sub(r"-[0-9a-f]{8}", "", name) for name in names] == [
        "predictions-00000.parquet.part", "predictions.part", "_MANIFEST.json.part", "predictions.part",
        "_SUCCESS.part", "predictions.part", tmp_path.name,
    ]  # fmt: skip


def test_a_commit_on_an_object_store_ends_with_its_mark_and_leaves_nothing_else(object_store: ObjectStore) -> None:
    out = object_store.uri("commits/out")
    parts, paths = write_parts(out, [2, 3])
    object_store.put("commits/out/predictions/predictions-00000-12345678.parquet", b"of a commit that was killed")
    with hold_lease(out, flag="--out") as lease:
        assert commit.staging_directory(out, owner=lease.owner) == object_store.uri("commits/out/predictions")
    commit_parts(out, parts)
    assert commit.is_committed(out)
    names = object_store.keys("commits/out")
    assert [re.sub("-[0-9a-f]{8}", "", name) for name in names] == [
        "predictions/_MANIFEST.json", "predictions/_SUCCESS", "predictions/predictions-00000.parquet",
    ]  # fmt: skip
    assert next(commit.read_rows(out, rule=TWO))["path"].to_pylist() == paths
    commit_parts(out, write_parts(out, [2, 3])[0], replaces=True)
    after = object_store.keys("commits/out")
    assert len(after) == 3
    assert after != names
    assert commit.check_files(out)["files"][0]["rows"] == 5
