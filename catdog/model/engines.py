"""Engines that run a saved model, uint8 images in, probabilities out: TensorFlow always, OpenVINO if it is installed.

OpenVINO runs the same float32 model about one and a half times as fast on CPUs, and starts without TensorFlow. On a
CPU or GPU that computes in bfloat16, a model can run in bfloat16 on request: faster, with visible rounding.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from catdog.cluster.environment import import_tensorflow
from catdog.errors import FailureError, UsageError, one_line
from catdog.model.openvino.graph import build_graph, import_openvino
from catdog.model.openvino.int8_file import Int8Graph, read_int8
from catdog.model.saved_model import WEIGHTS_FILE, ClassifierSpec, read_card, spec_from_card
from catdog.model.weights.weights_file import parse_weights
from catdog.storage import artifacts, files

_CPU_FILE = Path("/proc/cpuinfo")  # of Linux
_CAPABILITIES, _BFLOAT16 = "OPTIMIZATION_CAPABILITIES", "BF16"  # as OpenVINO names them


class Engine(Protocol):
    """A model that is ready to label."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return float32 (N, classes) probabilities of uint8 (N, S, S, 3) RGB `images`; N may be 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelBytes:
    """A saved model in memory, so that workers need neither its directory nor network access."""

    spec: ClassifierSpec
    weights: bytes  # the content of weights.h5
    fingerprint: str  # 16 hex digits, from everything that decides its answers
    rest: str = ""  # the class for everything else, which is never a label
    threshold: float = 0.0  # below this probability the label is `unsure`, unless the user says otherwise
    drawn: bool = False  # trained only on the drawn sample, so of no use for real photos
    int8: Int8Graph | None = None  # only if it was read to run in that precision


def read_model(model_dir: str, *, precision: str = "float32") -> ModelBytes:
    """Read the model that a train job left in `model_dir`, a path or URI, and for `int8` its quantized graph.

    Raises UsageError when it is not a model directory or something in it cannot be read.
    """
    card = read_card(model_dir)
    spec = spec_from_card(card, where=model_dir)
    path = files.join(files.absolute(model_dir), WEIGHTS_FILE)
    try:
        weights = files.read_bytes(path)
    except FileNotFoundError as error:
        raise UsageError(f"{model_dir} is not a complete model directory: {WEIGHTS_FILE} is missing") from error
    except OSError as error:
        raise UsageError(f"{model_dir}: {WEIGHTS_FILE} cannot be read: {one_line(error)}") from error
    # Detect a damaged file, or one that belongs to another card, here and not in every worker.
    parse_weights(weights, shapes=spec.tensor_shapes(), where=path)
    checksum = hashlib.sha256(weights).hexdigest()
    # Dropout is left out: it acts only in training and does not change an answer.
    decides = {**spec.settings(), "dropout": None, "weights": checksum}
    int8 = read_int8(model_dir, card=card, weights=weights) if precision == "int8" else None
    if int8:
        decides["int8"] = int8.checksum
    config = card.get("config")
    return ModelBytes(
        spec=spec,
        weights=weights,
        fingerprint=artifacts.fingerprint(decides),
        rest=str(card.get("rest", "")),
        threshold=float(card.get("threshold", 0.0)),
        int8=int8,
        drawn=isinstance(config, dict) and config.get("photos") == "",
    )


def choose_engine(asked: str, *, gpus: bool) -> str:
    """Return `tensorflow` or `openvino`; `auto` is OpenVINO if it is installed and the job has no GPUs.

    Raises UsageError when OpenVINO is asked for and not installed.
    """
    installed = importlib.util.find_spec("openvino") is not None
    if asked == "openvino" and not installed:
        raise UsageError("--engine openvino: expected the package openvino, found none: pip install openvino")
    if asked == "auto":
        return "openvino" if installed and not gpus else "tensorflow"
    return asked


