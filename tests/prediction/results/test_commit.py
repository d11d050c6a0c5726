import itertools
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_results import commit_rows, write_rows
from object_store import ObjectStore

from catdog.errors import FailureError
from catdog.photos.sources.inputs import INPUTS, find_inputs
from catdog.photos.sources.listing.shards import SetDigest, Shard, cut_into_shards
from catdog.prediction.results import commit
from catdog.prediction.results.joining import Run, plan_files, write_file
from catdog.prediction.results.matching import Changes, find_changes
from catdog.prediction.results.parts import finished_parts, write_prediction_part
from catdog.prediction.results.restoring import restore_parts
from catdog.prediction.results.rows import LabelRule, build_rows
from catdog.storage.lease import Lease, hold_lease

TWO = LabelRule(classes=("cat", "dog"), threshold=0.0, top_k=1, models=1)


def rows_of(paths: list[str]) -> pa.Table:
    dog = np.random.default_rng(0).random(len(paths)).astype(np.float32)
    return build_rows(paths, [""] * len(paths), [np.stack([1 - dog, dog], axis=1)], TWO)


def paths_of(count: int) -> list[str]:
    return [f"/p/{index}.jpg" for index in range(count)]


def write_parts(out: Path | str, count: int) -> list[Run]:
    """Write the rows of `count` photos as parts of two photos each."""
    return write_rows(str(out), rows_of(paths_of(count)), photos_per_part=2, retried=1)


def write_one_file(out: Path | str, runs: list[Run], lease: Lease, *, format: str = "parquet") -> dict[str, Any]:
    staging = commit.staging_directory(str(out), owner=lease.owner)
    return write_file(str(out), staging, f"00000-{lease.owner}", runs, format=format, photos_per_part=2)


def commit_parts(out: Path | str, runs: list[Run], *, format: str = "parquet", replaces: bool = False) -> None:
    """Commit the parts of `runs` without Ray."""
    with hold_lease(str(out), flag="--out") as lease:
        manifest = {"format": format, "files": [write_one_file(out, runs, lease, format=format)]}
        commit.finish_commit(str(out), manifest, lease=lease, replaces=replaces)


def standing_parts(out: Path | str, runs: list[Run]) -> list[str]:
    """Return the numbers of the parts that exist."""
    found = finished_parts(str(out), runs[0].shard.name)
    return sorted(name.partition("-")[2].partition("-")[0].lstrip("0") or "0" for name in found)


def check_all(out: Path | str) -> SetDigest:
    manifest = commit.check_folder(str(out))
    return SetDigest.total(
        commit.check_file(str(out), entry, format=manifest["format"], rule=TWO) for entry in manifest["files"]
    )


def test_a_commit_joins_the_parts_in_order_and_drops_them(tmp_path: Path) -> None:
    runs = write_parts(tmp_path, 5)
    assert standing_parts(tmp_path, runs) == ["0", "1", "2"]
    assert not commit.is_committed(str(tmp_path))
    commit_parts(tmp_path, runs)
    assert commit.is_committed(str(tmp_path))
    assert pq.read_table(tmp_path / "predictions")["path"].to_pylist() == paths_of(5)
    names = sorted(path.name for path in (tmp_path / "predictions").iterdir())
    assert re.fullmatch(r"_INPUTS-00000-[0-9a-f]{8}", names[0])
    assert names[1:3] == ["_MANIFEST.json", "_SUCCESS"]
    assert re.fullmatch(r"predictions-00000-[0-9a-f]{8}\.parquet", names[3])
    assert len(names) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["predictions"]


def test_the_manifest_counts_labels_errors_and_retries(tmp_path: Path) -> None:
    rows = build_rows(["a", "b", "c"], ["", "empty: x", "empty: y"], [np.array([[0.0, 1.0]], np.float32)], TWO)
    runs = write_rows(str(tmp_path), rows, photos_per_part=2, retried=1)
    entry = write_file(str(tmp_path), str(tmp_path / "s"), "00000", runs, format="csv", photos_per_part=2)
    assert (entry["name"], entry["rows"], entry["labels"], entry["errors"], entry["retried"]) == (
        "predictions-00000.csv", 3, {"dog": 1}, {"empty": 2}, 2,
    )  # fmt: skip


