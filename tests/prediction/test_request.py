import json
import shutil
from pathlib import Path

import pytest
from heard import heard
from made_photos import draw_photo
from object_store import ObjectStore

from catdog.command_line.settings import build_config
from catdog.config import PredictConfig
from catdog.model.imagenet_model import write_imagenet_model
from catdog.model.saved_model import CARD_FILE
from catdog.prediction.request import is_one_photo, read_request, say_models


def is_one(photos: Path | str, **more: str) -> bool:
    return is_one_photo(build_config(PredictConfig, {"photos": str(photos), "model": ("m",), **more}))


def test_a_photo_without_a_folder_for_results_is_only_printed(tmp_path: Path, object_store: ObjectStore) -> None:
    draw_photo(tmp_path / "cat.jpg", seed=0, colour=(1, 2, 3))
    object_store.put("one/cat.jpg", (tmp_path / "cat.jpg").read_bytes())
    for photo in (tmp_path / "cat.jpg", object_store.uri("one/cat.jpg"), f"file://{tmp_path}/cat.jpg"):
        assert is_one(photo)
        assert not is_one(photo, out="labels")
        assert not is_one(photo, sort_into="sorted")
    for several in (tmp_path, object_store.uri("one"), "", tmp_path / "none.jpg"):
        assert not is_one(several)


@pytest.mark.parametrize("name", ["x.zip", "x.TXT", "x.parquet", "x.csv", "x.tar.gz"])
def test_a_file_that_holds_or_names_photos_is_a_job(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert not is_one(tmp_path / name)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the ImageNet model, which needs neither training nor TensorFlow, and return its folder."""
    folder = tmp_path_factory.mktemp("model")
    write_imagenet_model(folder, backbone="efficientnet-lite0")
    return folder


def test_ranks_of_unsure_photos_begin_with_the_first(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    card = json.loads((model / CARD_FILE).read_text())
    for asked, of_card, first in ((0.0, 0.0, "top2_label"), (0.9, 0.0, "top1_label"), (0.0, 0.6, "top1_label")):
        (tmp_path / "model" / CARD_FILE).write_text(json.dumps({**card, "threshold": of_card}))
        values = {"photos": "x", "model": (f"{tmp_path}/model",), "top_k": 2, "threshold": asked}
        rule = read_request(build_config(PredictConfig, values)).rule
        assert (rule.threshold, rule.schema.names[6]) == (asked or of_card, first)


def test_without_a_model_the_imagenet_classes_of_an_installed_network_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path))
    request = read_request(build_config(PredictConfig, {"photos": "x"}))
    assert request.rule.labels == ("cat", "dog")
    assert request.rule.rest == "other"
    assert request.paths[0].startswith(str(tmp_path))
    said: list[str] = []
    heard(said, say_models, request)
    assert said[0].startswith(f"No --model: {request.spec.backbone} distinguishes cat from dog by its ImageNet classes")


def test_a_model_of_the_drawn_sample_says_so(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    card = json.loads((tmp_path / "model" / CARD_FILE).read_text())
    for photos, warned in (("", True), ("/my/photos", False)):
        (tmp_path / "model" / CARD_FILE).write_text(json.dumps({**card, "config": {"photos": photos}}))
        said: list[str] = []
        values = {"photos": "x", "model": (f"{tmp_path}/model",)}
        heard(said, say_models, read_request(build_config(PredictConfig, values)))
        assert (said != []) is warned
        assert all("drawn pictures" in line for line in said)
