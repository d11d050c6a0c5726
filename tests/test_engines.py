from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import save_classifier

from catdog import engines
from catdog.card import ClassifierSpec
from catdog.engines import EngineSpec, choose_engine, convert_to_openvino, prepare_engine, read_model
from catdog.errors import UsageError
from catdog.images import decode_image
from catdog.sample import draw_sample

# Not pytest.importorskip: it would import OpenVINO with its telemetry.
needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs the extra openvino")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Noise, flat colours and drawn pictures, 67 of them: no multiple of a batch."""
    folder = tmp_path_factory.mktemp("drawn")
    draw_sample(folder, seed=1)
    drawn = [decode_image(path.read_bytes(), size=224) for path in sorted(folder.rglob("*.jpg"))[:56]]
    random = np.random.default_rng(0)
    noise = [random.integers(0, 256, (224, 224, 3), np.uint8) for _ in range(8)]
    flat = [np.full((224, 224, 3), level, np.uint8) for level in (0, 128, 255)]
    return np.stack([*drawn, *noise, *flat])


def test_tensorflow_answers_as_the_saved_classifier_does(model_dir: Path, images: np.ndarray) -> None:
    from catdog.model import load_classifier

    engine = EngineSpec(model=read_model(str(model_dir))).load(batch_size=32, threads=2)
    found = engine(images)
    assert (found.shape, found.dtype) == ((67, 2), np.float32)
    np.testing.assert_allclose(found, load_classifier(str(model_dir)).predict_images(images), atol=1e-5)
    assert engine(images[:0]).shape == (0, 2)


def random_b0(directory: Path) -> Path:
    import tf_keras

    from catdog import model
    from catdog.card import spec_to_card

    tf_keras.utils.set_random_seed(3)
    spec = ClassifierSpec(
        backbone="efficientnet-b0", image_size=224, classes=("a", "b", "c"), pooling="max", dropout=0.0,
        input_scale=(1 / 255,) * 3, input_offset=(0.0,) * 3,
    )  # fmt: skip
    model.save_model(directory, model.build_classifier(spec), spec_to_card(spec))
    return directory


@needs_openvino
@pytest.mark.parametrize("backbone", ["lite0", "b0"])
def test_openvino_agrees_with_tensorflow(
    backbone: str, model_dir: Path, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))
    model = read_model(str(model_dir if backbone == "lite0" else random_b0(tmp_path)))
    wanted = EngineSpec(model=model).load(batch_size=32, threads=2)(images)
    spec = prepare_engine(model, "openvino", convert=convert_to_openvino)
    one, two = (spec.load(batch_size=32, threads=threads)(images) for threads in (1, 2))
    np.testing.assert_allclose(one, wanted, atol=1e-4)
    np.testing.assert_array_equal(one, two)  # a job that goes on elsewhere gives the same rows
    assert spec.load(batch_size=1, threads=1)(images[:0]).shape == (0, len(model.spec.classes))


@needs_openvino
def test_a_model_is_converted_once_and_then_runs_without_tensorflow(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path))
    model, calls = read_model(str(model_dir)), list[int]()

    def convert(model: engines.ModelBytes) -> tuple[bytes, bytes]:
        calls.append(1)
        return convert_to_openvino(model)

    first = prepare_engine(model, "openvino", convert=convert)
    assert prepare_engine(model, "openvino", convert=convert) == first
    assert len(calls) == 1
    program = (
        "import sys, json, numpy as np\n"
        "from catdog.engines import *\n"
        f"spec = prepare_engine(read_model({str(model_dir)!r}), 'openvino', convert=None)\n"
        "found = spec.load(batch_size=1, threads=1)(np.zeros((1, 224, 224, 3), np.uint8))\n"
        "loaded = [name for name in ('tensorflow', 'openvino_telemetry') if sys.modules.get(name)]\n"
        "print(json.dumps([found.tolist(), loaded]))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    (probabilities,), loaded = json.loads(ended.stdout)
    assert (sum(probabilities), loaded, ended.stderr) == (pytest.approx(1), [], "")


@needs_openvino
def test_a_conversion_tells_nobody(model_dir: Path, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from catdog.engines import *\n"
        f"convert_to_openvino(read_model({str(model_dir)!r}))\n"
        "assert not sys.modules.get('openvino_telemetry')\n"
        "assert 'openvino' in sys.modules\n"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "CATDOG_CACHE": str(tmp_path / "cache")}
    environment.pop("KERAS_HOME", None)
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, env=environment)
    # OpenVINO's telemetry would keep a file of consent in the home directory, Keras one of settings.
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@needs_openvino
def test_a_conversion_that_was_cut_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path))
    model = engines.ModelBytes(spec=None, weights=b"", fingerprint="f" * 16)  # type: ignore[arg-type]
    prepare_engine(model, "openvino", convert=lambda _: (b"graph", b"weights"))
    (stored,) = (tmp_path / "openvino").glob("*.bin")
    stored.write_bytes(b"wei")
    assert prepare_engine(model, "openvino", convert=lambda _: (b"g", b"w")).converted == (b"g", b"w")
    assert stored.read_bytes() == b"w"


@needs_openvino
def test_a_cache_that_cannot_be_written_does_not_stop_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "file"))
    model = engines.ModelBytes(spec=None, weights=b"", fingerprint="f" * 16)  # type: ignore[arg-type]
    assert prepare_engine(model, "openvino", convert=lambda _: (b"g", b"w")).converted == (b"g", b"w")


def test_openvino_is_taken_on_cpus_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: object())
    assert [choose_engine("auto", gpus=gpus) for gpus in (False, True)] == ["openvino", "tensorflow"]
    assert choose_engine("tensorflow", gpus=False) == "tensorflow"
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    assert choose_engine("auto", gpus=False) == "tensorflow"
    with pytest.raises(UsageError, match=r"pip install 'catdog\[openvino\]'"):
        choose_engine("openvino", gpus=False)


def test_a_model_is_named_by_what_decides_its_answers(model_dir: Path, tmp_path: Path) -> None:
    first, again = read_model(str(model_dir)), read_model(str(model_dir))
    other = read_model(str(save_classifier(tmp_path, seed=7)))
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_half_a_model_directory_is_refused(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a model directory"):
        read_model(str(tmp_path))
    (tmp_path / "card.json").write_bytes((model_dir / "card.json").read_bytes())
    with pytest.raises(UsageError, match=r"weights\.h5 is missing in it"):
        read_model(str(tmp_path))