def test_a_part_that_is_not_here_tells_of_shared_storage(tmp_path: Path) -> None:
    runs = write_parts(tmp_path, 2)
    shutil.rmtree(tmp_path / "parts")
    with pytest.raises(FailureError, match=r"part-0000000-\w+\.parquet cannot be read .* machines share"):
        write_file(str(tmp_path), str(tmp_path / "s"), "00000", runs, format="csv", photos_per_part=2)


def test_parts_of_other_photos_are_not_committed(tmp_path: Path) -> None:
    runs = write_parts(tmp_path, 2)
    (part,) = finished_parts(str(tmp_path), runs[0].shard.name)
    write_prediction_part(str(tmp_path), part, rows_of(["/q/0.jpg", "/q/1.jpg"]), retried=0)
    with pytest.raises(FailureError, match="do not match the photos"):
        write_file(str(tmp_path), str(tmp_path / "s"), "00000", runs, format="csv", photos_per_part=2)


def shard_of(name: str, rows: int) -> Shard:
    return Shard(first=name, digest=SetDigest(files=rows), path=f"/out/inputs/{name}.parquet")


def test_files_end_before_they_are_too_large_for_a_spreadsheet() -> None:
    def ranges(*shards: Shard) -> list[list[tuple[str, int, int]]]:
        planned = plan_files(shards, columns=6, photos_per_part=256)
        return [[(run.shard.first, run.start, run.stop) for run in runs] for runs in planned]

    assert ranges(shard_of("a", 600_000)) == [
        [("a", 0, 249_856)], [("a", 249_856, 499_712)], [("a", 499_712, 600_000)],
    ]  # fmt: skip
    assert ranges(shard_of("a", 100_000), shard_of("b", 100_000), shard_of("c", 60_000)) == [
        [("a", 0, 100_000), ("b", 0, 100_000)], [("c", 0, 60_000)],
    ]  # fmt: skip


@pytest.mark.parametrize("harm", ["missing", "additional", "changed", "inputs", "unfinished"])
def test_a_result_that_was_tampered_with_is_found_out(tmp_path: Path, harm: str) -> None:
    commit_parts(tmp_path, write_parts(tmp_path, 2), format="csv")
    (file,) = (tmp_path / "predictions").glob("*.csv")
    if harm == "missing":
        file.unlink()
    elif harm == "additional":
        (tmp_path / "predictions/extra.csv").write_text("x")
    elif harm == "changed":
        file.write_text(file.read_text().replace("cat", "dog"))
    elif harm == "inputs":
        (inputs,) = (tmp_path / "predictions").glob("_INPUTS-*")
        inputs.write_bytes(bytes(inputs.stat().st_size))
    else:
        (tmp_path / "predictions/_SUCCESS").unlink()
    words = {"additional": "does not belong", "unfinished": "not finished", "inputs": "changed"}.get(harm, harm)
    with pytest.raises(FailureError, match=words):
        check_all(tmp_path)


def test_an_untouched_result_passes(tmp_path: Path) -> None:
    commit_parts(tmp_path, write_parts(tmp_path, 4))
    assert check_all(tmp_path).files == 4
    (digest,) = [SetDigest.from_json(entry["digest"]) for entry in commit.check_folder(str(tmp_path))["files"]]
    assert check_all(tmp_path).paths == digest.paths
    (tmp_path / "predictions/predictions-00000-12345678.csv.12345678.part").write_text("of a killed write")
    check_all(tmp_path)
    commit.check_standing(str(tmp_path))
    next((tmp_path / "predictions").glob("*.parquet")).unlink()
    with pytest.raises(FailureError, match="is missing: label the photos again with --overwrite"):
        commit.check_standing(str(tmp_path))


