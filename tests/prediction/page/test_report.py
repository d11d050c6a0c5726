from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heard import heard
from made_photos import draw_photo, save_classifier
from made_results import commit_rows

from catdog.command_line.settings import build_config
from catdog.config import PredictConfig
from catdog.prediction import job as inference
from catdog.prediction.page.report import build_predict_page
from catdog.prediction.results.rows import LabelRule, build_rows
from catdog.storage import files

SUMMARY = {"seconds": 1.0, "photos_per_second": 1.0, "engine": "tensorflow", "versions": {}, "models": []}


def commit_random_rows(out: Path, rule: LabelRule, count: int) -> None:
    """Commit `count` rows with random probabilities to `out`."""
    dog = np.random.default_rng(0).random(count).astype(np.float32)
    paths = [f"/a/rather/long/folder/of/photos/number-{index:08d}.jpg" for index in range(count)]
    probabilities = [np.stack([1 - dog, dog], axis=1)] * rule.models
    commit_rows(str(out), build_rows(paths, [""] * count, probabilities, rule))


def test_a_page_of_many_photos_stays_small(tmp_path: Path) -> None:
    rule = LabelRule(classes=("cat", "dog"), threshold=0, top_k=1, models=1)
    commit_random_rows(tmp_path, rule, 100_000)
    searched: list[list[str]] = []

    def make(names: Sequence[str]) -> dict[str, bytes]:
        searched.append(list(names))
        return dict.fromkeys(names, b"x" * 7000)

    page = build_predict_page(
        str(tmp_path),
        rule=rule,
        summary=SUMMARY,
        photos="/a",
        thumbnails=make,
    )
    assert [len(names) < 400 for names in searched] == [True]  # pictures take most of the time
    assert len(page) < 4_000_000
    assert "5,000 of 100,000 names are searched" in page


def test_photos_that_cannot_be_read_any_more_leave_a_page_without_pictures(tmp_path: Path) -> None:
    rule = LabelRule(classes=("cat", "dog"), threshold=0.9, top_k=1, models=2)
    commit_random_rows(tmp_path, rule, 30)
    comparison = {"photos": 30, "agree": 30, "p_value": None}
    files.write_json(f"{tmp_path}/evaluation.json", {"comparison": comparison})
    page = build_predict_page(str(tmp_path), rule=rule, summary=SUMMARY, photos="/a", thumbnails=lambda names: {})
    assert "No picture could be made" in page
    assert "On the 30 photos both predict the same 30 times (100.0%)." in page
    assert "All 30 names are searched." in page


@pytest.mark.usefixtures("ray_session")
def test_a_job_leaves_its_page_last_and_makes_it_again_only_where_something_came_to_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "model").mkdir()
    save_classifier(tmp_path / "model", seed=0, image_size=64)
    for index in range(3):
        draw_photo(tmp_path / f"photos/cat/{index}.jpg", seed=index, colour=(190, 90, 60))
        draw_photo(tmp_path / f"photos/dog/{index}.jpg", seed=50 + index, colour=(60, 90, 190))
    page, said = tmp_path / "labels/report.html", []
    values: dict[str, Any] = {"model": (f"{tmp_path}/model",), "photos": f"{tmp_path}/photos", "out": str(page.parent)}

    def predict(**more: bool) -> bytes:
        said.clear()
        heard(said, inference.predict, build_config(PredictConfig, {**values, **more}))
        return page.read_bytes()

    first = predict()
    assert said[-1] == f"Report: {page}"
    assert first.count(b"/9j/") == 6  # the start of every JPEG in base64
    assert predict() == first
    assert f"Report: {page}" not in said
    evaluated = predict(evaluate=True)
    assert b"Compared with the class folders" in evaluated
    assert predict(evaluate=True) == evaluated
    assert f"Report: {page}" not in said
    page.unlink()
    with pytest.raises(FileNotFoundError):
        predict(report=False)
