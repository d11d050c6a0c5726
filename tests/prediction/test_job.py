"""The predict job on the shared Ray. Many tests work on copies of the results of one finished job."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from heard import heard
from made_photos import draw_photo, save_classifier
from object_store import ObjectStore

from catdog.__main__ import JOBS
from catdog.command_line.arguments import parse_arguments
from catdog.command_line.settings import build_config
from catdog.config import PredictConfig
from catdog.errors import BadPhotosError, FailureError, UsageError
from catdog.model.engines import EngineSpec, read_model
from catdog.photos.decoding import formats
from catdog.photos.decoding.decode import decode_image
from catdog.photos.sources import settling
from catdog.photos.sources.files import list_photos
from catdog.photos.sources.inputs import list_inputs
from catdog.photos.sources.listing import packed_tasks
from catdog.prediction import job as inference
from catdog.prediction import output, request
from catdog.prediction.labelling import driver
from catdog.prediction.request import Inputs, read_request
from catdog.prediction.results import proof
from catdog.prediction.results.parts import Part, plan_parts, write_prediction_part
from catdog.storage.lease import hold_lease
from catdog.storage.schemas import prediction_schema

SAID: list[str] = []
RESULTS = [".catdog.json", "predict.json", "predictions", "summary.json"]
SIZE = 64  # pixels per side; the tests here do not depend on it


def draw_folder(folder: Path) -> Path:
    """Draw 3 reddish cats and 3 bluish dogs, and write one file that is not a photo."""
    for index in range(3):
        draw_photo(folder / f"cat/{index}.jpg", seed=index, colour=(190, 90, 60))
        draw_photo(folder / f"dog/{index}.jpg", seed=50 + index, colour=(60, 90, 190))
    (folder / "dog/notes.txt").write_text("not a photo")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return draw_folder(tmp_path / "photos")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("model"), seed=0, image_size=SIZE)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("other"), seed=11, image_size=SIZE)


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished job: its photos, which no test changes, its results, its summary and its console lines."""

    photos: Path
    out: Path
    summary: dict[str, Any]
    said: tuple[str, ...]

    def copy(self, tmp_path: Path) -> Path:
        """Return a copy of the results, which a test may change."""
        shutil.copytree(self.out, tmp_path / "labels")
        return tmp_path / "labels"


