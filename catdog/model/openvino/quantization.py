"""Post-training quantization to int8 with NNCF, calibrated on some photos and evaluated on others."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import io
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from catdog.console import say
from catdog.errors import FailureError, UsageError, one_line
from catdog.model.engines import ModelBytes, OpenvinoRunner, read_model
from catdog.model.openvino.graph import build_graph, import_openvino
from catdog.model.openvino.int8_file import CARD_KEY, CONSTANTS_FILE, GRAPH_FILE, Int8Graph
from catdog.model.saved_model import CARD_FILE, read_card
from catdog.storage import files

LARGEST_DROP = 0.002  # of the accuracy; beyond it the accuracy-aware mode runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Int8Scores:
    """What quantization changed in a model's answers on photos that it was not calibrated on.

    `agreement` is the share of photos that keep their label. The accuracies are None if no labels were given.
    """

    calibration_photos: int
    photos: int
    agreement: float
    accuracy: float | None
    accuracy_int8: float | None
    accuracy_aware: bool


def require_nncf(flag: str) -> None:
    """Raise UsageError, naming `flag`, if NNCF is not installed."""
    if importlib.util.find_spec("nncf") is None:
        raise UsageError(f"{flag}: expected the package nncf, found none: pip install 'catdog-ray[int8]'")


def quantize_model(
    model_dir: str, *, calibration: np.ndarray, validation: np.ndarray, labels: np.ndarray | None, threads: int = 0
) -> Int8Scores:
    """Write the quantized graph of the model in `model_dir` next to its weights and its scores into the card.

    `calibration` and `validation` are uint8 (N, S, S, 3) images in the model's framing. `labels` (N,) are the class
    numbers of the validation images, or None. If accuracy drops by more than 0.2 percentage points, the layers that
    cost most stay in float32 (NNCF's accuracy control).
    Raises UsageError as `read_model` does and if NNCF is not installed, FailureError when quantization fails.
    """
    require_nncf("--to int8")
    model = read_model(model_dir)
    exact = _labels(build_graph(model.spec, model.weights), validation, threads=threads)
    graph, aware = _quantize(model, calibration), False
    found = _labels(_round_trip(graph).load(), validation, threads=threads)
    if labels is not None and np.mean(found == labels) < np.mean(exact == labels) - LARGEST_DROP:
        say(
            f"int8: accuracy {np.mean(found == labels):.4f}, in float32 {np.mean(exact == labels):.4f}: looking for "
            "the layers that cost it, to keep them in float32; this takes minutes."
        )
        graph, aware = _quantize_with_control(model, calibration, validation, labels), True
        found = _labels(_round_trip(graph).load(), validation, threads=threads)
    scores = Int8Scores(
        calibration_photos=len(calibration),
        photos=len(validation),
        agreement=float(np.mean(found == exact)),
        accuracy=None if labels is None else float(np.mean(exact == labels)),
        accuracy_int8=None if labels is None else float(np.mean(found == labels)),
        accuracy_aware=aware,
    )
    _write(model_dir, model, _round_trip(graph), scores)
    return scores


def _labels(graph: Any, images: np.ndarray, *, threads: int) -> np.ndarray:
    found: np.ndarray = OpenvinoRunner(graph, threads=threads or 2)(images)[0].argmax(axis=1)
    return found


def _quantize(model: ModelBytes, calibration: np.ndarray) -> Any:
    nncf = _import_nncf()
    with _quiet("quantization"):
        return nncf.quantize(
            build_graph(model.spec, model.weights),
            nncf.Dataset([image[np.newaxis] for image in calibration]),
            preset=nncf.QuantizationPreset.MIXED,  # swish has negative values
            subset_size=len(calibration),
        )


def _quantize_with_control(
    model: ModelBytes, calibration: np.ndarray, validation: np.ndarray, labels: np.ndarray
) -> Any:
    nncf = _import_nncf()

    def score(compiled: Any, images: Iterable[np.ndarray]) -> tuple[float, list[float]]:
        right = [float(compiled(image)[0].argmax() == label) for image, label in images]
        return float(np.mean(right)), right

    with _quiet("quantization with accuracy control"):
        return nncf.quantize_with_accuracy_control(
            build_graph(model.spec, model.weights),
            calibration_dataset=nncf.Dataset([image[np.newaxis] for image in calibration]),
            validation_dataset=nncf.Dataset(
                [(image[np.newaxis], label) for image, label in zip(validation, labels, strict=True)],
                lambda pair: pair[0],
            ),
            validation_fn=score,
            max_drop=LARGEST_DROP,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(calibration),
        )


def _import_nncf() -> Any:
    import_openvino()  # without its telemetry, which NNCF would start
    import nncf

    nncf.set_log_level("ERROR")
    return nncf


@contextlib.contextmanager
def _quiet(step: str) -> Any:
    """Keep NNCF's progress bars off the console. Raises FailureError, naming `step`, for NNCF's errors."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    except (RuntimeError, ValueError) as error:
        raise FailureError(f"{step} failed: {one_line(error)}") from error


def _round_trip(graph: Any) -> Int8Graph:
    """Return `graph` as it is stored, so that what is evaluated is what will be read."""
    with tempfile.TemporaryDirectory(prefix="catdog-") as folder:
        path = Path(folder) / GRAPH_FILE
        import_openvino().save_model(graph, str(path), compress_to_fp16=False)
        return Int8Graph(xml=path.read_bytes(), constants=path.with_suffix(".bin").read_bytes())


def _write(model_dir: str, model: ModelBytes, graph: Int8Graph, scores: Int8Scores) -> None:
    """Write the constants, the graph, and last the card, whose entry makes them valid."""
    directory = files.absolute(model_dir)
    files.write_bytes(files.join(directory, CONSTANTS_FILE), graph.constants)
    files.write_bytes(files.join(directory, GRAPH_FILE), graph.xml)
    said = {
        **dataclasses.asdict(scores),
        "checksum": graph.checksum,
        "weights": hashlib.sha256(model.weights).hexdigest(),
    }
    files.write_json(files.join(directory, CARD_FILE), {**read_card(model_dir), CARD_KEY: said})
