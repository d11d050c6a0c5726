"""The train job as a user runs it: real Ray, real Lite0 weights, small photos."""

import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from heard import heard
from made_photos import draw_photo
from object_store import ObjectStore
from outcomes import check_outcomes
from PIL import Image

from catdog import load_classifier
from catdog.command_line.settings import build_config
from catdog.config import RECIPE_DEFAULTS, TrainConfig
from catdog.errors import FailureError, UsageError
from catdog.features.cache import write_part
from catdog.model.backbone_specs import backbone_spec
from catdog.model.weights.hdf5_file import write_tensors
from catdog.photos.decoding.framing import Framing
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.ingest import ingest
from catdog.photos.manifest import read_manifest
from catdog.storage import files
from catdog.training import job as pipeline
from catdog.training.job import train

# No augmentation, and a size at which Lite0 learns to tell these photos apart from eight of each class.
SMALL = {
    **RECIPE_DEFAULTS["fast"], "image_size": 32, "unfrozen.epochs": 2,
    "train_per_class": 8, "validation_per_class": 4, "test_per_class": 4,
}  # fmt: skip


def run(photos: Path | str, run_dir: Path | str, **changes: object) -> tuple[dict, list[str]]:
    values = {"photos": str(photos), "run_dir": str(run_dir), **SMALL, **changes}
    lines: list[str] = []
    report = heard(lines, train, build_config(TrainConfig, values))
    return report, lines


@pytest.fixture(scope="session")
def finished(
    ray_session: None, photo_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict, list]:
    run_dir = tmp_path_factory.mktemp("runs") / "small"
    return run_dir, *run(photo_folder, run_dir)


def test_a_run_leaves_what_the_readme_says(finished: tuple[Path, dict, list]) -> None:
    run_dir, report, _ = finished
    for name in (
        "config.json", "manifest/manifest.parquet", "manifest/rejected.parquet", "frozen/history.csv",
        "frozen/model/card.json", "frozen/model/weights.h5", "unfrozen/history.csv", "unfrozen/model/weights.h5",
        "model/card.json", "model/weights.h5", "accuracy.png", "loss.png", "report.json",
        "frozen/predictions.parquet", "unfrozen/predictions.parquet", "diagnosis.json", "thumbnails.parquet",
    ):  # fmt: skip
        assert (run_dir / name).is_file(), name
    assert not list(run_dir.rglob("*.part"))
    assert not (run_dir / "checkpoints").exists()
    assert not (run_dir / "heat.parquet").exists()
    assert json.loads((run_dir / "model" / "card.json").read_text())["temperature"] == 1.0  # no prediction was wrong
    diagnosis = json.loads((run_dir / "diagnosis.json").read_text())
    assert diagnosis["worst"] == []
    assert diagnosis["evaluations"]["unfrozen"]["test"]["photos"] == 8
    assert json.loads((run_dir / "report.json").read_text()) == report


def test_each_stage_leaves_a_row_for_every_validation_and_test_photo(finished: tuple[Path, dict, list]) -> None:
    check_outcomes(*finished[:2])


def test_what_cannot_be_diagnosed_costs_the_run_a_line(finished: tuple[Path, dict, list], tmp_path: Path) -> None:
    shutil.copytree(finished[0], tmp_path / "run")
    (tmp_path / "run" / "unfrozen" / "predictions.parquet").write_bytes(b"damaged")
    (tmp_path / "run" / "report.json").unlink()
    values = {"photos": str(finished[0].parent), "run_dir": str(tmp_path / "run"), **SMALL}
    config = build_config(TrainConfig, values)
    manifest = read_manifest(str(tmp_path / "run" / "manifest"))
    lines: list[str] = []
    temperature = heard(lines, pipeline._temperature, config, manifest, str(tmp_path / "run" / "unfrozen"))
    assert temperature.value == 1.0
    job = SimpleNamespace(stages=[], plan=None)
    places = {"run_dir": str(tmp_path / "run"), "best": "unfrozen"}
    heard(lines, pipeline._diagnose, config, manifest, job, **places, temperature=temperature)
    assert [line.partition(": ")[0] for line in lines] == ["Warning"] * 2
    assert lines[0].startswith("Warning: the model is not calibrated: ")
    assert lines[1].startswith("Warning: the run could not be diagnosed: ")


