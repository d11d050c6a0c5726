"""What runs a saved model: uint8 images in, probabilities out. TensorFlow always; OpenVINO where it is installed.

OpenVINO runs the same float32 model about one and a half times as fast on CPUs, and starts without TensorFlow. The
model is converted once and kept in `openvino/` of artifacts.cache_directory under its fingerprint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from catdog import artifacts
from catdog.artifacts import cache_directory
from catdog.card import WEIGHTS_FILE, ClassifierSpec, read_card, spec_from_card
from catdog.errors import FailureError, UsageError
from catdog.keras_environment import set_keras_environment


class Engine(Protocol):
    """A model that is ready to label."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return float32 (N, classes) probabilities of uint8 (N, S, S, 3) RGB `images`; N may be 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelBytes:
    """A saved model in memory, so that workers need neither its place nor the network."""

    spec: ClassifierSpec
    weights: bytes  # the content of weights.h5
    fingerprint: str  # 16 hex digits: what decides its answers


def read_model(model_dir: str) -> ModelBytes:
    """Read the model that a train job left in `model_dir`, a path or URI.

    Raises UsageError when it is not a model directory.
    """
    spec = spec_from_card(read_card(model_dir), where=model_dir)
    path = artifacts.join(artifacts.absolute(model_dir), WEIGHTS_FILE)
    try:
        weights = artifacts.read_bytes(path)
    except FileNotFoundError as error:
        raise UsageError(f"{model_dir} is not a whole model directory: {WEIGHTS_FILE} is missing in it") from error
    checksum = hashlib.sha256(weights).hexdigest()
    # What only training knows of, dropout, is left out: it is no part of an answer.
    decides = {**dataclasses.asdict(spec), "dropout": None, "weights": checksum}
    return ModelBytes(spec=spec, weights=weights, fingerprint=artifacts.fingerprint(decides))


def choose_engine(asked: str, *, gpus: bool) -> str:
    """Return `tensorflow` or `openvino`; `auto` is OpenVINO where it is installed and the job has no GPUs.

    Raises UsageError when OpenVINO is asked for and not installed.
    """
    installed = importlib.util.find_spec("openvino") is not None
    if asked == "openvino" and not installed:
        raise UsageError("--engine openvino: expected the package openvino, found none: pip install 'catdog[openvino]'")
    if asked == "auto":
        return "openvino" if installed and not gpus else "tensorflow"
    return asked


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """A model and what runs it, in memory: what a worker builds its Engine from."""

    model: ModelBytes
    converted: tuple[bytes, bytes] | None = None  # OpenVINO's two files, graph and weights

    def load(self, *, batch_size: int, threads: int) -> Engine:
        """Build the engine; `batch_size` is TensorFlow's, OpenVINO takes one image a thread."""
        if self.converted is None:
            return TensorflowEngine(self.model, batch_size=batch_size, threads=threads)
        return OpenvinoEngine(*self.converted, classes=len(self.model.spec.classes), threads=threads)


def prepare_engine(
    model: ModelBytes, engine: str, *, convert: Callable[[ModelBytes], tuple[bytes, bytes]]
) -> EngineSpec:
    """Return what workers need to run `model` on `engine`.

    `convert` is convert_to_openvino or calls it in another process; it is called where the cache has no conversion.
    """
    if engine == "tensorflow":
        return EngineSpec(model=model)
    version = importlib.metadata.version("openvino")
    place = cache_directory() / "openvino" / f"{model.fingerprint}-{version}"
    converted = _read_cached(place)
    if converted is None:
        converted = convert(model)
        with contextlib.suppress(FailureError):  # a cache that cannot be written costs time, not the job
            # Its checksum goes last: without it the other two do not count.
            for suffix, content in zip((".xml", ".bin", ".sha256"), (*converted, _checksum(*converted)), strict=True):
                artifacts.write_bytes(f"{place}{suffix}", content)
    return EngineSpec(model=model, converted=converted)


