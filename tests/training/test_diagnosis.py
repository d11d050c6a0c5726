import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from catdog.errors import FailureError
from catdog.evaluation.calibration import Temperature, choose_temperature
from catdog.evaluation.held_out import build_outcomes, write_outcomes
from catdog.evaluation.near_duplicates import hash_pictures
from catdog.features.cache import FeatureCache, write_part
from catdog.photos.decoding.decode import inspect_image
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.manifest import Manifest
from catdog.report.thumbnails import read_pictures, write_pictures
from catdog.storage.schemas import MANIFEST, PICTURES, REJECTED
from catdog.training.diagnosis import choose_run_temperature, diagnose

CLASSES = ("cat", "<i>dog</i>")
NONE = Temperature(value=1.0, reason="made up")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """Make a run of 8 + 4 + 4 photos, in which test photo 12 is a smaller, recompressed copy of train photo 0.

    The frozen stage is wrong on photo 9, the unfrozen stage on photos 9 and 14.
    """
    folder = tmp_path_factory.mktemp("diagnosed")
    paths = [folder / "photos" / f"{index:02d}.jpg" for index in range(16)]
    paths[0].parent.mkdir()
    for index, path in enumerate(paths):
        noise = np.random.default_rng(index).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC).save(path)
    with Image.open(paths[0]) as image:
        image.resize((160, 120)).save(paths[12], quality=50)
    splits = ["train"] * 8 + ["validation"] * 4 + ["test"] * 4
    looks = hash_pictures([inspect_image(path.read_bytes()).gray for path in paths]).to_pylist()
    rows = [
        {
            "path": str(path),
            "label": index % 2,
            "class": CLASSES[index % 2],
            "split": splits[index],
            "digest": str(index),
        }
        | {"width": 1, "height": 1, "perceptual_hash": looks[index]}
        for index, path in enumerate(paths)
    ]
    manifest = Manifest(table=pa.Table.from_pylist(rows, MANIFEST), rejected=REJECTED.empty_table(), classes=CLASSES)
    sure = np.where((np.arange(16) % 2)[:, np.newaxis] == np.arange(2), 0.9, 0.1).astype(np.float32)
    for stage, wrong in (("frozen", [9]), ("unfrozen", [9, 14])):
        said = sure.copy()
        said[wrong] = [[0.98, 0.02], [0.3, 0.7]][: len(wrong)]
        outcomes = [
            build_outcomes(
                [str(path) for path in paths[first : first + 4]],
                split=split,
                labels=np.arange(first, first + 4) % 2,
                probabilities=said[first : first + 4],
                classes=CLASSES,
            )
            for split, first in (("validation", 8), ("test", 12))
        ]
        write_outcomes(str(folder / stage), pa.concat_tables(outcomes))
    return folder, manifest


def diagnosed(run: tuple[Path, Manifest], **changes: object) -> tuple[dict, list[str]]:
    folder, manifest = run
    options = {"stages": ["frozen", "unfrozen"], "best": "unfrozen", "temperature": NONE, "train_features": None,
               "heatmaps": str(folder / "heat.parquet"), "limits": DecodeLimits(), "task_cpus": 0.25}  # fmt: skip
    lines = diagnose(str(folder), manifest, **{**options, **changes})  # type: ignore[arg-type]
    return json.loads((folder / "diagnosis.json").read_text()), lines


def test_a_diagnosis_has_the_numbers_the_photos_and_their_pictures(
    ray_session: None, run: tuple[Path, Manifest]
) -> None:
    folder, _ = run
    heat = [{"name": f"{folder}/photos/09.jpg", "kind": "heat", "jpeg": b"made up"}]
    write_pictures(str(folder / "heat.parquet"), pa.Table.from_pylist(heat, PICTURES))
    found, lines = diagnosed(run)
    assert found["evaluations"]["frozen"]["test"]["accuracy"] == 1.0
    assert found["evaluations"]["unfrozen"]["validation"]["confusion"] == [[2, 0, 0], [1, 1, 0]]
    assert found["comparison"]["test"]["only_first_correct"] == 1
    assert found["comparison"]["validation"]["p_value"] == 1.0
    assert [(Path(row["path"]).name, row["split"], row["true"], row["label"]) for row in found["worst"]] == [
        ("09.jpg", "validation", "<i>dog</i>", "cat"), ("14.jpg", "test", "cat", "<i>dog</i>"),
    ]  # fmt: skip
    assert Path(found["least_sure"][0]["path"]).name == "14.jpg"
    assert len(found["least_sure"]) == 8
    assert found["label_errors"] == []
    (pair,) = found["near_duplicates"]
    assert (Path(pair["first"]).name, pair["first_split"]) == ("00.jpg", "train")
    assert (Path(pair["second"]).name, pair["second_split"]) == ("12.jpg", "test")
    assert found["near_duplicate_count"] == 1
    assert found["calibration"]["split"] == "test"
    assert found["calibration"]["after"] is None
    assert [one["photos"] for one in found["calibration"]["before"]["bins"]] == [1, 3]
    assert set(found["calibration"]["before"]["bins"][0]) == {"low", "high", "photos", "confidence", "accuracy"}
    assert lines == [
        "Warning: 1 pair of photos looks the same across splits; this inflates the scores. For example "
        f"{folder}/photos/00.jpg (train) and {folder}/photos/12.jpg (test)."
    ]
    pictures = read_pictures(str(folder / "thumbnails.parquet")).to_pylist()
    assert {Path(row["name"]).name for row in pictures if row["kind"] == "photo"} == {
        "00.jpg", *(f"{index:02d}.jpg" for index in range(8, 16)),
    }  # fmt: skip
    assert [row for row in pictures if row["kind"] == "heat"] == heat
    assert all(Image.open(io.BytesIO(row["jpeg"])).format == "JPEG" for row in pictures if row["kind"] == "photo")


