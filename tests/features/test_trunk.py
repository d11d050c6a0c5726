from __future__ import annotations

import numpy as np
import pytest

from catdog.config import AugmentationConfig
from catdog.features import trunk
from catdog.features.spec import Extraction
from catdog.features.trunk import Trunk
from catdog.model.backbone_specs import HEAD_CUT, INPUT_CUT
from catdog.model.openvino.graph import can_cut
from catdog.model.weights.pretrained import load_weights
from catdog.photos.decoding.limits import DecodeLimits


def extraction(**changes: object) -> Extraction:
    pretrained = load_weights("efficientnet-lite0", weights="imagenet")
    assert pretrained is not None
    values = {
        "backbone": "efficientnet-lite0", "image_size": 64, "scaling": pretrained.scaling,
        "pooling": "avg", "weights_checksum": pretrained.checksum, "cut": HEAD_CUT,
        "dtype": "float16", "seed": 0, "limits": DecodeLimits(), "augmentation": AugmentationConfig(), **changes,
    }  # fmt: skip
    return Extraction(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_the_features_are_the_same_whatever_computes_them(pooling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cuts = (HEAD_CUT, "block7a_project_conv", "block6a_expand_conv", INPUT_CUT)
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    images[3:] //= 3
    pretrained = load_weights("efficientnet-lite0", weights="imagenet")
    fast = Trunk(extraction(pooling=pooling), cuts, pretrained, threads=2)
    assert type(fast._run).__name__ == "OpenvinoRunner"
    monkeypatch.setattr(trunk, "choose_engine", lambda *_, **__: "tensorflow")
    plain = Trunk(extraction(pooling=pooling), cuts, pretrained, threads=2)
    assert type(plain._run).__name__ == "_TensorflowTrunk"
    ours, theirs = fast(images), plain(images)
    assert [ours[cut].shape for cut in cuts] == [(5, 1280), (5, 2, 2, 1152), (5, 4, 4, 112), (5, 64, 64, 3)]
    for cut in cuts:
        # Far below the precision of float16, in which features are stored.
        np.testing.assert_allclose(ours[cut], theirs[cut], atol=1e-4, rtol=1e-4)
    assert [fast(images[:0])[cut].shape[0] for cut in cuts] == [0, 0, 0, 0]


def test_gpus_and_random_weights_stay_with_tensorflow() -> None:
    pretrained = load_weights("efficientnet-lite0", weights="imagenet")
    for weights, gpu in ((pretrained, True), (None, False)):
        built = Trunk(extraction(), (HEAD_CUT,), weights, threads=1, gpu=gpu)
        assert type(built._run).__name__ == "_TensorflowTrunk"


def test_a_cut_behind_a_folded_layer_stays_with_tensorflow() -> None:
    assert [can_cut(cut) for cut in ("stem_conv", "block2a_dwconv", "top_conv", HEAD_CUT)] == [True] * 4
    assert [can_cut(cut) for cut in ("block7a_project_bn", "top_activation", "gap", "conv")] == [False] * 4