@pytest.fixture(scope="module")
def finished(ray_session: None, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    place = tmp_path_factory.mktemp("finished")
    summary = predict(draw_folder(place / "photos"), place / "labels", model)
    return Finished(place / "photos", place / "labels", summary, tuple(SAID))


def predict(photos: Path | str, out: Path | str, *models: Path, **settings: Any) -> dict[str, Any]:
    SAID.clear()
    values = {"photos": str(photos), "out": str(out), "model": tuple(map(str, models)), "report": False, **settings}
    return heard(SAID, inference.predict, build_config(PredictConfig, values))


def rows_of(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out / "predictions").to_pylist()


def parts_of(photos: Path, out: Path, model: Path) -> list[Part]:
    """Return the parts into which a job with these settings is cut."""
    values = {"photos": str(photos), "out": str(out), "model": (str(model),)}
    inputs = Inputs(read_request(build_config(PredictConfig, values)))
    (shard,) = heard([], lambda: inputs.shards)
    return plan_parts(shard.read(), shard=shard.name, photos_per_part=inputs.photos_per_part)


# What is written


def test_each_file_is_one_row_with_the_probabilities_of_the_model(finished: Finished, model: Path) -> None:
    rows = rows_of(finished.out)
    assert [row["path"] for row in rows] == sorted(str(path) for path in finished.photos.rglob("*.*"))
    good = [row for row in rows if not row["error"]]
    images = np.stack([decode_image(Path(row["path"]).read_bytes(), size=SIZE) for row in good])
    wanted = EngineSpec(model=read_model(str(model)), engine="openvino").load(batch_size=32, threads=2)(images)
    np.testing.assert_allclose([[row["p_cat"], row["p_dog"]] for row in good], wanted, atol=1e-5)
    assert [row["label"] for row in good] == [("cat", "dog")[label] for label in wanted.argmax(axis=1)]
    assert [row["probability"] for row in good] == pytest.approx(wanted.max(axis=1).tolist(), abs=1e-5)
    (bad,) = [row for row in rows if row["error"]]
    assert (bad["label"], bad["error"][:13]) == (None, "not-an-image:")


def test_the_summary_counts_what_was_labelled(finished: Finished) -> None:
    assert sorted(path.name for path in finished.out.iterdir()) == RESULTS
    stored = json.loads((finished.out / "summary.json").read_text())
    assert stored == finished.summary
    assert (stored["photos"], sum(stored["labels"].values()), stored["errors"]) == (7, 6, {"not-an-image": 1})
    assert stored["io"] == {"failed": 0, "recovered": 0}
    assert (stored["engine"], stored["labelled_now"]) == ("openvino", 7)
    assert f"Predictions: {finished.out}/predictions" in finished.said
    assert any(line.startswith("7 photos in ") and line.endswith("photos/s") for line in finished.said)


@pytest.mark.usefixtures("ray_session")
def test_a_member_of_a_zip_is_labelled_whatever_its_name(model: Path, tmp_path: Path) -> None:
    name = 'deep/=1+2, "x"\n.jpg'
    draw_photo(tmp_path / "0.jpg", seed=0, colour=(1, 2, 3))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "0.jpg", name)
    predict(tmp_path / "x.zip", tmp_path / "zipped", model, format="csv", threshold=0.99)
    (file,) = (tmp_path / "zipped/predictions").glob("*.csv")
    options = pa.csv.ParseOptions(newlines_in_values=True)
    (row,) = pa.csv.read_csv(file, parse_options=options).to_pylist()
    assert (row["path"], row["label"], row["error"]) == (f"{tmp_path}/x.zip!{name}", "unsure", None)


@pytest.mark.usefixtures("ray_session")
def test_many_photos_are_listed_by_tasks_and_the_driver_holds_no_rows(
    folder: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "MAX_IN_ONE_PROCESS", 5)
    monkeypatch.setattr(proof, "MAX_IN_ONE_PROCESS", 5)
    monkeypatch.setattr(proof, "_MAX_ROWS_IN_ONE_PROCESS", 5)
    out = tmp_path / "labels"
    predict(folder, out, model, evaluate=True)
    assert f"Found 7 files in {folder}." in SAID
    assert sorted(path.name for path in out.iterdir()) == sorted([*RESULTS, "evaluation.json"])
    assert sorted(row["path"] for row in rows_of(out)) == sorted(str(path) for path in folder.rglob("*.*"))
    heard(SAID, proof.verify, str(out))
    assert SAID[-1] == f"{folder} still holds the same photos (7 files)."
    predict(folder, out, model)
    assert f"Nothing to label: {out}/predictions is finished. --overwrite labels all photos again." in SAID
    draw_photo(folder / "cat/2.jpg", seed=77, colour=(10, 200, 10))
    with pytest.raises(FailureError, match=r"1 photo changed, such as .*/cat/2\.jpg; --overwrite"):
        proof.verify(str(out))
    before = rows_of(out)
    predict(folder, out, model, retry_errors=True)
    assert [row["path"] for row, old in zip(rows_of(out), before, strict=True) if row != old] == [f"{folder}/cat/2.jpg"]
    assert sorted(path.name for path in out.iterdir()) == RESULTS


