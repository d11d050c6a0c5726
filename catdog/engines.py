"""What runs a saved model: uint8 images in, probabilities out. TensorFlow always; OpenVINO where it is installed.

OpenVINO runs the same float32 model about one and a half times as fast on CPUs, and starts without TensorFlow.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
from typing import Any, Protocol

import numpy as np

from catdog import artifacts
from catdog.card import WEIGHTS_FILE, ClassifierSpec, read_card, spec_from_card
from catdog.errors import UsageError
from catdog.keras_environment import set_keras_environment
from catdog.openvino_graph import build_graph, import_openvino
from catdog.tensors import parse_tensors


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

    Raises UsageError when it is not a model directory or its weights cannot be read.
    """
    spec = spec_from_card(read_card(model_dir), where=model_dir)
    path = artifacts.join(artifacts.absolute(model_dir), WEIGHTS_FILE)
    try:
        weights = artifacts.read_bytes(path)
    except FileNotFoundError as error:
        raise UsageError(f"{model_dir} is not a whole model directory: {WEIGHTS_FILE} is missing in it") from error
    parse_tensors(weights, backbone=spec.backbone, where=path)  # a damaged file is found here, not in every worker
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
        raise UsageError("--engine openvino: expected the package openvino, found none: pip install openvino")
    if asked == "auto":
        return "openvino" if installed and not gpus else "tensorflow"
    return asked


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """A model in memory and the name of what runs it: what a worker builds its Engine from."""

    model: ModelBytes
    engine: str = "tensorflow"

    def load(self, *, batch_size: int, threads: int) -> Engine:
        """Build the engine; `batch_size` is TensorFlow's, OpenVINO takes one image a thread.

        Raises FailureError when the weights do not fit the card.
        """
        if self.engine == "openvino":
            return OpenvinoEngine(self.model, threads=threads)
        return TensorflowEngine(self.model, batch_size=batch_size, threads=threads)


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

    def __init__(self, model: ModelBytes, *, threads: int) -> None:
        self._run = OpenvinoRunner(build_graph(model.spec, model.weights), threads=threads)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities of `images`, as Engine says."""
        return self._run(images)[0]


class OpenvinoRunner:
    """An openvino.Model of (?, S, S, 3) uint8 images on CPU threads, in float32."""

    def __init__(self, graph: Any, *, threads: int) -> None:
        openvino = import_openvino()
        self._shapes = [tuple(side.get_length() for side in list(output.partial_shape)[1:]) for output in graph.outputs]
        # An image for each thread at a time was the fastest of batches of 1 to 32, with one stream or several.
        graph.reshape([1, *list(graph.inputs[0].partial_shape)[1:]])
        compiled = openvino.Core().compile_model(
            graph,
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

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """Return each output, (N, …) float32, of uint8 (N, S, S, 3) `images`; N may be 0."""
        found = [np.zeros((len(images), *shape), np.float32) for shape in self._shapes]

        def keep(request: Any, place: int) -> None:
            for index, array in enumerate(found):
                array[place] = request.get_output_tensor(index).data[0]

        self._queue.set_callback(keep)
        for place in range(len(images)):
            self._queue.start_async({0: images[place : place + 1]}, place)
        self._queue.wait_all()
        return found
