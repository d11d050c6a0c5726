import json
from pathlib import Path

import numpy as np

from catdog import load_classifier
from catdog.evaluation.calibration import apply_temperature
from catdog.model.engines import read_model
from catdog.model.saved_model import copy_model, fold_temperature


def test_the_folded_model_gives_the_softened_probabilities(model_dir: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3)).astype(np.uint8)
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