def check_precision(precision: str, *, engine: str, gpus: bool) -> None:
    """Refuse a precision that does not suit `engine`. What depends on the machine it will run on is checked later.

    Raises UsageError for bfloat16 in TensorFlow on CPUs, and for int8 in TensorFlow.
    """
    if precision == "int8" and engine != "openvino":
        raise UsageError("--precision int8: expected OpenVINO on CPUs, found --engine tensorflow or GPUs")
    if precision == "bfloat16" and engine == "tensorflow" and not gpus:
        raise UsageError(
            "--precision bfloat16: expected GPUs or --engine openvino, found TensorFlow on CPUs, which is slower in it"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """What a worker builds its Engine from: a model in memory, the name of the engine, and the precision."""

    model: ModelBytes
    engine: str = "tensorflow"
    precision: str = "float32"  # or bfloat16 or int8; inputs and outputs have the same types in all of them

    def load(self, *, batch_size: int, threads: int) -> Engine:
        """Build the engine; only TensorFlow uses `batch_size`, OpenVINO takes one image per thread.

        Raises FailureError when the weights do not fit the card, or when this machine cannot compute in `precision`.
        """
        if self.engine == "openvino":
            return OpenvinoEngine(self.model, threads=threads, precision=self.precision)
        return TensorflowEngine(self.model, batch_size=batch_size, threads=threads, precision=self.precision)


class TensorflowEngine:
    """The model in TensorFlow, on the GPU if the process has one."""

    def __init__(self, model: ModelBytes, *, batch_size: int, threads: int, precision: str) -> None:
        import_tensorflow()
        import tensorflow as tf

        from catdog.model.classifier import build_classifier, configure_tensorflow, set_weights

        configure_tensorflow(threads=threads)
        network = build_classifier(model.spec, precision=precision)
        set_weights(network, model.weights, where="the model")
        size = model.spec.image_size
        self._batch, self._classes = batch_size, len(model.spec.classes)
        self._run = tf.function(
            lambda images: network(images, training=False),
            input_signature=[tf.TensorSpec((None, size, size, 3), tf.uint8)],
            autograph=False,  # it would leave files in TMPDIR
        )

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities of `images`, as Engine says."""
        found = [self._run(images[start : start + self._batch]).numpy() for start in range(0, len(images), self._batch)]
        return np.concatenate(found) if found else np.zeros((0, self._classes), np.float32)


class OpenvinoEngine:
    """The model in OpenVINO on CPU threads."""

    def __init__(self, model: ModelBytes, *, threads: int, precision: str) -> None:
        if precision == "int8":
            if model.int8 is None:
                raise FailureError("the model was read without its quantized graph")
            # The layers that are not int8 may use bfloat16: integer arithmetic differs between CPUs anyway.
            graph, precision = model.int8.load(), "bfloat16" if gains_from_bfloat16() else "float32"
        else:
            graph = build_graph(model.spec, model.weights)
        self._run = OpenvinoRunner(graph, threads=threads, precision=precision)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities of `images`, as Engine says."""
        return self._run(images)[0]


def has_bfloat16() -> bool:
    """Return whether OpenVINO is installed and this machine's CPU computes in bfloat16."""
    if importlib.util.find_spec("openvino") is None:
        return False
    return _BFLOAT16 in import_openvino().Core().get_property("CPU", _CAPABILITIES)


def gains_from_bfloat16() -> bool:
    """Return whether OpenVINO runs networks faster in bfloat16 than in float32 on this machine's CPU."""
    return has_bfloat16() and not is_slow_in_bfloat16(_cpuinfo())


def is_slow_in_bfloat16(cpuinfo: str) -> bool:
    """Return whether a CPU that has bfloat16 is slower in it, from the text of Linux's /proc/cpuinfo.

    Intel's are, unless they have AMX, which many virtual machines hide. On a Xeon with AVX512_BF16 and without AMX,
    OpenVINO's convolutions took twice as long in bfloat16 as in float32, and Lite2 at 288 pixels ran at 0.6 of the
    rate. On an EPYC with AVX512_BF16 it ran at 1.5 times the rate.
    """
    return "GenuineIntel" in cpuinfo and "amx_bf16" not in cpuinfo


def precision_warning(precision: str, *, single_node: bool, gpus: bool) -> str:
    """Return a line of warning if the work runs on this machine's CPU, and `precision` makes it no faster, else ""."""
    if precision != "bfloat16" or gpus or not single_node or gains_from_bfloat16():
        return ""
    return "Warning: this CPU is not faster in bfloat16 than in float32: leave out --precision bfloat16."


def has_avx512() -> bool:
    """Return whether this machine's CPU has AVX-512, as far as Linux tells."""
    return "avx512f" in _cpuinfo()


def _cpuinfo() -> str:
    return _CPU_FILE.read_text() if _CPU_FILE.exists() else ""


def choose_trunk_precision(asked: str, *, single_node: bool, gpus: bool) -> str:
    """Return `float32` or `bfloat16`; `auto` is bfloat16 if Ray has one node and its CPU is faster in it.

    With several nodes, another CPU might not compute in it, and features of both precisions would be mixed. GPUs
    compute in float32.
    Raises UsageError if bfloat16 is requested and the trunk runs on GPUs.
    """
    if asked == "bfloat16" and gpus:
        raise UsageError("--trunk-precision bfloat16: expected a trunk on CPUs, found GPUs: leave it out")
    if asked != "auto":
        return asked
    return "bfloat16" if single_node and not gpus and gains_from_bfloat16() else "float32"


def check_cpu(precision: str, capabilities: Sequence[str]) -> None:
    """Refuse a precision that this CPU would only emulate. `capabilities` are OpenVINO's names.

    Raises FailureError, which says what to do.
    """
    if precision == "bfloat16" and _BFLOAT16 not in capabilities:
        raise FailureError(
            f"--precision bfloat16: expected a CPU that computes in it (AVX512_BF16 or AMX), found none on "
            f"{platform.node()}: use --precision float32 (in training --trunk-precision)"
        )


class OpenvinoRunner:
    """Runs an openvino.Model on CPU threads: (?, S, S, 3) uint8 images to float32 features or probabilities.

    Raises FailureError if the CPU does not compute in `precision`.
    """

    def __init__(self, graph: Any, *, threads: int, precision: str = "float32") -> None:
        openvino = import_openvino()
        core = openvino.Core()
        check_cpu(precision, core.get_property("CPU", _CAPABILITIES))
        self._shapes = [tuple(side.get_length() for side in list(output.partial_shape)[1:]) for output in graph.outputs]
        # Batches of one image per thread were the fastest of sizes 1 to 32, with one stream or several.
        graph.reshape([1, *list(graph.inputs[0].partial_shape)[1:]])
        compiled = core.compile_model(
            graph,
            "CPU",
            {
                # By default OpenVINO uses bfloat16 if the CPU has it, so machines would give different rows.
                "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
                "PERFORMANCE_HINT": "THROUGHPUT",
                "NUM_STREAMS": threads,
                "INFERENCE_NUM_THREADS": threads,
                "ENABLE_CPU_PINNING": False,  # with pinning, two actors would compete for the same cores
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