def test_the_report_has_the_numbers_of_both_stages(finished: tuple[Path, dict, list]) -> None:
    _, report, _ = finished
    assert report["classes"] == ["cat", "dog"]
    assert report["counts"]["train"] == {"cat": 8, "dog": 8}
    assert report["counts"]["validation"] == report["counts"]["test"] == {"cat": 4, "dog": 4}
    assert report["counts"]["unused"] == {"cat": 0, "dog": 0}
    assert report["counts"]["rejected"] == 3
    assert {name: stage["epochs"] for name, stage in report["stages"].items()} == {"frozen": 1, "unfrozen": 2}
    for stage in report["stages"].values():
        assert stage["trunk_images_per_second"] > 0
        for split in ("validation", "test"):
            assert stage[split]["accuracy"] == 1.0
            assert 0 < stage[split]["loss"] < 0.6
    seconds = report["seconds"]
    steps = ("start", "ingest", "trunk", "train", "report")
    assert seconds["total"] == pytest.approx(sum(seconds[step] for step in steps), abs=0.01)
    assert report["versions"]["ray"].startswith("2.")


def test_the_console_says_what_was_found_and_what_came_out(finished: tuple[Path, dict, list]) -> None:
    run_dir, _, lines = finished
    assert "Found 32 images belonging to 2 classes." in lines
    assert "35 files: 32 used, 0 unused, 3 rejected." in lines
    plan = "Plan: 1 train worker on CPU, 1 trunk actor (2 threads each), 0 GPUs; batch 32 unfrozen; "
    assert f"{plan}stored in the folder {run_dir}." in lines
    assert sum(line.startswith("Epoch ") for line in lines) == 3  # a solved head counts as one
    assert any(line.startswith("The head of the frozen stage is a logistic regression: C = ") for line in lines)
    assert any(line.startswith("unfrozen") and "1.0000" in line for line in "\n".join(lines).splitlines())
    assert lines[-2].startswith("Model: ")
    assert lines[-1] == f"Report: {finished[0]}/report.html"


def test_every_file_is_in_the_manifest_or_rejected_with_a_reason(
    finished: tuple[Path, dict, list], photo_folder: Path
) -> None:
    run_dir, _, _ = finished
    manifest = pq.read_table(run_dir / "manifest" / "manifest.parquet")
    rejected = pq.read_table(run_dir / "manifest" / "rejected.parquet").to_pylist()
    reasons = {Path(row["path"]).name: row["reason"].split(":")[0] for row in rejected}
    assert reasons == {"666.jpg": "empty", "11702.jpg": "not-an-image", "copy.jpg": "duplicate"}
    files = {str(path) for path in photo_folder.rglob("*") if path.is_file()}
    assert files == set(manifest["path"].to_pylist()) | {row["path"] for row in rejected}


def test_the_model_tells_the_photos_apart_from_its_directory_alone(
    finished: tuple[Path, dict, list], photo_folder: Path, tmp_path: Path
) -> None:
    run_dir, report, _ = finished
    moved = tmp_path / "model"
    moved.mkdir()
    for file in (run_dir / "model").iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    classifier = load_classifier(str(moved))
    for name, label in (("Cat/3.jpg", "cat"), ("Dog/3.jpg", "dog")):
        found, probability = classifier.predict(str(photo_folder / name))
        assert found == label
        assert 0.5 < probability <= 1
    card = json.loads((moved / "card.json").read_text())
    assert card["classes"] == ["cat", "dog"]
    assert card["weights"]["license"] == "Apache-2.0"
    assert card["stage"]["name"] == report["model"]
    assert card["stage"]["validation"] == report["stages"][report["model"]]["validation"]


def test_the_reported_test_accuracy_and_loss_are_those_of_the_saved_model(finished: tuple[Path, dict, list]) -> None:
    from catdog.photos.decoding.decode import decode_image

    run_dir, report, _ = finished
    rows = [
        row for row in pq.read_table(run_dir / "manifest" / "manifest.parquet").to_pylist() if row["split"] == "test"
    ]
    framing = Framing(resize="crop", resampling="bicubic")
    images = np.stack([decode_image(Path(row["path"]).read_bytes(), size=32, framing=framing) for row in rows])
    labels = np.array([row["label"] for row in rows])
    for stage in ("frozen", "unfrozen"):
        probabilities = load_classifier(str(run_dir / stage / "model")).predict_images(images)
        loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
        assert (probabilities.argmax(axis=1) == labels).mean() == report["stages"][stage]["test"]["accuracy"]
        # The losses differ slightly, because cached features are float16.
        assert loss == pytest.approx(report["stages"][stage]["test"]["loss"], abs=2e-3)


def test_the_same_command_again_does_nothing_and_says_so(finished: tuple[Path, dict, list], photo_folder: Path) -> None:
    run_dir, report, _ = finished
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    again, lines = run(photo_folder, run_dir)
    assert again == report
    assert lines[0].startswith("Nothing to do")
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before