def test_a_temperature_softens_what_the_model_says_and_the_calibration_shows_both(
    ray_session: None, run: tuple[Path, Manifest]
) -> None:
    found, lines = diagnosed(run, temperature=Temperature(value=2.0, reason="it is said so"))
    assert lines[0] == "Calibration: temperature 2.00 in the model; it is said so."
    assert found["worst"][0]["probability"] == pytest.approx(0.875)  # was 0.98: its logit, ln 49, is halved
    assert found["calibration"]["after"]["error"] != found["calibration"]["before"]["error"]
    assert found["evaluations"]["unfrozen"]["test"]["accuracy"] == 0.75


def test_stages_are_compared_on_the_photos_that_both_have_however_the_rows_are_cut(
    ray_session: None, run: tuple[Path, Manifest], tmp_path: Path
) -> None:
    for stage, left_out, group in (("frozen", 2, 3), ("unfrozen", 5, 2)):
        rows = pq.read_table(run[0] / stage / "predictions.parquet")
        (tmp_path / stage).mkdir()
        kept = rows.take([place for place in range(8) if place != left_out])
        pq.write_table(kept, tmp_path / stage / "predictions.parquet", row_group_size=group)
    found, _ = diagnosed((tmp_path, run[1]))
    validation, test = (found["comparison"][split] for split in ("validation", "test"))
    assert (validation["photos"], validation["agree"]) == (3, 3)
    assert (test["photos"], test["only_first_correct"], test["only_second_correct"]) == (3, 1, 0)
    assert found["evaluations"]["unfrozen"]["validation"]["photos"] == 4
    assert [Path(row["path"]).name for row in found["worst"]] == ["09.jpg", "14.jpg"]


def test_label_errors_come_from_the_cached_features(ray_session: None, run: tuple[Path, Manifest]) -> None:
    folder, _ = run
    random = np.random.default_rng(0)
    labels = np.arange(64) % 2
    features = (random.normal(size=(64, 32)) + 2.0 * random.normal(size=(2, 32))[labels]).astype(np.float16)
    labels[5] = 0
    rows = {"path": np.array([f"/p/{index}" for index in range(64)], object), "label": labels,
            "view": np.zeros(64, np.int32)}  # fmt: skip
    write_part(str(folder / "cache" / "part-000000-view-0000.parquet"), rows, features, unreadable=[])
    cache = FeatureCache(directory=str(folder / "cache"), photos="made up", views=(1,))
    cache.finish(blocks=1, cut="head")
    found, lines = diagnosed(run, train_features=cache)
    assert [(row["path"], row["true"], row["label"]) for row in found["label_errors"]] == [
        ("/p/5", "cat", "<i>dog</i>")
    ]
    assert lines[0] == "1 training photo may have a wrong label, such as /p/5: labelled cat, predicted <i>dog</i>."


def test_a_run_without_predictions_has_a_diagnosis_of_the_rest(
    ray_session: None, run: tuple[Path, Manifest], tmp_path: Path
) -> None:
    found, _ = diagnosed((tmp_path, run[1]))
    assert found["evaluations"] == found["comparison"] == {}
    assert "worst" not in found
    assert found["near_duplicate_count"] == 1
    assert choose_run_temperature(str(tmp_path), classes=CLASSES).value == 1.0


def test_damaged_predictions_are_named(run: tuple[Path, Manifest], tmp_path: Path) -> None:
    (tmp_path / "predictions.parquet").write_bytes(b"no table")
    with pytest.raises(FailureError, match=r"predictions\.parquet cannot be read"):
        choose_run_temperature(str(tmp_path), classes=CLASSES)
    assert choose_run_temperature(str(run[0] / "frozen"), classes=CLASSES) == choose_temperature(
        np.array([0, 1, 0, 1]), np.array([[0.9, 0.1], [0.98, 0.02], [0.9, 0.1], [0.1, 0.9]])
    )
    assert pq.read_schema(run[0] / "frozen" / "predictions.parquet").names[0] == "path"