def test_what_killed_commits_left_is_cleaned_and_nothing_else(tmp_path: Path) -> None:
    commit_parts(tmp_path, write_parts(tmp_path, 2))
    before = sorted(path.name for path in (tmp_path / "predictions").iterdir())
    (tmp_path / "predictions.12345678.part").mkdir()
    (tmp_path / "predictions.12345678.part/predictions-00000-12345678.csv").write_text("half")
    (tmp_path / "predictions/predictions-00000-12345678.csv").write_text("half")
    (tmp_path / "predictions/_INPUTS-00000-12345678").write_text("half")
    (tmp_path / "predictions/_INPUTS-12345678").write_text("of an earlier version")
    (tmp_path / "predictions/mine.csv").write_text("of the user")
    for half in ("predictions.part", "predict.json.12345678.part", ".catdog-lease-12345678.json.12345678.part"):
        (tmp_path / half).write_text("half")
    (tmp_path / "predictions.part.txt").write_text("of the user")
    commit.clean_staging(str(tmp_path))
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == sorted([*before, "mine.csv"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions", "predictions.part.txt"]


def test_a_committed_result_outlasts_the_commit_of_another_job(tmp_path: Path) -> None:
    runs = write_parts(tmp_path, 2)
    with hold_lease(str(tmp_path), flag="--out") as lease:
        entry = write_one_file(tmp_path, runs, lease)
        (tmp_path / "predictions").mkdir()  # as another job would
        (tmp_path / "predictions/_SUCCESS").write_text("")
        with pytest.raises(FailureError, match="another job finished"):
            commit.finish_commit(str(tmp_path), {"files": [entry]}, lease=lease, replaces=False)
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["_SUCCESS"]
    assert standing_parts(tmp_path, runs) == ["0"]


def test_no_success_is_written_where_a_file_is_missing(tmp_path: Path) -> None:
    runs = write_parts(tmp_path, 2)
    with hold_lease(str(tmp_path), flag="--out") as lease:
        entry = write_one_file(tmp_path, runs, lease)
        Path(commit.staging_directory(str(tmp_path), owner=lease.owner), entry["name"]).unlink()
        with pytest.raises(FailureError, match="is missing"):
            commit.finish_commit(str(tmp_path), {"files": [entry]}, lease=lease, replaces=False)
    assert not commit.is_committed(str(tmp_path))


def restore(out: Path, shards: list[Shard]) -> list[str]:
    restore_parts(str(out), shards, photos_per_part=2, rule=TWO, mapped=itertools.starmap)
    return sorted(name.partition("-")[2][6] for shard in shards for name in finished_parts(str(out), shard.name))


def test_a_result_that_is_replaced_stands_until_the_new_one_does(tmp_path: Path) -> None:
    runs = write_parts(tmp_path, 5)
    commit_parts(tmp_path, runs)
    assert restore(tmp_path, [run.shard for run in runs]) == ["0", "1", "2"]
    commit_parts(tmp_path, runs, replaces=True)
    assert len(list((tmp_path / "predictions").iterdir())) == 4
    assert pq.read_table(next((tmp_path / "predictions").glob("*.parquet")))["path"].to_pylist() == paths_of(5)


def listed(versions: dict[str, str | None]) -> pa.Table:
    """Return a listing of photos with these `versions`, by path."""
    paths = list(versions)
    return pa.table({**find_inputs(paths).to_pydict(), "version": [*versions.values()]}, schema=INPUTS)


@pytest.mark.parametrize("rows_per_file", [0, 2, 4])
def test_parts_of_photos_that_failed_or_changed_are_not_restored(tmp_path: Path, rows_per_file: int) -> None:
    probabilities = [np.full((7, 2), 0.5, np.float32)]
    rows = build_rows(paths_of(8), ["io: broken", *[""] * 7], probabilities, TWO)
    versions: dict[str, str | None] = dict.fromkeys(paths_of(8), "1")
    commit_rows(str(tmp_path), rows, inputs=listed(versions), rows_per_file=rows_per_file)
    versions |= {"/p/5.jpg": "2", "/p/7.jpg": None}  # without a version, a change cannot be noticed
    inputs = listed(versions)
    shards = [*cut_into_shards(inputs.slice(0, 6)), *cut_into_shards(inputs.slice(6))]
    assert find_changes(str(tmp_path), shards, itertools.starmap) == Changes(count=1, first="/p/5.jpg")
    assert find_changes(str(tmp_path), shards[::-1], itertools.starmap) == Changes(count=1, first="/p/5.jpg")
    assert restore(tmp_path, shards) == ["0", "1"]  # part 1 of the first shard, part 0 of the second


def test_rows_of_other_photos_are_not_restored(tmp_path: Path) -> None:
    commit_parts(tmp_path, write_parts(tmp_path, 4))
    assert restore(tmp_path, cut_into_shards(find_inputs([*paths_of(2), "/p/3.jpg", "/p/4.jpg"]))) == ["0"]


def test_a_result_knows_the_photos_that_it_was_made_of(tmp_path: Path) -> None:
    commit_parts(tmp_path, write_parts(tmp_path, 2))
    (inputs,) = commit.read_inputs(str(tmp_path))
    assert inputs.to_pydict() == {"path": paths_of(2), "version": [None, None]}
    assert commit.committed_digest(str(tmp_path)) == SetDigest.of(inputs)
    # Readers of a folder skip files whose names start with an underscore.
    assert pq.read_table(tmp_path / "predictions").num_rows == 2


def test_a_result_of_an_earlier_version_has_one_list_of_its_photos_or_none(tmp_path: Path) -> None:
    commit_parts(tmp_path, write_parts(tmp_path, 2))
    manifest = commit.read_result_manifest(str(tmp_path))
    (entry,) = manifest["files"]
    digest, inputs = entry.pop("digest"), entry.pop("inputs")
    written = tmp_path / "predictions/_MANIFEST.json"
    written.write_text(json.dumps({**manifest, "inputs": inputs}))
    assert commit.committed_digest(str(tmp_path)) == SetDigest.from_json(digest)
    assert check_all(tmp_path).files == 2
    written.write_text(json.dumps(manifest))
    assert commit.committed_digest(str(tmp_path)) is None


def test_everything_that_success_vouches_for_is_on_the_disk_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink()))
    commit_parts(tmp_path, write_parts(tmp_path, 2))
    names = [re.sub(r"\.[0-9a-f]{8}", "", path.name) for path in synced]
    assert [re.sub(r"-[0-9a-f]{8}", "", name) for name in names] == [
        "predictions-00000.parquet.part", "predictions.part", "_INPUTS-00000.part", "predictions.part",
        "_MANIFEST.json.part", "predictions.part",
        "_SUCCESS.part", "predictions.part", tmp_path.name,
    ]  # fmt: skip


def test_a_commit_on_an_object_store_ends_with_its_mark_and_leaves_nothing_else(object_store: ObjectStore) -> None:
    out = object_store.uri("commits/out")
    runs = write_parts(out, 5)
    object_store.put("commits/out/predictions/predictions-00000-12345678.parquet", b"of a commit that was killed")
    with hold_lease(out, flag="--out") as lease:
        assert commit.staging_directory(out, owner=lease.owner) == object_store.uri("commits/out/predictions")
    commit_parts(out, runs)
    assert commit.is_committed(out)
    names = object_store.keys("commits/out")
    assert [re.sub("-[0-9a-f]{8}", "", name) for name in names] == [
        "predictions/_INPUTS-00000", "predictions/_MANIFEST.json", "predictions/_SUCCESS",
        "predictions/predictions-00000.parquet",
    ]  # fmt: skip
    assert next(commit.read_rows(out, rule=TWO))["path"].to_pylist() == paths_of(5)
    commit_parts(out, write_parts(out, 5), replaces=True)
    after = object_store.keys("commits/out")
    assert len(after) == 4
    assert after != names
    assert check_all(out).files == 5