def _read_cached(place: Path) -> tuple[bytes, bytes] | None:
    """Return the conversion at `place`, or None where there is none or it is damaged."""
    try:
        graph, weights, checksum = (Path(f"{place}{suffix}").read_bytes() for suffix in (".xml", ".bin", ".sha256"))
    except OSError:
        return None
    return (graph, weights) if checksum == _checksum(graph, weights) else None


def _checksum(graph: bytes, weights: bytes) -> bytes:
    return hashlib.sha256(graph + weights).hexdigest().encode()


def convert_to_openvino(model: ModelBytes) -> tuple[bytes, bytes]:
    """Convert `model` by OpenVINO's own converter, in float32; return the content of its .xml and .bin files."""
    set_keras_environment()
    import tensorflow as tf

    from catdog.model import build_classifier, set_weights

    openvino = _import_openvino()
    network = build_classifier(model.spec)
    set_weights(network, model.weights, where="the model")
    size = model.spec.image_size
    run = tf.function(
        lambda image: tf.identity(network(image, training=False), name="probabilities"),
        input_signature=[tf.TensorSpec((None, size, size, 3), tf.uint8, name="image")],
    )
    converted = openvino.convert_model(run.get_concrete_function(), input=[("image", [-1, size, size, 3])])
    # B0's activations have gradients of their own, whose inputs the converter takes for outputs of the model.
    (output,) = (output for output in converted.outputs if "probabilities:0" in output.names)
    converted = openvino.Model([output.node.input_value(0)], converted.get_parameters(), "classifier")
    with tempfile.TemporaryDirectory(prefix="catdog-") as folder:
        graph = Path(folder) / "model.xml"
        openvino.save_model(converted, str(graph), compress_to_fp16=False)
        return graph.read_bytes(), graph.with_suffix(".bin").read_bytes()


def _import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which reports each conversion over the network unless one opts out."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


class TensorflowEngine:
    """The model in TensorFlow, on the GPU where the process has one."""

    def __init__(self, model: ModelBytes, *, batch_size: int, threads: int) -> None:
        set_keras_environment()
        import tensorflow as tf

        from catdog.model import build_classifier, configure_tensorflow, set_weights

        configure_tensorflow(threads=threads)
        network = build_classifier(model.spec)
        set_weights(network, model.weights, where="the model")
        size = model.spec.image_size
        self._batch, self._classes = batch_size, len(model.spec.classes)
        self._run = tf.function(
            lambda images: network(images, training=False),
            input_signature=[tf.TensorSpec((None, size, size, 3), tf.uint8)],
        )

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities of `images`, as Engine says."""
        found = [self._run(images[start : start + self._batch]).numpy() for start in range(0, len(images), self._batch)]
        return np.concatenate(found) if found else np.zeros((0, self._classes), np.float32)


class OpenvinoEngine:
    """The model in OpenVINO on CPU threads, float32 throughout."""

    def __init__(self, graph: bytes, weights: bytes, *, classes: int, threads: int) -> None:
        openvino = _import_openvino()
        core = openvino.Core()
        model = core.read_model(model=graph, weights=weights)
        size = model.input(0).partial_shape[1].get_length()
        # An image for each thread at a time was the fastest of batches of 1 to 32, with one stream or several.
        model.reshape([1, size, size, 3])
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "f32",  # by itself it takes bfloat16 where the CPU has it
                "PERFORMANCE_HINT": "THROUGHPUT",
                "NUM_STREAMS": threads,
                "INFERENCE_NUM_THREADS": threads,
                "ENABLE_CPU_PINNING": False,  # two actors would fight for the same cores
            },
        )
        self._queue: Any = openvino.AsyncInferQueue(compiled, threads)
        self._classes = classes

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities of `images`, as Engine says."""
        found = np.zeros((len(images), self._classes), np.float32)

        def keep(request: Any, place: int) -> None:
            found[place] = request.get_output_tensor().data[0]

        self._queue.set_callback(keep)
        for place in range(len(images)):
            self._queue.start_async({0: images[place : place + 1]}, place)
        self._queue.wait_all()
        return found