@pytest.mark.parametrize("content", ["{}", '{"stages": [1], "seconds": {}, "model": "x"}', "[]", "no JSON"])
def test_somebody_else_s_report_in_a_run_directory_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / ".catdog.json").write_text('{"kind": "run"}')
    (tmp_path / "manifest").mkdir()
    (tmp_path / "manifest/_COMPLETE.json").write_text("{}")
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(FailureError, match=rf"^{tmp_path}/report\.json") as caught:
        run(tmp_path / "photos", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_changed_config_is_refused_with_the_difference(finished: tuple[Path, dict, list], photo_folder: Path) -> None:
    run_dir, _, _ = finished
    with pytest.raises(UsageError, match=r"was made with other settings \(dropout was 0.2, is now 0.4\)"):
        run(photo_folder, run_dir, dropout=0.4)


def test_a_mistake_leaves_no_trace_in_the_run_directory(ray_session: None, photo_folder: Path, tmp_path: Path) -> None:
    for changes in ({"unfrozen.unfreeze_from": "block6b_dwconv"}, {"weights": str(tmp_path / "none.h5")}):
        with pytest.raises(UsageError):
            run(photo_folder, tmp_path / "run", **changes)
    with pytest.raises(UsageError, match="found nothing there"):
        run(tmp_path / "nowhere", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def b0_weights(folder: Path) -> str:
    """Write a weights file of an untrained B0, without TensorFlow, and return its path."""
    random, tensors = np.random.default_rng(0), {}
    for layer, shapes in backbone_spec("efficientnet-b0").tensor_shapes().items():
        tensors[layer] = {name: np.zeros(shape) for name, shape in shapes.items()}
        for name, shape in shapes.items():
            if name in ("gamma", "moving_variance"):
                tensors[layer][name] += 1
            elif name.endswith("kernel"):
                inputs = np.prod(shape[:2] if name.startswith("depthwise") else shape[:3])
                tensors[layer][name] += random.normal(0, inputs**-0.5, shape)
    (folder / "b0_notop.h5").write_bytes(write_tensors(tensors))
    return str(folder / "b0_notop.h5")


def test_the_article_s_recipe_trains_the_whole_of_b0_from_a_weights_file(
    ray_session: None, photo_folder: Path, tmp_path: Path
) -> None:
    weights = b0_weights(tmp_path)
    report, _ = run(
        photo_folder, tmp_path / "article",
        **{
            **RECIPE_DEFAULTS["article"], "recipe": "article", "weights": weights, "train_per_class": 4,
            "validation_per_class": 4, "test_per_class": 0, "frozen.epochs": 1, "unfrozen.epochs": 1,
            "unfrozen.unfreeze_from": "input",
        },
    )  # fmt: skip
    card = json.loads((tmp_path / "article" / "unfrozen" / "model" / "card.json").read_text())
    assert (card["backbone"], card["pooling"], card["input_scale"]) == ("efficientnet-b0", "max", [1 / 255] * 3)
    assert {name: stage["epochs"] for name, stage in report["stages"].items()} == {"frozen": 1, "unfrozen": 1}
    assert "test" not in report["stages"]["frozen"]


def test_two_workers_that_stream_on_an_object_store_that_is_busy_now_and_then_train_as_one_with_a_cache_on_a_disk_does(
    finished: tuple[Path, dict, list], photo_folder: Path, object_store: ObjectStore, tmp_path: Path
) -> None:
    _, one, _ = finished
    object_store.put_folder("train/photos", photo_folder)
    photos, run_dir = object_store.uri("train/photos"), object_store.uri("train/run")
    with object_store.busy():
        two, lines = run(photos, run_dir, **{"cluster.workers": 2, "cache_budget_gib": 0.00001})
    assert any(
        line.startswith("Plan: 2 train workers on CPU, 1 trunk actor (2 threads each), 0 GPUs") for line in lines
    )
    for stage in ("frozen", "unfrozen"):
        assert any(line.startswith(f"The {stage} stage streams its features") for line in lines)
    names = set(object_store.keys("train/run"))
    assert {"report.html", "report.json", "model/card.json", "model/weights.h5"} <= names
    for name in ("manifest/manifest.parquet", "frozen/predictions.parquet", "unfrozen/predictions.parquet"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(files.read_bytes(files.join(run_dir, name)))
    check_outcomes(tmp_path, two)
    for stage in ("frozen", "unfrozen"):
        assert two["stages"][stage]["epochs"] == one["stages"][stage]["epochs"]
        assert two["stages"][stage]["test"]["accuracy"] == 1.0
        # The batches differ, with the same global size, so the losses are close but not equal.
        assert two["stages"][stage]["test"]["loss"] == pytest.approx(one["stages"][stage]["test"]["loss"], abs=0.1)


def copy_run(finished: Path, folder: Path, spoil: Callable[[Path], None]) -> None:
    """Copy what `finished` had before its frozen stage, here the only one, and call `spoil` on each feature part."""
    config = json.loads((finished / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "unfrozen.epochs": 0}))
    for name in ("manifest", "features"):
        shutil.copytree(finished / name, folder / name)
    for part in (folder / "features").rglob("*.parquet"):
        spoil(part)


def test_features_that_are_not_numbers_end_the_job_with_one_line_and_no_restart(
    finished: tuple[Path, dict, list], photo_folder: Path, tmp_path: Path
) -> None:
    def spoil(part: Path) -> None:
        table = pq.read_table(part)
        shape = [int(side) for side in table.schema.metadata[b"shape"].decode().split(",")]
        rows = {name: table[name].to_numpy() for name in ("path", "label", "view")}
        write_part(str(part), rows, np.full((table.num_rows, *shape), np.nan, np.float16), unreadable=[])

    copy_run(finished[0], tmp_path, spoil)
    with pytest.raises(FailureError, match=r"^the frozen stage has NaN or infinite features: check --weights"):
        run(photo_folder, tmp_path, **{"unfrozen.epochs": 0})


def test_an_exception_in_a_train_worker_is_one_line_with_the_place_of_the_logs(
    finished: tuple[Path, dict, list], photo_folder: Path, tmp_path: Path
) -> None:
    copy_run(finished[0], tmp_path, lambda part: part.write_bytes(part.read_bytes()[:-8]) and None)
    with pytest.raises(FailureError) as raised:
        run(photo_folder, tmp_path, **{"unfrozen.epochs": 0, "cluster.max_failures": 0})
    line = re.fullmatch(
        r"training failed: Parquet magic bytes not found in footer\. .* \(logs: (.*)\)", str(raised.value)
    )
    assert line, str(raised.value)
    assert any(Path(line[1]).iterdir())


def test_a_failed_trunk_pass_ends_the_waiting_workers_and_a_photo_that_vanished_costs_its_row_alone(
    ray_session: None, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    for index in range(8):
        draw_photo(photos / "cat" / f"{index}.jpg", seed=index, colour=(190, 90, 60))
        draw_photo(photos / "dog" / f"{index}.jpg", seed=50 + index, colour=(60, 90, 190))
    counts = {"train_per_class": 4, "validation_per_class": 2, "test_per_class": 2, "unfrozen.epochs": 0}
    values = {"photos": str(photos), "run_dir": str(tmp_path / "run"), **SMALL, **counts}
    config = build_config(TrainConfig, values)
    manifest = ingest(config, run_dir=str(tmp_path / "run"))
    written = (tmp_path / "run/manifest/manifest.parquet").stat().st_mtime_ns
    gone = next(row["path"] for row in manifest.table.to_pylist() if row["split"] == "train")
    Path(gone).unlink()
    in_the_way = tmp_path / "run" / "features"
    in_the_way.write_text("no folder")
    with pytest.raises(FailureError, match=rf"^cannot make the directory {in_the_way}/"):
        train(config)
    for thread in threading.enumerate():
        if thread.name == "trainer":  # a busy machine may still be starting workers, which end immediately
            thread.join(120)
            assert not thread.is_alive()
    in_the_way.unlink()
    lines: list[str] = []
    report = heard(lines, train, config)
    told = f"Skipped 1 photo that changed since ingest or can no longer be read, such as {gone}: missing"
    assert any(line.startswith(told) for line in lines)
    assert list(report["stages"]) == ["frozen"]
    assert (tmp_path / "run/manifest/manifest.parquet").stat().st_mtime_ns == written


def test_photos_of_every_mode_end_as_rgb(ray_session: None, tmp_path: Path) -> None:
    from catdog.photos.ingest import build_manifest

    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        for index, mode in enumerate(("RGB", "L", "RGBA", "P", "CMYK", "1")):
            pixels = Image.fromarray(random.integers(0, 256, (20, 30, 3)).astype(np.uint8))
            suffix = "jpg" if mode == "CMYK" else "png"
            (tmp_path / label).mkdir(exist_ok=True)
            pixels.convert(mode).save(tmp_path / label / f"{index}.{suffix}")
    manifest = build_manifest(
        str(tmp_path),
        per_class={"train": 3, "validation": 2, "test": 1},
        limits=DecodeLimits(max_pixels=10_000),
    )
    assert manifest.rejected.num_rows == 0
    assert manifest.table.num_rows == 12