def pack(photos: Path, folder: Path, kind: str) -> None:
    """Put `photos` into two Parquet files or tars below `folder`."""
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.*"))
    folder.mkdir(exist_ok=True)
    for number, some in enumerate((names[:4], names[4:])):
        file = folder / f"pets-{number}.{kind}"
        if kind == "parquet":
            pq.write_table(pa.table({"path": some, "bytes": [(photos / name).read_bytes() for name in some]}), file)
        else:
            with tarfile.open(file, "w") as archive:
                for name in some:
                    archive.add(photos / name, name)


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_many_photos_in_tables_or_tars_are_listed_by_tasks_too(
    kind: str, finished: Finished, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise FailureError("killed")

    for module in (request, proof):
        monkeypatch.setattr(module, "MAX_IN_ONE_PROCESS", 5)
    monkeypatch.setattr(packed_tasks, "_BYTES_PER_TASK", 1)  # one task per file
    photos, out = tmp_path / "packed", tmp_path / "labels"
    pack(finished.photos, photos, kind)
    join = inference.join_parts
    monkeypatch.setattr(inference, "join_parts", refuse)
    with pytest.raises(FailureError, match="killed"):
        predict(photos, out, model)
    monkeypatch.setattr(inference, "join_parts", join)
    assert len(list((out / "parts").iterdir())) == 2
    sort_into = str(tmp_path / "sorted") if kind == "tar" else ""  # rows of tables are not sorted
    predict(photos, out, model, evaluate=True, sort_into=sort_into)
    assert {f"Found 7 files in {photos}.", "Resuming: 7 of 7 photos are labelled already."} <= {*SAID}
    listed, wanted = list_inputs(str(photos))["path"].to_pylist(), rows_of(finished.out)
    assert rows_of(out) == [{**row, "path": path} for row, path in zip(wanted, listed, strict=True)]
    assert json.loads((out / "evaluation.json").read_text())["models"][0]["photos"] == 6
    assert sum(path.is_file() for path in (tmp_path / "sorted").rglob("[!.]*")) == (7 if sort_into else 0)
    heard(SAID, proof.verify, str(out))
    assert SAID[-1] == f"{photos} still holds the same photos (7 files)."
    pack(finished.photos, photos, kind)
    with pytest.raises(FailureError, match=r"7 photos changed, such as .*/pets-0\.\w+!cat/0\.jpg; --overwrite"):
        proof.verify(str(out))
    assert predict(photos, out, model, retry_errors=True)["labelled_now"] == 7
    assert rows_of(out) == [{**row, "path": path} for row, path in zip(wanted, listed, strict=True)]


# The same command again


def test_a_finished_job_does_nothing_and_another_one_is_refused(
    finished: Finished, model: Path, other: Path, tmp_path: Path
) -> None:
    out = finished.copy(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (out / "predictions").iterdir()}
    predict(finished.photos, out, model)
    assert f"Nothing to label: {out}/predictions is finished. --overwrite labels all photos again." in SAID
    with pytest.raises(UsageError, match=r"threshold was 0\.0, is now 0\.9.*another --out, or --overwrite"):
        predict(finished.photos, out, model, threshold=0.9)
    with pytest.raises(UsageError, match=r"model was \[\"\w+\"\], is now \[\"\w+\"\]"):
        predict(finished.photos, out, other)
    with pytest.raises(UsageError, match=r'inputs was {"files": 7, .*}, is now {"files": 3, '):
        predict(finished.photos / "cat/*.jpg", out, model)
    assert {path: path.stat().st_mtime_ns for path in (out / "predictions").iterdir()} == before


def test_another_job_replaces_a_finished_one_on_request(finished: Finished, model: Path, tmp_path: Path) -> None:
    out = finished.copy(tmp_path)
    (file,) = (out / "predictions").glob("*.parquet")
    predict(finished.photos / "cat/*.jpg", out, model, threshold=0.9, overwrite=True)
    assert not file.exists()
    assert len(rows_of(out)) == 3
    assert sorted(path.name for path in out.iterdir()) == RESULTS


def test_a_commit_that_was_killed_is_made_again(finished: Finished, model: Path, tmp_path: Path) -> None:
    out = finished.copy(tmp_path)
    table = pq.read_table(out / "predictions")
    (part,) = parts_of(finished.photos, out, model)
    write_prediction_part(str(out), part.name, table, retried=0)
    write_prediction_part(str(out), "part-0000000-00000000.parquet", table.slice(0, 3), retried=0)  # of other photos
    shutil.rmtree(out / "predictions")
    (out / "predictions.12345678.part").mkdir()
    (out / "predictions.12345678.part/predictions-00000-12345678.parquet").write_bytes(b"half")
    assert predict(finished.photos, out, model)["labelled_now"] == 0
    assert "Resuming: 7 of 7 photos are labelled already." in SAID
    assert pq.read_table(out / "predictions") == table
    assert sorted(path.name for path in out.iterdir()) == RESULTS
    heard(SAID, proof.verify, str(out))


@pytest.mark.usefixtures("ray_session")
def test_faults_that_may_have_passed_are_labelled_again_on_request(folder: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    (tmp_path / "list.txt").write_text("photos/cat/0.jpg\nphotos/cat/late.jpg\n")
    predict(tmp_path / "list.txt", out, model)
    assert [row["error"] for row in rows_of(out)] == [None, "missing: no such file"]
    draw_photo(folder / "cat/late.jpg", seed=5, colour=(190, 90, 60))
    predict(tmp_path / "list.txt", out, model)
    assert SAID[1].startswith("Nothing to label")
    summary = predict(tmp_path / "list.txt", out, model, retry_errors=True)
    assert [row["error"] for row in rows_of(out)] == [None, None]
    assert summary["errors"] == {}
    heard(SAID, proof.verify, str(out))


# Folders that are not ours, and two jobs at the same time


@pytest.mark.parametrize("flag", ["--out", "--sort-into"])
def test_a_folder_that_is_not_ours_is_refused_before_anything_is_written(
    flag: str, folder: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine/parts").mkdir(parents=True)
    (tmp_path / "mine/parts/mine.step").write_text("x")
    (tmp_path / "mine/summary.json").write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    places = {"out": tmp_path / "labels", flag.strip("-").replace("-", "_"): tmp_path / "mine"}
    values = {name: str(place) for name, place in places.items()}
    config = build_config(PredictConfig, {"photos": str(folder), "model": (str(model),), **values})
    with pytest.raises(UsageError, match=rf"^{flag} .*/mine: expected a new or empty folder or .*, found 2 entries"):
        inference.predict(config)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_second_job_on_a_folder_is_refused_while_the_first_is_at_work(
    folder: Path, model: Path, tmp_path: Path
) -> None:
    with hold_lease(str(tmp_path / "labels"), flag="--out"), pytest.raises(UsageError, match="another job is using it"):
        predict(folder, tmp_path / "labels", model)


def test_a_finished_result_with_a_file_missing_is_not_called_finished(
    finished: Finished, model: Path, tmp_path: Path
) -> None:
    out = finished.copy(tmp_path)
    next((out / "predictions").glob("*.parquet")).unlink()
    with pytest.raises(FailureError, match="is missing: label the photos again with --overwrite"):
        predict(finished.photos, out, model)


@pytest.mark.usefixtures("ray_session")
def test_an_object_store_that_is_busy_now_and_then_gives_and_takes_everything(
    folder: Path, model: Path, object_store: ObjectStore
) -> None:
    object_store.put_folder("job/photos", folder)
    photos, out = object_store.uri("job/photos"), object_store.uri("job/labels")
    with object_store.busy():
        summary = predict(photos, out, model, format="csv", report=True)
    assert (summary["photos"], sum(summary["labels"].values()), summary["errors"]) == (7, 6, {"not-an-image": 1})
    names = [name.partition("-")[0] for name in object_store.keys("job/labels")]
    assert names == [
        ".catdog.json", "predict.json", "predictions/_INPUTS", "predictions/_MANIFEST.json", "predictions/_SUCCESS",
        "predictions/predictions", "report.html", "summary.json",
    ]  # fmt: skip
    heard(SAID, proof.verify, out)
    predict(photos, out, model, format="csv", report=True)
    assert SAID[1].startswith("Nothing to label")


@pytest.mark.usefixtures("ray_session")
def test_an_object_that_is_replaced_in_its_second_by_one_of_its_size_is_labelled_anew(
    model: Path, object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_photo(tmp_path / "cat.bmp", seed=0, colour=(190, 90, 60))
    draw_photo(tmp_path / "dog.bmp", seed=1, colour=(60, 90, 190))
    cat, dog = (tmp_path / "cat.bmp").read_bytes(), (tmp_path / "dog.bmp").read_bytes()
    object_store.put("second/1.bmp", cat)
    object_store.put("second/2.bmp", dog)
    photos, listed = object_store.uri("second"), list_photos(object_store.uri("second"))
    # The job reads nothing until the second is over, which takes an hour in this test.
    monkeypatch.setattr(settling, "_STEP_SECONDS", 3600.0)
    monkeypatch.setattr(settling, "sleep", lambda _: object_store.put_at_once("second/1.bmp", dog))
    predict(photos, tmp_path / "labels", model)
    assert list_photos(photos) == listed
    first, second = rows_of(tmp_path / "labels")
    assert first["p_cat"] == pytest.approx(second["p_cat"], abs=1e-6)
    heard(SAID, proof.verify, str(tmp_path / "labels"))


@pytest.mark.usefixtures("ray_session")
def test_an_object_store_that_goes_away_ends_the_job_in_one_line_and_the_same_command_goes_on(
    folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, label = ObjectStore(), driver._label
    store.put_folder("away/photos", folder, "*.jpg")
    photos, out = store.uri("away/photos"), store.uri("away/labels")

    def label_without_store(*arguments: Any, **more: Any) -> Any:
        store.close()
        return label(*arguments, **more)

    monkeypatch.setattr(driver, "_label", label_without_store)
    with pytest.raises(
        FailureError,
        match=r"^labelling failed: cannot reach s3://\S+ for 1 s: [^;]*;[^;]*; run the same command to resume$",
    ) as told:
        predict(photos, out, model)
    assert "\n" not in str(told.value)
    store.open()
    try:
        assert not [name for name in store.keys("away/labels") if name.startswith("predictions/")]
        monkeypatch.setattr(driver, "_label", label)
        assert sum(predict(photos, out, model)["labels"].values()) == 6
    finally:
        store.close()


def test_results_of_an_earlier_version_are_known_and_finished(finished: Finished, model: Path, tmp_path: Path) -> None:
    out = finished.copy(tmp_path)
    job = json.loads((out / "predict.json").read_text())
    paths = pq.read_table(out / "predictions")["path"]
    inputs = f"7 files {output.earlier_digest(paths)}"
    (out / "predict.json").write_text(json.dumps({**job, "inputs": inputs, "photos_a_part": 32}))
    (out / ".catdog.json").unlink()
    manifest = json.loads((out / "predictions/_MANIFEST.json").read_text())
    del manifest["files"][0]["digest"]
    (out / "predictions" / manifest["files"][0].pop("inputs")["name"]).unlink()
    (out / "predictions/_MANIFEST.json").write_text(json.dumps(manifest))
    predict(finished.photos, out, model)
    assert SAID[1].startswith("Nothing to label")
    heard(SAID, proof.verify, str(out))


# Photos that change, and the proof


@pytest.mark.usefixtures("ray_session")
def test_photos_that_change_are_found_out_and_labelled_again(folder: Path, model: Path, tmp_path: Path) -> None:
    def differing(before: list[dict[str, Any]]) -> list[str]:
        return [row["path"] for row, old in zip(rows_of(out), before, strict=True) if row != old]

    out = tmp_path / "labels"
    (folder / "dog/2.jpg").rename(folder / "dog" / os.fsdecode(b"caf\xe9.jpg"))
    predict(folder, out, model)
    first = rows_of(out)
    assert f"{folder}/dog/caf\\x{{e9}}.jpg" in [row["path"] for row in first if row["label"]]
    draw_photo(folder / "cat/2.jpg", seed=77, colour=(10, 200, 10))
    with pytest.raises(FailureError, match=r"1 photo changed, such as .*/cat/2\.jpg; --overwrite"):
        proof.verify(str(out))
    with pytest.raises(UsageError, match=r"1 photo changed after labelling, such as .*/cat/2\.jpg: --retry-errors"):
        predict(folder, out, model)
    predict(folder, out, model, retry_errors=True)
    assert differing(first) == [f"{folder}/cat/2.jpg"]
    heard(SAID, proof.verify, str(out))

    # A job was stopped before its commit. The part of a photo that has changed since then is not reused.
    second = rows_of(out)
    (part,) = parts_of(folder, out, model)
    table = pa.Table.from_pylist(second, schema=prediction_schema(["cat", "dog"]))
    write_prediction_part(str(out), part.name, table, retried=0)
    shutil.rmtree(out / "predictions")
    draw_photo(folder / "dog/1.jpg", seed=78, colour=(10, 200, 10))
    assert predict(folder, out, model)["labelled_now"] == 7
    assert differing(second) == [f"{folder}/dog/1.jpg"]

    (folder / "cat/0.jpg").unlink()
    draw_photo(folder / "cat/new.jpg", seed=1, colour=(9, 9, 9))
    with pytest.raises(
        FailureError, match=r"1 file without a row, such as .*/new\.jpg, 1 row without a file, such as .*/0\.jpg"
    ):
        proof.verify(str(out))


def test_verify_proves_that_rows_are_files_each_once(finished: Finished, tmp_path: Path) -> None:
    out = finished.copy(tmp_path)
    SAID.clear()
    heard(SAID, proof.verify, str(out))
    assert [
        "Verified: 7 rows, one for each photo; the checksums match (1 file).",
        f"{finished.photos} still holds the same photos (7 files).",
    ] == SAID
    next((out / "predictions").glob("*.parquet")).write_text("path\n")
    with pytest.raises(FailureError, match="was changed after it was written"):
        proof.verify(str(out))
    with pytest.raises(UsageError, match="expected the results of a predict job"):
        proof.verify(str(tmp_path / "nothing"))


# Evaluation, sorting


def test_class_folders_are_the_truth_on_request(finished: Finished, model: Path, tmp_path: Path) -> None:
    out = finished.copy(tmp_path)
    predict(finished.photos, out, model, evaluate=True)
    rows = [row for row in rows_of(out) if not row["error"]]
    (score,) = json.loads((out / "evaluation.json").read_text())["models"]
    right = sum(row["label"] == Path(row["path"]).parent.name for row in rows)
    assert (score["photos"], score["correct"]) == (6, right)
    assert f"{model} on 6 photos of known class:" in SAID


@pytest.mark.usefixtures("ray_session")
def test_two_models_are_compared(folder: Path, model: Path, other: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    predict(folder, out, model, other)
    rows = [row for row in rows_of(out) if not row["error"]]
    found = json.loads((out / "evaluation.json").read_text())["comparison"]
    assert found["agree"] == sum(row["label"] == row["second_label"] for row in rows)
    assert "First model against second:" in SAID


def test_folders_of_other_classes_are_refused_before_any_work(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "birds").mkdir()
    birds = save_classifier(tmp_path / "birds", seed=0, classes=("eagle", "owl"), image_size=SIZE)
    with pytest.raises(UsageError, match=r"expected folders of the classes eagle, owl in .*, found none in 7 files"):
        predict(folder, tmp_path / "labels", birds, evaluate=True)
    assert not (tmp_path / "labels").exists()


@pytest.mark.usefixtures("ray_session")
def test_photos_are_laid_out_by_label_and_our_own_folders_among_them_are_no_photos(folder: Path, model: Path) -> None:
    out, copies, target = folder / "labels", folder / "copies", folder / "sorted"
    before = {path.read_bytes() for path in folder.rglob("*.*")}
    predict(folder, out, model, threshold=0.5001)
    rows = rows_of(out)
    predict(folder, out, model, threshold=0.5001, sort_into=str(copies))
    assert {path.read_bytes() for path in copies.rglob("[!.]*") if path.is_file()} == before
    predict(folder, out, model, threshold=0.5001, sort_into=str(target), sort="move")
    assert SAID[:3] == [
        "Skipped 2 folders that catdog wrote, such as copies.",
        f"Found 7 files in {folder}.",
        f"Nothing to label: {out}/predictions is finished. --overwrite labels all photos again.",
    ]
    assert not any(Path(row["path"]).exists() for row in rows)
    placed = [path for path in target.rglob("[!.]*") if path.is_file()]
    assert {path.read_bytes() for path in placed} == before
    counts = {name: sum(path.parent.name == name for path in placed) for name in ("cat", "dog", "unsure", "unreadable")}
    labels = [row["label"] or "unreadable" for row in rows]
    assert counts == {name: labels.count(name) for name in counts}
    predict(folder, out, model, threshold=0.5001, sort_into=str(target), sort="move")
    assert f"Nothing to sort: {target} is sorted already." in SAID
    heard(SAID, proof.verify, str(out))
    assert SAID[-1] == f"The photos themselves were moved out of {folder} afterwards."


def test_no_photo_moves_where_the_commit_fails(
    finished: Finished, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, sync = finished.copy(tmp_path), os.fsync

    def fail_at_the_mark(number: int) -> None:
        if Path(f"/proc/self/fd/{number}").readlink().name.startswith("_SUCCESS"):
            raise OSError(errno.EIO, "Input/output error")
        sync(number)

    monkeypatch.setattr(os, "fsync", fail_at_the_mark)
    before = sorted(finished.photos.rglob("*.*"))
    with pytest.raises(FailureError, match=r"^cannot write .*/_SUCCESS: .*Input/output error"):
        # An earlier result exists, so the job could sort photos too early.
        predict(finished.photos, out, model, retry_errors=True, sort_into=str(tmp_path / "sorted"), sort="move")
    assert sorted(finished.photos.rglob("*.*")) == before
    assert not (tmp_path / "sorted").exists()


# Refusals and exit codes


def run(*arguments: str) -> list[str]:
    """Run the command with these `arguments` in this process, and return the lines that it prints."""
    said: list[str] = []
    config = parse_arguments(PredictConfig, arguments, description="", program="predict")
    heard(said, JOBS["predict"].start, config)
    return said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected --photos, what to label"),
        (["--photos", "nowhere", "--model", "MODEL"], "expected photos at nowhere, found nothing there"),
        (["--photos", "empty", "--model", "MODEL"], "expected photos in empty, found no files"),
        (["--photos", "empty", "--model", "a", "--model", "b", "--model", "c"], "or twice .*, found it 3 times"),
        (["--photos", "empty", "--model", "empty"], "empty is not a model directory"),
        (["--photos", "empty", "--model", "MODEL", "--top-k", "3"], "--top-k 3: expected at most 2"),
        (["--photos", "empty", "--model", "MODEL", "--sort", "burn"], "--sort: expected one of copy, link, move"),
        (["--photos", "empty", "--model", "MODEL", "--treshold", "1"], r"did you mean --threshold\?"),
        (["--verify", "--out", "empty"], "expected the results of a predict job"),
        (["--verify"], "--verify: expected --out"),
    ],
)
def test_a_user_s_mistake_is_one_line_and_leaves_nothing(
    arguments: list[str], message: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message) as caught:
        run(*(str(model) if word == "MODEL" else word for word in arguments))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_the_command_ends_with_the_error_s_line_and_exit_code(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(Path("jobs/predict.py").absolute()), "--photos", "nowhere", "--model", str(model)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "catdog: expected photos at nowhere, found nothing there: check the path\n"


@pytest.mark.usefixtures("ray_session")
def test_the_command_lists_more_lines_than_one_process_should_read(
    folder: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    # In a process of its own, which is not connected to Ray before it lists.
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    names = [f"photos/{kind}/{number}.jpg" for kind in ("cat", "dog") for number in range(3)]
    (tmp_path / "list.csv").write_text("path\n" + "\n".join(names * 17_000))
    command = [sys.executable, str(Path("jobs/predict.py").absolute()), "--photos", "list.csv", "--model", str(model)]
    ended = subprocess.run([*command, "--out", "labels"], capture_output=True, text=True, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Found 6 files in list.csv." in ended.stdout
    assert pq.read_table(tmp_path / "labels/predictions").num_rows == 6
    assert not list(tmp_path.glob("labels/inputs*"))


def test_one_photo_prints_its_label_as_the_article_does(finished: Finished, model: Path, tmp_path: Path) -> None:
    photo = finished.photos / "cat/0.jpg"
    first, second = run("--photos", str(photo), "--model", str(model), "--model", str(model))
    assert first == second
    label, probability = first[1:-1].split(", ")
    assert label in ("'cat'", "'dog'")
    assert 0.5 <= float(probability) <= 1
    with pytest.raises(UsageError, match="found nothing there"):
        run("--photos", f"{photo}.gone", "--model", str(model))
    shutil.copy(finished.photos / "dog/notes.txt", tmp_path / "notes.txt.jpg")
    with pytest.raises(UsageError, match=r"notes\.txt\.jpg: not-an-image: "):
        run("--photos", str(tmp_path / "notes.txt.jpg"), "--model", str(model))
    (tmp_path / "broken.jpg").write_bytes(photo.read_bytes()[:300])
    with pytest.raises(FailureError, match=rf"^{tmp_path}/broken\.jpg: truncated: "):
        run("--photos", str(tmp_path / "broken.jpg"), "--model", str(model))


def test_one_photo_that_only_an_extra_reads_is_the_user_s_mistake(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    formats.readable_formats.cache_clear()
    (tmp_path / "1.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(UsageError, match=r"1\.heic: unsupported: HEIC is read with the extra formats: pip install"):
        run("--photos", str(tmp_path / "1.heic"), "--model", str(model))
    formats.readable_formats.cache_clear()


def test_too_many_bad_photos_have_an_exit_code_of_their_own_and_all_rows(
    finished: Finished, model: Path, tmp_path: Path
) -> None:
    out = finished.copy(tmp_path)
    with pytest.raises(BadPhotosError, match="1 of 7 photos have errors, more than --max-errors 0") as raised:
        predict(finished.photos, out, model, max_errors=0.0)
    assert raised.value.exit_code == 3
    assert len(rows_of(out)) == 7


def test_a_folder_without_any_image_is_the_user_s_mistake() -> None:
    config = build_config(PredictConfig, {"photos": "texts"})
    summary = {"photos": 1, "errors": {"not-an-image": 1}, "io": {"failed": 0}}
    with pytest.raises(UsageError, match=r"^expected photos in texts, found 1 file, none an image: check --photos$"):
        output.refuse_bad_photos(summary, config)


def test_a_folder_of_heic_alone_is_no_folder_without_photos() -> None:
    config = build_config(PredictConfig, {"photos": "phone"})
    summary = {"photos": 2, "errors": {"unsupported": 2}, "io": {"failed": 0}}
    with pytest.raises(BadPhotosError, match=r"^2 of 2 photos have errors, .*; their rows say why"):
        output.refuse_bad_photos(summary, config)
