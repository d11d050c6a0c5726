import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from catdog import load_classifier
from catdog.errors import FailureError, UsageError
from catdog.evaluation.calibration import apply_temperature
from catdog.model.engines import EngineSpec, read_model
from catdog.model.saved_model import copy_model, fold_temperature, read_card, spec_from_card, spec_to_card
from catdog.photos.decoding.framing import SQUASH, Framing


def test_the_folded_model_gives_the_softened_probabilities(model_dir: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    plain = load_classifier(str(model_dir)).predict_images(images)
    (tmp_path / "card.json").write_bytes((model_dir / "card.json").read_bytes())
    folded = fold_temperature((model_dir / "weights.h5").read_bytes(), 2.5)
    (tmp_path / "weights.h5").write_bytes(folded)
    assert len(folded) == (model_dir / "weights.h5").stat().st_size
    found = load_classifier(str(tmp_path)).predict_images(images)
    np.testing.assert_allclose(found, apply_temperature(plain, 2.5), atol=1e-6)


def test_the_copy_of_a_model_is_calibrated_and_says_so_and_its_source_stays(model_dir: Path, tmp_path: Path) -> None:
    before = read_model(str(model_dir))
    copy_model(str(model_dir), str(tmp_path / "copy"), temperature=2.5)
    assert json.loads((tmp_path / "copy" / "card.json").read_text())["temperature"] == 2.5
    assert read_model(str(tmp_path / "copy")).weights == fold_temperature(before.weights, 2.5)
    assert read_model(str(model_dir)) == before
    copy_model(str(model_dir), str(tmp_path / "plain"), temperature=1.0)
    assert read_model(str(tmp_path / "plain")).weights == before.weights


CARD = {
    "format": 1, "backbone": "efficientnet-lite0", "image_size": 224, "classes": ["cat", "dog"], "pooling": "avg",
    "dropout": 0.2, "input_scale": [0.1, 0.1, 0.1], "input_offset": [0, -1.0, 0],
}  # fmt: skip


def test_a_card_comes_back_as_it_was_written_and_one_of_an_earlier_version_squashes() -> None:
    old = spec_from_card(CARD, where="m")
    assert (old.framing, old.output_units) == (SQUASH, 0)
    assert "resize" not in old.settings()  # settings decide the fingerprint, and old results must stay valid
    new = spec_from_card({**CARD, "resize": "crop", "resampling": "bicubic", "output_units": 1000}, where="m")
    assert (new.framing, new.output_units) == (Framing(resize="crop", resampling="bicubic"), 1000)
    for spec in (old, new):
        assert spec_from_card(json.loads(json.dumps(spec_to_card(spec))), where="m") == spec
    assert new.tensor_shapes()["class_sums"] == {"kernel": (1000, 2)}


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("image_size", "224", "expected a whole number from 32 to 2048, found '224'"),
        ("image_size", 10**9, "found 1000000000"),
        ("image_size", True, "found True"),
        ("backbone", "resnet50", "expected one of efficientnet-lite0, .*, found 'resnet50'"),
        ("backbone", ["efficientnet-b0"], "found"),
        ("pooling", "nope", "expected one of avg, max, found 'nope'"),
        ("classes", ["cat", "cat"], "expected a list of distinct names"),
        ("classes", ["cat", 3], "expected a list of distinct names"),
        ("classes", "cat", "expected a list of distinct names"),
        ("classes", ["\udce9", "dog"], "expected a list of distinct names"),  # JSON can hold this, a table cannot
        ("classes", [], "expected a list of distinct names"),
        ("dropout", float("nan"), "expected a number from 0 to below 1, found nan"),
        ("dropout", 1, "found 1"),
        ("input_scale", [1.0, float("inf"), 1.0], "expected three numbers"),
        ("input_offset", [0.0, 0.0], "expected three numbers"),
        ("input_offset", None, "expected three numbers, found None"),
        ("resize", "stretch", "expected one of squash, crop, pad"),
        ("resampling", 3, "expected one of bilinear, bicubic"),
        ("threshold", "high", "expected a number from 0 to 1"),
        ("rest", 3, "expected a string"),
        ("output_units", -1, "expected a whole number from 0"),
    ],
)
def test_a_card_of_wrong_types_or_ranges_is_refused_by_the_name_of_the_key(key: str, value: object, found: str) -> None:
    with pytest.raises(UsageError, match=rf"m: the model card's {key}: .*{found}") as caught:
        spec_from_card({**CARD, key: value}, where="m")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":', "[1]", "\x00", '"text"'])
def test_what_is_no_card_is_one_line_and_never_to_be_deleted(content: str, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(content)
    with pytest.raises(UsageError, match=r"card\.json: expected a model card") as caught:
        read_card(str(tmp_path))
    assert "delete" not in str(caught.value)
    (tmp_path / "card.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UsageError, match="pointer of Git LFS"):
        read_card(str(tmp_path))


def test_a_run_directory_given_as_a_model_is_told_where_the_model_is(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(model_dir)
    with pytest.raises(UsageError, match=rf"RUN_DIR/model; did you mean {tmp_path}/model\?$"):
        read_card(str(tmp_path))


def test_a_folder_in_the_place_of_the_weights_is_one_line(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_bytes((model_dir / "card.json").read_bytes())
    (tmp_path / "weights.h5").mkdir()
    with pytest.raises(UsageError, match=rf"^{tmp_path}: weights\.h5 cannot be read: "):
        read_model(str(tmp_path))


def test_every_engine_refuses_weights_of_other_classes_than_the_card_s(model_dir: Path, tmp_path: Path) -> None:
    card = {**json.loads((model_dir / "card.json").read_text()), "classes": ["bird", "cat", "dog"]}
    (tmp_path / "card.json").write_text(json.dumps(card))
    (tmp_path / "weights.h5").write_bytes((model_dir / "weights.h5").read_bytes())
    fault = r"mis-shaped: fc_out/bias \(2,\) instead of \(3,\)"
    with pytest.raises(UsageError, match=fault):
        read_model(str(tmp_path))
    with pytest.raises(FailureError, match=fault):
        load_classifier(str(tmp_path))
    unchecked = dataclasses.replace(read_model(str(model_dir)), spec=spec_from_card(card, where="m"))
    for engine in ("openvino", "tensorflow"):
        with pytest.raises(FailureError, match=fault):
            EngineSpec(model=unchecked, engine=engine).load(batch_size=1, threads=1)
