from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_photos import save_classifier

from catdog.errors import FailureError, UsageError
from catdog.model import engines
from catdog.model.engines import (
    EngineSpec,
    check_cpu,
    check_precision,
    choose_engine,
    choose_trunk_precision,
    has_bfloat16,
    is_slow_in_bfloat16,
    precision_warning,
    read_model,
)
from catdog.photos.decoding.decode import decode_image
from catdog.photos.sample import draw_sample


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Return 27 images (drawn pictures, noise, flat colours), which is no multiple of the batch sizes 8 and 32."""
    folder = tmp_path_factory.mktemp("drawn")
    draw_sample(folder, seed=1)
    drawn = [decode_image(path.read_bytes(), size=64) for path in sorted(folder.rglob("*.jpg"))[:16]]
    random = np.random.default_rng(0)
    noise = [random.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(8)]
    flat = [np.full((64, 64, 3), level, np.uint8) for level in (0, 128, 255)]
    return np.stack([*drawn, *noise, *flat])


def test_tensorflow_answers_as_the_saved_classifier_does(model_dir: Path, images: np.ndarray) -> None:
    from catdog.model.classifier import load_classifier

    engine = EngineSpec(model=read_model(str(model_dir))).load(batch_size=8, threads=2)
    found = engine(images)
    assert (found.shape, found.dtype) == ((27, 2), np.float32)
    np.testing.assert_allclose(found, load_classifier(str(model_dir)).predict_images(images), atol=1e-5)
    assert engine(images[:0]).shape == (0, 2)


def test_openvino_agrees_with_tensorflow(model_dir: Path, images: np.ndarray) -> None:
    model = read_model(str(model_dir))
    wanted = EngineSpec(model=model).load(batch_size=8, threads=2)(images)
    spec = EngineSpec(model=model, engine="openvino")
    one, two = (spec.load(batch_size=32, threads=threads)(images) for threads in (1, 2))
    np.testing.assert_allclose(one, wanted, atol=1e-5)
    np.testing.assert_array_equal(one, two)  # a job that resumes on another node gives the same rows
    assert spec.load(batch_size=1, threads=1)(images[:0]).shape == (0, len(model.spec.classes))


def test_bfloat16_moves_probabilities_a_little_and_no_label_that_was_sure(model_dir: Path, images: np.ndarray) -> None:
    model = read_model(str(model_dir))
    spec = EngineSpec(model=model, engine="openvino", precision="bfloat16")
    if not has_bfloat16():
        with pytest.raises(FailureError, match="expected a CPU that computes in it"):
            spec.load(batch_size=1, threads=1)
        return
    exact = EngineSpec(model=model, engine="openvino").load(batch_size=1, threads=2)(images)
    one, two = (spec.load(batch_size=1, threads=threads)(images) for threads in (1, 2))
    assert one.dtype == np.float32
    np.testing.assert_array_equal(one, two)
    moved = np.abs(one - exact)
    assert 1e-5 < moved.mean() < 0.03
    sure = exact.max(axis=1) > 0.65
    assert sure.any()
    np.testing.assert_array_equal(one[sure].argmax(axis=1), exact[sure].argmax(axis=1))


def test_tensorflow_computes_in_bfloat16_too_where_it_has_a_gpu(model_dir: Path, images: np.ndarray) -> None:
    # TensorFlow emulates bfloat16 on any CPU, so this test needs no GPU.
    model = read_model(str(model_dir))
    exact, found = (
        EngineSpec(model=model, precision=precision).load(batch_size=8, threads=2)(images[:8])
        for precision in ("float32", "bfloat16")
    )
    assert found.dtype == np.float32
    assert 1e-5 < np.abs(found - exact).mean() < 0.03


def test_bfloat16_is_refused_where_it_would_be_imitated() -> None:
    check_precision("bfloat16", engine="tensorflow", gpus=True)
    check_precision("bfloat16", engine="openvino", gpus=False)
    check_precision("float32", engine="tensorflow", gpus=False)
    with pytest.raises(UsageError, match=r"--precision bfloat16: expected GPUs or --engine openvino, found TensorFlow"):
        check_precision("bfloat16", engine="tensorflow", gpus=False)
    check_cpu("bfloat16", ["FP32", "BF16", "INT8"])
    check_cpu("float32", ["FP32"])
    with pytest.raises(FailureError, match=r"AVX512_BF16 or AMX\), found none on .*: use --precision float32"):
        check_cpu("bfloat16", ["FP32", "INT8"])


def test_the_trunk_computes_in_bfloat16_where_it_is_asked_to_or_everybody_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "gains_from_bfloat16", lambda: True)
    assert choose_trunk_precision("auto", single_node=True, gpus=False) == "bfloat16"
    assert choose_trunk_precision("auto", single_node=False, gpus=False) == "float32"
    assert choose_trunk_precision("auto", single_node=True, gpus=True) == "float32"
    assert choose_trunk_precision("bfloat16", single_node=False, gpus=False) == "bfloat16"
    with pytest.raises(UsageError, match="--trunk-precision bfloat16: expected a trunk on CPUs, found GPUs"):
        choose_trunk_precision("bfloat16", single_node=True, gpus=True)
    monkeypatch.setattr(engines, "gains_from_bfloat16", lambda: False)
    assert choose_trunk_precision("auto", single_node=True, gpus=False) == "float32"


def test_openvino_needs_no_tensorflow_and_tells_nobody(model_dir: Path, tmp_path: Path) -> None:
    program = (
        "import sys, json, numpy as np\n"
        "from catdog.model.engines import *\n"
        f"spec = EngineSpec(model=read_model({str(model_dir)!r}), engine='openvino')\n"
        "found = spec.load(batch_size=1, threads=1)(np.zeros((1, 64, 64, 3), np.uint8))\n"
        "loaded = [name for name in ('openvino', 'tensorflow', 'openvino_telemetry') if sys.modules.get(name)]\n"
        "print(json.dumps([found.tolist(), loaded]))"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "CATDOG_CACHE": str(tmp_path / "cache")}
    environment.pop("KERAS_HOME", None)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    (probabilities,), loaded = json.loads(ended.stdout)
    assert (sum(probabilities), loaded, ended.stderr) == (pytest.approx(1), ["openvino"], "")
    # OpenVINO's telemetry would write a consent file to the home directory, and Keras a settings file.
    assert not list(tmp_path.iterdir())


def test_openvino_is_taken_on_cpus_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: object())
    assert [choose_engine("auto", gpus=gpus) for gpus in (False, True)] == ["openvino", "tensorflow"]
    assert choose_engine("tensorflow", gpus=False) == "tensorflow"
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    assert choose_engine("auto", gpus=False) == "tensorflow"
    with pytest.raises(UsageError, match=r"pip install openvino"):
        choose_engine("openvino", gpus=False)


def test_a_model_is_named_by_what_decides_its_answers(model_dir: Path, tmp_path: Path) -> None:
    first, again = read_model(str(model_dir)), read_model(str(model_dir))
    other = read_model(str(save_classifier(tmp_path, seed=7)))
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_half_a_model_directory_is_refused(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a model directory"):
        read_model(str(tmp_path))
    (tmp_path / "card.json").write_bytes((model_dir / "card.json").read_bytes())
    with pytest.raises(UsageError, match=r"weights\.h5 is missing$"):
        read_model(str(tmp_path))
    (tmp_path / "weights.h5").write_bytes((model_dir / "weights.h5").read_bytes()[:100_000])
    with pytest.raises(UsageError, match=r"weights\.h5: cannot be read as HDF5: .*truncated"):
        read_model(str(tmp_path))


def test_a_precision_that_gains_nothing_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "gains_from_bfloat16", lambda: False)
    warning = precision_warning("bfloat16", single_node=True, gpus=False)
    assert warning == "Warning: this CPU is not faster in bfloat16 than in float32: leave out --precision bfloat16."
    assert precision_warning("float32", single_node=True, gpus=False) == ""
    assert precision_warning("bfloat16", single_node=True, gpus=True) == ""
    assert precision_warning("bfloat16", single_node=False, gpus=False) == ""  # the others may be faster
    monkeypatch.setattr(engines, "gains_from_bfloat16", lambda: True)
    assert precision_warning("bfloat16", single_node=True, gpus=False) == ""


def test_a_cpu_of_intel_is_faster_in_bfloat16_only_with_amx() -> None:
    intel, amd = "vendor_id\t: GenuineIntel\nflags\t\t: ", "vendor_id\t: AuthenticAMD\nflags\t\t: "
    assert is_slow_in_bfloat16(f"{intel}avx512f avx512_bf16 avx512_fp16\n")
    assert not is_slow_in_bfloat16(f"{intel}avx512f avx512_bf16 amx_bf16 amx_tile\n")
    assert not is_slow_in_bfloat16(f"{amd}avx512f avx512_bf16\n")
    assert not is_slow_in_bfloat16("")  # no Linux: what OpenVINO says counts
