from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from catdog.command_line.settings import build_config
from catdog.config import ExportConfig
from catdog.errors import FailureError, UsageError
from catdog.model.engines import EngineSpec, check_precision, read_model
from catdog.model.export import export
from catdog.model.imagenet_model import write_imagenet_model
from catdog.model.openvino import quantization
from catdog.model.openvino.graph import build_graph
from catdog.photos.decoding.decode import decode_image
from catdog.photos.sample import draw_sample


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    draw_sample(folder, per_class=4, seed=1)
    return folder


@pytest.fixture(scope="module")
def quantized(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model with ImageNet's head, quantized by the export job."""
    pytest.importorskip("nncf")
    directory = tmp_path_factory.mktemp("model")
    write_imagenet_model(directory, backbone="efficientnet-lite0")
    config = build_config(ExportConfig, {"model": str(directory), "to": "int8", "photos": str(photos)})
    assert export(config) == str(directory)
    return directory


def test_a_quantized_model_answers_nearly_as_before(quantized: Path, photos: Path) -> None:
    assert {file.name for file in quantized.iterdir()} == {"card.json", "weights.h5", "int8.xml", "int8.bin"}
    said = json.loads((quantized / "card.json").read_text())["int8"]
    assert (said["calibration_photos"], said["photos"], said["accuracy_aware"]) == (4, 4, False)
    assert said["agreement"] >= 0.75
    plain, model = read_model(str(quantized)), read_model(str(quantized), precision="int8")
    assert plain.fingerprint != model.fingerprint
    images = [
        decode_image(file.read_bytes(), size=224, framing=model.spec.framing) for file in sorted(photos.rglob("*.jpg"))
    ]
    exact, found = (
        EngineSpec(model=one, engine="openvino", precision=precision).load(batch_size=1, threads=2)(np.stack(images))
        for one, precision in ((plain, "float32"), (model, "int8"))
    )
    # CPUs without VNNI sum int8 products less exactly: 0.055 on a CPU that has only AVX2.
    assert 1e-6 < np.abs(exact - found).mean() < 0.1
    assert (quantized / "int8.bin").stat().st_size < (quantized / "weights.h5").stat().st_size / 3


def test_a_quantized_graph_of_other_weights_or_operations_is_refused(quantized: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(quantized, folder)
    content = (folder / "int8.xml").read_bytes()
    for strange, message in (
        (content.replace(b'type="Clamp"', b'type="ReadValue"', 1), "operations of a classifier, found ReadValue"),
        (content.replace(b"<net", b"<!DOCTYPE net><net", 1), "as OpenVINO writes it"),
        (content[:1000], "expected XML"),
        (content.replace(b"224", b"225"), "belongs to other weights"),
    ):
        (folder / "int8.xml").write_bytes(strange)
        with pytest.raises(UsageError, match=message):
            read_model(str(folder), precision="int8")
    read_model(str(folder))  # float32 does not need the quantized graph


def test_int8_is_refused_where_it_was_not_made_or_cannot_run(model_dir: Path) -> None:
    with pytest.raises(UsageError, match=r"has no quantized graph; make one with: python jobs/export.py --to int8"):
        read_model(str(model_dir), precision="int8")
    with pytest.raises(UsageError, match="--precision int8: expected OpenVINO on CPUs"):
        check_precision("int8", engine="tensorflow", gpus=False)
    with pytest.raises(FailureError, match="without its quantized graph"):
        EngineSpec(model=read_model(str(model_dir)), engine="openvino", precision="int8").load(batch_size=1, threads=1)
    with pytest.raises(UsageError, match="give --model, and no --out"):
        export(build_config(ExportConfig, {"model": str(model_dir), "to": "int8", "out": "x"}))
    pytest.importorskip("nncf")
    with pytest.raises(UsageError, match="is not in its run directory: give --photos"):
        export(build_config(ExportConfig, {"model": str(model_dir), "to": "int8"}))


def test_the_accuracy_aware_mode_runs_where_plain_quantization_loses_too_much(
    quantized: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.stack([decode_image(file.read_bytes(), size=224) for file in sorted(photos.rglob("*.jpg"))[:4]])
    folder = tmp_path / "model"
    shutil.copytree(quantized, folder)
    labels = np.array([2, 2, 2, 2])
    answers = iter([labels, 1 - labels, labels])  # float32, int8, accuracy-aware int8
    monkeypatch.setattr(quantization, "_labels", lambda *_, **__: next(answers))
    controlled = []
    monkeypatch.setattr(
        quantization,
        "_quantize_with_control",
        lambda model, *_: controlled.append(1) or build_graph(model.spec, model.weights),
    )
    monkeypatch.setattr(quantization, "_quantize", lambda model, *_: build_graph(model.spec, model.weights))
    scores = quantization.quantize_model(str(folder), calibration=images, validation=images, labels=labels)
    assert controlled == [1]
    assert (scores.accuracy_aware, scores.accuracy_int8) == (True, 1.0)
    assert "int8: accuracy 0.0000, in float32 1.0000: looking for the layers that cost it" in capsys.readouterr().out
