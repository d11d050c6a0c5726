import json
import subprocess
import sys
from pathlib import Path

import pytest
from heard import heard

from catdog.command_line.settings import build_config
from catdog.config import ExportConfig
from catdog.errors import FailureError, UsageError
from catdog.model import export as exports
from catdog.model.export import export


def run(model: Path, to: str, out: Path, **changes: str) -> tuple[str, list[str]]:
    lines: list[str] = []
    config = build_config(ExportConfig, {"model": str(model), "to": to, "out": str(out), **changes})
    return heard(lines, export, config), lines


@pytest.mark.parametrize(
    ("to", "files"),
    [
        ("savedmodel", {"model/saved_model.pb", "model/card.json", "model/variables/variables.index"}),
        ("tflite", {"model.tflite", "model.json"}),
        ("openvino", {"model.xml", "model.bin", "model.json"}),
        ("onnx", {"model.onnx", "model.json"}),
    ],
)
def test_an_exported_model_agrees_and_brings_its_card(
    model_dir: Path,
    photo_folder: Path,
    tmp_path: Path,
    to: str,
    files: set[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    for package in exports._PACKAGES.get(to, ()):
        pytest.importorskip(package)
    out, lines = run(model_dir, to, tmp_path / "model", photos=str(photo_folder))
    assert out == str(tmp_path / "model") + exports._SUFFIXES.get(to, "")
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files <= found
    card = next(tmp_path / name for name in files if name.endswith(".json"))
    assert json.loads(card.read_text())["classes"] == ["cat", "dog"]
    assert lines[0].startswith("Agreement on 10 photos: probabilities differ by up to ")
    assert lines[0].endswith("(at most 0.0001 is allowed).")
    assert "XNNPACK" not in capfd.readouterr().err  # a log line of TensorFlow Lite
    with pytest.raises(UsageError, match="exists already"):
        run(model_dir, to, tmp_path / "model")


def test_an_existing_folder_gets_the_export_inside_it_and_nothing_of_its_own_is_touched(
    model_dir: Path, photo_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    out, _ = run(model_dir, "openvino", tmp_path, photos=str(photo_folder))
    assert out == str(tmp_path / f"{model_dir.name}.xml")
    assert Path(out).is_file()
    assert (tmp_path / "mine.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="exists already and is not replaced"):
        run(model_dir, "openvino", tmp_path)


def test_a_model_that_does_not_agree_is_not_left(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "TOLERANCE", -1.0)  # no difference is as small as that
    with pytest.raises(FailureError, match=r"does not agree .* on 10 photos: .* nothing was written"):
        run(model_dir, "openvino", tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_mistakes_are_refused(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--model, --to and --out are needed"):
        export(ExportConfig())
    with pytest.raises(UsageError, match="is not a model directory"):
        run(tmp_path, "tflite", tmp_path / "model")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"no photo")
    with pytest.raises(UsageError, match="check the exported model with, found none"):
        run(model_dir, "tflite", tmp_path / "model", photos=str(tmp_path / "photos"))
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_the_command_refuses_an_unknown_format_in_one_line(model_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "jobs/export.py", "--model", model_dir, "--to", "coreml", "--out", tmp_path / "model"]
    job = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert job.returncode == 2
    assert job.stderr == "catdog: --to: expected one of savedmodel, tflite, onnx, openvino, int8, found 'coreml'\n"
