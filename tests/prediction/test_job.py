"""The predict job as its users meet it: the function on the shared Ray, the command where the exit code counts."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from heard import heard
from made_photos import draw_photo, save_classifier
from object_store import ObjectStore

from catdog.command_line.settings import build_config
from catdog.config import PredictConfig
from catdog.errors import BadPhotosError, FailureError, UsageError
from catdog.model.engines import EngineSpec, read_model
from catdog.photos.decoding.decode import decode_image
from catdog.prediction import job as inference
from catdog.prediction import output
from catdog.prediction.request import Inputs, read_request
from catdog.prediction.results.parts import Part, write_prediction_part
from catdog.storage.lease import hold_lease
from catdog.storage.schemas import prediction_schema

SAID: list[str] = []
RESULTS = [".catdog.json", "predict.json", "predictions", "summary.json"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """6 reddish cats, 6 bluish dogs, one file that is no photo."""
    for index in range(6):
        draw_photo(tmp_path / f"photos/cat/{index}.jpg", seed=index, colour=(190, 90, 60))
        draw_photo(tmp_path / f"photos/dog/{index}.jpg", seed=50 + index, colour=(60, 90, 190))
    (tmp_path / "photos/dog/notes.txt").write_text("not a photo")
    return tmp_path / "photos"


def predict(photos: Path | str, out: Path | str, *models: Path, **settings: Any) -> dict[str, Any]:
    SAID.clear()
    values = {"photos": str(photos), "out": str(out), "model": tuple(map(str, models)), "report": False, **settings}
    return heard(SAID, inference.predict, build_config(PredictConfig, values))


def rows_of(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out / "predictions").to_pylist()


def rows_table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=prediction_schema(["cat", "dog"]))


def parts_of(photos: Path, out: Path, model: Path) -> list[Part]:
    """The parts that a job is cut into."""
    values = {"photos": str(photos), "out": str(out), "model": (str(model),)}
    return heard([], lambda: Inputs(read_request(build_config(PredictConfig, values))).parts)


def run_command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(Path("jobs/predict.py").absolute()), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


# What is written


@pytest.mark.usefixtures("ray_session")
def test_each_file_is_one_row_with_the_probabilities_of_the_model(
    folder: Path, model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labels"
    summary = predict(folder, out, model_dir, engine="tensorflow")
    rows = rows_of(out)
    assert [row["path"] for row in rows] == sorted(str(path) for path in folder.rglob("*.*"))
    images = np.stack([decode_image(Path(row["path"]).read_bytes(), size=224) for row in rows if not row["error"]])
    wanted = EngineSpec(model=read_model(str(model_dir))).load(batch_size=32, threads=2)(images)
    good = [row for row in rows if not row["error"]]
    np.testing.assert_allclose([[row["p_cat"], row["p_dog"]] for row in good], wanted, atol=1e-5)
    assert [row["label"] for row in good] == [("cat", "dog")[label] for label in wanted.argmax(axis=1)]
    assert [row["probability"] for row in good] == pytest.approx(wanted.max(axis=1).tolist(), abs=1e-5)
    (bad,) = [row for row in rows if row["error"]]
    assert (bad["label"], bad["error"][:13]) == (None, "not-an-image:")
    assert sorted(path.name for path in out.iterdir()) == RESULTS
    stored = json.loads((out / "summary.json").read_text())
    assert stored == summary
    assert (stored["photos"], sum(stored["labels"].values()), stored["errors"]) == (13, 12, {"not-an-image": 1})
    assert stored["io"] == {"failed": 0, "recovered": 0}
    assert (stored["engine"], stored["labelled_now"]) == ("tensorflow", 13)
    assert f"Predictions: {out}/predictions" in SAID
    assert any(line.startswith("13 photos in ") and line.endswith("photos/s") for line in SAID)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("format", ["csv", "json"])
def test_csv_and_json_hold_the_same_rows(format: str, folder: Path, model_dir: Path, tmp_path: Path) -> None:
    predict(folder, tmp_path / "labels", model_dir, format=format, threshold=0.99)
    (file,) = (tmp_path / "labels/predictions").glob("predictions-*")
    if format == "csv":
        rows: list[Any] = list(csv.DictReader(file.open(newline="")))
    else:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 13
    assert {row["label"] for row in rows} <= {"unsure", "cat", "dog", "", None}
    assert sum(row["label"] == "unsure" for row in rows) == 12


@pytest.mark.usefixtures("ray_session")
def test_a_member_of_a_zip_and_a_list_are_labelled_whatever_their_names(
    folder: Path, model_dir: Path, tmp_path: Path
) -> None:
    name = 'deep/=1+2, "x"\n.jpg'
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(folder / "cat/0.jpg", name)
    predict(tmp_path / "x.zip", tmp_path / "zipped", model_dir, format="csv")
    (file,) = (tmp_path / "zipped/predictions").glob("*.csv")
    (row,) = csv.DictReader(file.open(newline=""))
    assert (row["path"], row["error"]) == (f"{tmp_path}/x.zip!{name}", "")
    (tmp_path / "list.txt").write_text("photos/cat/0.jpg\nx.zip!gone.jpg\n")
    predict(tmp_path / "list.txt", tmp_path / "listed", model_dir)
    assert [row["error"] for row in rows_of(tmp_path / "listed")] == [None, "missing: no such member in the archive"]


# The same command again


@pytest.mark.usefixtures("ray_session")
def test_a_finished_job_does_nothing_and_another_one_is_refused(folder: Path, model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    predict(folder, out, model_dir)
    (file,) = (out / "predictions").glob("*.parquet")
    before = file.stat().st_mtime_ns
    predict(folder, out, model_dir)
    assert f"Nothing to label: {out}/predictions is finished. --overwrite labels all photos again." in SAID
    with pytest.raises(UsageError, match=r"threshold was 0\.0, is now 0\.9.*another --out, or --overwrite"):
        predict(folder, out, model_dir, threshold=0.9)
    other = save_classifier(tmp_path_dir(tmp_path / "other"), seed=5)
    with pytest.raises(UsageError, match=r"model was \[\"\w+\"\], is now \[\"\w+\"\]"):
        predict(folder, out, other)
    draw_photo(folder / "new.jpg", seed=9, colour=(1, 2, 3))
    with pytest.raises(UsageError, match=r'inputs was {"files": 13, .*}, is now {"files": 14, '):
        predict(folder, out, model_dir)
    assert file.stat().st_mtime_ns == before
    predict(folder, out, model_dir, threshold=0.9, overwrite=True)
    assert len(rows_of(out)) == 14


def tmp_path_dir(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.usefixtures("ray_session")
def test_a_commit_that_was_killed_is_made_again(folder: Path, model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    predict(folder, out, model_dir)
    rows = rows_of(out)
    (part,) = parts_of(folder, out, model_dir)
    write_prediction_part(str(out), part.name, pq.read_table(out / "predictions"), retried=0)
    write_prediction_part(str(out), "part-0000000-00000000.parquet", rows_table(rows[:3]), retried=0)  # of other photos
    shutil.rmtree(out / "predictions")
    (out / "predictions.12345678.part").mkdir()
    (out / "predictions.12345678.part/predictions-00000-12345678.parquet").write_bytes(b"half")
    assert predict(folder, out, model_dir)["labelled_now"] == 0
    assert "Resuming: 13 of 13 photos are labelled already." in SAID
    assert rows_of(out) == rows
    assert sorted(path.name for path in out.iterdir()) == RESULTS
    heard(SAID, output.verify, str(out))


@pytest.mark.usefixtures("ray_session")
def test_faults_that_may_have_passed_are_labelled_again_on_request(
    folder: Path, model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labels"
    (tmp_path / "list.txt").write_text("photos/cat/0.jpg\nphotos/cat/1.jpg\nphotos/cat/late.jpg\n")
    predict(tmp_path / "list.txt", out, model_dir)
    assert [row["error"] for row in rows_of(out)] == [None, None, "missing: no such file"]
    draw_photo(folder / "cat/late.jpg", seed=5, colour=(190, 90, 60))
    predict(tmp_path / "list.txt", out, model_dir)
    assert SAID[1].startswith("Nothing to label")
    summary = predict(tmp_path / "list.txt", out, model_dir, retry_errors=True)
    assert [row["error"] for row in rows_of(out)] == [None, None, None]
    assert summary["errors"] == {}
    heard(SAID, output.verify, str(out))
    assert predict(tmp_path / "list.txt", out, model_dir, retry_errors=True)["labelled_now"] == 0


# Other people's folders, and two jobs at once


@pytest.mark.parametrize("flag", ["--out", "--sort-into"])
def test_a_folder_that_is_not_ours_is_refused_before_anything_is_written(
    flag: str, folder: Path, model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine/parts").mkdir(parents=True)
    (tmp_path / "mine/parts/mine.step").write_text("x")
    (tmp_path / "mine/summary.json").write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    places = {"out": tmp_path / "labels", flag.strip("-").replace("-", "_"): tmp_path / "mine"}
    values = {name: str(place) for name, place in places.items()}
    config = build_config(PredictConfig, {"photos": str(folder), "model": (str(model_dir),), **values})
    with pytest.raises(UsageError, match=rf"^{flag} .*/mine: expected a new or empty folder or .*, found 2 entries"):
        inference.predict(config)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_second_job_on_a_folder_is_refused_while_the_first_is_at_work(
    folder: Path, model_dir: Path, tmp_path: Path
) -> None:
    with hold_lease(str(tmp_path / "labels"), flag="--out"), pytest.raises(UsageError, match="another job is at work"):
        predict(folder, tmp_path / "labels", model_dir)


@pytest.mark.usefixtures("ray_session")
def test_a_finished_result_with_a_file_missing_is_not_called_finished(
    folder: Path, model_dir: Path, tmp_path: Path
) -> None:
    predict(folder, tmp_path / "labels", model_dir)
    next((tmp_path / "labels/predictions").glob("*.parquet")).unlink()
    with pytest.raises(FailureError, match="is missing: label the photos again with --overwrite"):
        predict(folder, tmp_path / "labels", model_dir)
    assert predict(folder, tmp_path / "labels", model_dir, overwrite=True)["labelled_now"] == 13


@pytest.mark.usefixtures("ray_session")
def test_an_object_store_that_is_busy_now_and_then_gives_and_takes_everything(
    folder: Path, model_dir: Path, tmp_path: Path, object_store: ObjectStore
) -> None:
    for path in folder.rglob("*.*"):
        object_store.put(f"job/photos/{path.relative_to(folder)}", path.read_bytes())
    photos, out = object_store.uri("job/photos"), object_store.uri("job/labels")
    object_store.busy_every = 5
    try:
        summary = predict(photos, out, model_dir, format="csv", report=True)
    finally:
        object_store.busy_every = 0
    assert (summary["photos"], sum(summary["labels"].values()), summary["errors"]) == (13, 12, {"not-an-image": 1})
    names = [name.partition("-")[0] for name in object_store.keys("job/labels")]
    assert names == [
        ".catdog.json", "predict.json", "predictions/_INPUTS", "predictions/_MANIFEST.json", "predictions/_SUCCESS",
        "predictions/predictions", "report.html", "summary.json",
    ]  # fmt: skip
    heard(SAID, output.verify, out)
    predict(photos, out, model_dir, format="csv", report=True)
    assert SAID[1].startswith("Nothing to label")


@pytest.mark.usefixtures("ray_session")
def test_results_of_an_earlier_version_are_known_and_finished(folder: Path, model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    predict(folder, out, model_dir)
    job = json.loads((out / "predict.json").read_text())
    inputs = "{files} files {digest}".format(**job["inputs"])
    (out / "predict.json").write_text(json.dumps({**job, "inputs": inputs, "photos_a_part": 32}))
    (out / ".catdog.json").unlink()
    manifest = json.loads((out / "predictions/_MANIFEST.json").read_text())
    (out / "predictions" / manifest.pop("inputs")["name"]).unlink()
    (out / "predictions/_MANIFEST.json").write_text(json.dumps(manifest))
    predict(folder, out, model_dir)
    assert SAID[1].startswith("Nothing to label")
    heard(SAID, output.verify, str(out))


# Photos that change


@pytest.mark.usefixtures("ray_session")
def test_photos_that_change_are_found_out_and_labelled_again_on_request(
    folder: Path, model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labels"
    predict(folder, out, model_dir)
    first = rows_of(out)
    draw_photo(folder / "cat/3.jpg", seed=77, colour=(10, 200, 10))
    with pytest.raises(FailureError, match=r"1 photo changed, such as .*/cat/3\.jpg; --overwrite"):
        output.verify(str(out))
    with pytest.raises(UsageError, match=r"1 photo changed after labelling, such as .*/cat/3\.jpg: --retry-errors"):
        predict(folder, out, model_dir)
    predict(folder, out, model_dir, retry_errors=True)
    assert [row["path"] for row, old in zip(rows_of(out), first, strict=True) if row != old] == [f"{folder}/cat/3.jpg"]
    heard(SAID, output.verify, str(out))


@pytest.mark.usefixtures("ray_session")
def test_the_part_of_a_photo_that_changed_while_the_job_was_stopped_is_labelled_again(
    folder: Path, model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labels"
    predict(folder, out, model_dir)
    first = rows_of(out)
    (part,) = parts_of(folder, out, model_dir)
    write_prediction_part(str(out), part.name, pq.read_table(out / "predictions"), retried=0)
    shutil.rmtree(out / "predictions")
    draw_photo(folder / "cat/3.jpg", seed=77, colour=(10, 200, 10))
    assert predict(folder, out, model_dir)["labelled_now"] == 13
    assert [row["path"] for row, old in zip(rows_of(out), first, strict=True) if row != old] == [f"{folder}/cat/3.jpg"]


# Proof


@pytest.mark.usefixtures("ray_session")
def test_verify_proves_that_rows_are_files_each_once(folder: Path, model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    predict(folder, out, model_dir, format="csv")
    SAID.clear()
    heard(SAID, output.verify, str(out))
    lines = [
        "Verified: 13 rows, each of another photo; the checksums agree (1 file).",
        f"{folder} holds the same photos today (13 files).",
    ]
    assert lines == SAID
    (folder / "cat/0.jpg").unlink()
    draw_photo(folder / "cat/new.jpg", seed=1, colour=(9, 9, 9))
    with pytest.raises(
        FailureError,
        match=r"1 file without a row, such as .*/new\.jpg, 1 row without a file, such as .*/0\.jpg",
    ):
        heard(SAID, output.verify, str(out))
    next((out / "predictions").glob("*.csv")).write_text("path\n")
    with pytest.raises(FailureError, match="was changed after it was written"):
        heard(SAID, output.verify, str(out))
    with pytest.raises(UsageError, match="expected the results of a predict job"):
        heard(SAID, output.verify, str(tmp_path / "nothing"))


# Evaluation, comparison, sorting


@pytest.mark.usefixtures("ray_session")
def test_class_folders_are_the_truth_on_request(folder: Path, model_dir: Path, tmp_path: Path) -> None:
    other = save_classifier(tmp_path_dir(tmp_path / "other"), seed=11)
    out = tmp_path / "labels"
    predict(folder, out, model_dir, other, evaluate=True)
    rows = [row for row in rows_of(out) if not row["error"]]
    found = json.loads((out / "evaluation.json").read_text())
    for column, score in zip(("label", "second_label"), found["models"], strict=True):
        right = sum(row[column] == Path(row["path"]).parent.name for row in rows)
        assert (score["photos"], score["correct"]) == (12, right)
    assert found["comparison"]["agree"] == sum(row["label"] == row["second_label"] for row in rows)
    assert f"{model_dir} on 12 photos of known class:" in SAID
    assert "First model against second:" in SAID


@pytest.mark.usefixtures("ray_session")
def test_two_models_are_compared_also_where_no_class_is_known(folder: Path, model_dir: Path, tmp_path: Path) -> None:
    other = save_classifier(tmp_path_dir(tmp_path / "other"), seed=11)
    shutil.copytree(folder / "cat", tmp_path / "holiday")
    predict(tmp_path / "holiday", tmp_path / "labels", model_dir, other)
    comparison = json.loads((tmp_path / "labels/evaluation.json").read_text())["comparison"]
    assert (comparison["photos"], comparison["p_value"]) == (6, None)


def test_folders_of_other_classes_are_refused_before_any_work(folder: Path, tmp_path: Path) -> None:
    model = save_classifier(tmp_path_dir(tmp_path / "birds"), seed=0, classes=("eagle", "owl"))
    with pytest.raises(UsageError, match="has the classes cat, dog, the model knows eagle, owl"):
        predict(folder, tmp_path / "labels", model, evaluate=True)
    assert not (tmp_path / "labels").exists()


@pytest.mark.usefixtures("ray_session")
def test_photos_are_moved_into_folders_once_their_rows_are_safe(folder: Path, model_dir: Path, tmp_path: Path) -> None:
    out, target = tmp_path / "labels", folder / "sorted"
    before = {path.read_bytes() for path in folder.rglob("*.*")}
    predict(folder, out, model_dir, threshold=0.5001, sort_into=str(target), sort="move")
    rows = rows_of(out)
    for row in rows:
        assert not Path(row["path"]).exists()
    placed = [path for path in target.rglob("[!.]*") if path.is_file()]
    assert {path.read_bytes() for path in placed} == before
    counts = {name: sum(path.parent.name == name for path in placed) for name in ("cat", "dog", "unsure", "unreadable")}
    labels = [row["label"] or "unreadable" for row in rows]
    assert counts == {name: labels.count(name) for name in counts}
    predict(folder, out, model_dir, threshold=0.5001, sort_into=str(target), sort="move")
    assert f"Nothing to sort: {target} is laid out already." in SAID
    heard(SAID, output.verify, str(out))
    assert SAID[-1] == f"The photos themselves were moved out of {folder} afterwards."


@pytest.mark.usefixtures("ray_session")
def test_copies_laid_out_among_the_photos_later_are_no_new_photos(
    folder: Path, model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labels"
    predict(folder, out, model_dir)
    predict(folder, out, model_dir, sort_into=str(folder / "sorted"))
    assert len([path for path in (folder / "sorted").rglob("[!.]*") if path.is_file()]) == 13
    predict(folder, out, model_dir)
    assert SAID[:2] == [
        "Skipped 1 folder that catdog wrote, such as sorted.",
        f"Found 13 files in {folder}.",
    ]
    heard(SAID, output.verify, str(out))


# Refusals and exit codes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected --photos, what to label"),
        (["--photos", "nowhere", "--model", "MODEL"], "expected photos at nowhere, found nothing there"),
        (["--photos", "empty", "--model", "MODEL"], "expected photos in empty, found no files"),
        (
            ["--photos", "empty", "--model", "a", "--model", "b", "--model", "c"],
            "expected --model once, or twice to compare two models, found it 3 times",
        ),
        (["--photos", "empty", "--model", "empty"], "empty is not a model directory"),
        (["--photos", "empty", "--model", "MODEL", "--top-k", "3"], "--top-k 3: expected at most 2"),
        (["--photos", "empty", "--model", "MODEL", "--sort", "burn"], "--sort: expected one of copy, link, move"),
        (["--photos", "empty", "--model", "MODEL", "--treshold", "1"], "did you mean --threshold?"),
        (["--verify", "--out", "empty"], "expected the results of a predict job"),
        (["--verify"], "--verify: expected --out"),
    ],
)
def test_a_user_s_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    ended = run_command(*[str(model_dir) if word == "MODEL" else word for word in arguments], cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("catdog: ")
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_one_photo_prints_its_label_as_the_article_does(folder: Path, model_dir: Path) -> None:
    ended = run_command("--photos", str(folder / "cat/0.jpg"), "--model", str(model_dir), "--model", str(model_dir))
    assert (ended.returncode, ended.stderr) == (0, "")
    first, second = ended.stdout.splitlines()
    assert first == second
    label, probability = first[1:-1].split(", ")
    assert label in ("'cat'", "'dog'")
    assert 0.5 <= float(probability) <= 1
    ended = run_command("--photos", str(folder / "dog/notes.txt.gz"), "--model", str(model_dir))
    assert (ended.returncode, ended.stdout) == (2, "")
    (folder / "broken.jpg").write_bytes((folder / "cat/0.jpg").read_bytes()[:300])
    ended = run_command("--photos", str(folder / "broken.jpg"), "--model", str(model_dir))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"catdog: {folder}/broken.jpg: truncated: ")


@pytest.mark.usefixtures("ray_session")
def test_too_many_bad_photos_have_an_exit_code_of_their_own_and_all_rows(
    folder: Path, model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labels"
    with pytest.raises(BadPhotosError, match="1 of 13 photos have errors, more than --max-errors 0") as raised:
        predict(folder, out, model_dir, max_errors=0.0)
    assert raised.value.exit_code == 3
    assert len(rows_of(out)) == 13
    predict(folder, out, model_dir)


@pytest.mark.usefixtures("ray_session")
def test_a_folder_without_any_image_is_the_user_s_mistake(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/1.jpg").write_text("a text")
    with pytest.raises(UsageError, match="found 1 file, none an image"):
        predict(tmp_path / "texts", tmp_path / "labels", model_dir)


@pytest.mark.usefixtures("ray_session")
def test_results_inside_the_photo_folder_are_no_photos(folder: Path, model_dir: Path) -> None:
    predict(folder, folder / "labels", model_dir)
    predict(folder, folder / "labels", model_dir)
    assert SAID[:2] == ["Skipped 1 folder that catdog wrote, such as labels.", f"Found 13 files in {folder}."]
    assert SAID[2].startswith("Nothing to label")
