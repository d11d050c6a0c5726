"""Exports a trained model to the formats of other programs; an export is written only if it agrees with the model.

All formats map uint8 RGB images (N, S, S, 3) to float32 probabilities (N, classes). Scaling, softmax and calibration
are inside. The model card is copied too: it names the classes, and says how a photo becomes the square input
(`resize`, `resampling`).
"""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from catdog.config import ExportConfig
from catdog.console import say
from catdog.errors import FailureError, ImageError, UsageError
from catdog.model.engines import ModelBytes, read_model
from catdog.model.openvino.calibration_photos import int8_text, quantize_with_photos
from catdog.model.openvino.graph import build_graph, import_openvino
from catdog.model.saved_model import CARD_FILE, ClassifierSpec
from catdog.photos.decoding.decode import decode_image
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.sample import draw_sample
from catdog.photos.sources.inputs import list_inputs, read_inputs
from catdog.storage import files

TOLERANCE = 1e-4  # of a probability
_PHOTOS = 10
_SUFFIXES = {"tflite": ".tflite", "onnx": ".onnx", "openvino": ".xml"}
_PACKAGES = {"onnx": ("tf2onnx", "onnxruntime")}
Predict = Callable[[np.ndarray], np.ndarray]


def export(config: ExportConfig) -> str:
    """Write the model `config.model` as `config.to` at `config.out`, and return where it was written.

    The export is first written to a temporary folder, read back and run on ten photos. Nothing is written to `out`
    unless its probabilities are within 0.0001 of the model's. With `int8` the quantized graph is written into the model
    directory instead.
    Raises UsageError for a mistake in the command, FailureError when the probabilities differ by more.
    """
    if config.to == "int8":
        if not config.model or config.out:
            raise UsageError("--to int8 writes into the model directory: give --model, and no --out")
        limits = DecodeLimits(max_pixels=config.max_pixels)
        say(int8_text(quantize_with_photos(config.model, photos=config.photos, limits=limits)))
        return files.absolute(config.model)
    if not (config.model and config.to and config.out):
        raise UsageError("--model, --to and --out are needed: --model runs/pets/model --to tflite --out pets.tflite")
    for package in _PACKAGES.get(config.to, ()):
        if importlib.util.find_spec(package) is None:
            raise UsageError(
                f"--to {config.to}: expected the package {package}, found none: pip install 'catdog-ray[{config.to}]'"
            )
    suffix = _SUFFIXES.get(config.to, "")
    out = _place(config, suffix=suffix)
    model = read_model(config.model)
    images = _read_images(config.photos, spec=model.spec, limits=DecodeLimits(max_pixels=config.max_pixels))
    from catdog.model.classifier import load_classifier

    classifier = load_classifier(config.model)
    expected = classifier.predict_images(images)
    with tempfile.TemporaryDirectory(prefix="catdog-") as folder:
        made = Path(folder) / f"model{suffix}"
        run = {"savedmodel": _save_model, "tflite": _save_tflite, "onnx": _save_onnx, "openvino": _save_openvino}
        found = run[config.to](model, classifier, made)(images)
        difference = float(np.abs(found - expected).max())
        if found.shape != expected.shape or not difference <= TOLERANCE:
            raise FailureError(
                f"the exported model does not agree with {config.model} on {len(images)} photos: probabilities differ "
                f"by up to {difference:.2g}, at most {TOLERANCE:g} is allowed; nothing was written"
            )
        _publish(made, out, card=files.read_bytes(files.join(files.absolute(config.model), CARD_FILE)))
    say(
        f"Agreement on {len(images)} photos: probabilities differ by up to {difference:.2g} "
        f"(at most {TOLERANCE:g} is allowed)."
    )
    return out


def _place(config: ExportConfig, *, suffix: str) -> str:
    """Return where the export goes: inside an existing folder under the name of its run, else at --out itself.

    Raises UsageError if that path exists: nothing is ever replaced.
    """
    out = files.absolute(config.out)
    if files.is_directory(out) and not files.exists(files.join(out, CARD_FILE)):  # with a card, it is a model itself
        *_, run, name = ["", *files.absolute(config.model).rstrip("/").split("/")]
        out = files.join(out, run if name == "model" and run else name)
    out += "" if out.lower().endswith(suffix) else suffix
    if files.exists(out):
        raise UsageError(f"--out {config.out}: {out} exists already and is not replaced: give another path")
    return out


def _read_images(photos: str, *, spec: ClassifierSpec, limits: DecodeLimits) -> np.ndarray:
    """Return ten images, uint8 (10, S, S, 3), or as many as can be read; without `photos`, of the drawn sample.

    Raises UsageError when no photo can be read.
    """
    with tempfile.TemporaryDirectory(prefix="catdog-") as folder:
        if not photos:
            draw_sample(Path(folder) / "sample", per_class=_PHOTOS // 2)
        images: list[np.ndarray] = []
        for _, content in read_inputs(list_inputs(photos or folder)):
            try:
                if not isinstance(content, ImageError):
                    images.append(decode_image(content, size=spec.image_size, framing=spec.framing, limits=limits))
            except ImageError:
                continue
            if len(images) == _PHOTOS:
                break
    if not images:
        raise UsageError(f"--photos {photos}: expected readable photos to check the exported model with, found none")
    return np.stack(images)


def _publish(made: Path, out: str, *, card: bytes) -> None:
    """Copy the file or folder `made` to `out`; of files, the card and OpenVINO's weights come first, the model last."""
    if made.is_dir():
        (made / CARD_FILE).write_bytes(card)
        with files.staged_directory(out) as folder:
            for file in sorted(made.rglob("*")):
                if file.is_file():
                    place = folder / file.relative_to(made)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(file.read_bytes())
        return
    stem = out[: -len(made.suffix)]
    files.write_bytes(f"{stem}.json", card)
    for file in (made.with_suffix(".bin"), made):
        if file.exists():
            files.write_bytes(stem + file.suffix, file.read_bytes())


# Formats: each function writes its files, and returns a function that runs what was written


def _serving_function(classifier: Any) -> Any:
    """Return a tf.Module whose `serve` is the model as a tf.function of one signature, `image` to `probabilities`."""
    import tensorflow as tf

    network, size = classifier.network, classifier.spec.image_size
    module = tf.Module()
    module.parameters = network.variables  # not the network itself: Keras would trace each layer once more to save it
    module.serve = tf.function(
        lambda image: {"probabilities": network(image, training=False)},
        input_signature=[tf.TensorSpec((None, size, size, 3), tf.uint8, name="image")],
        autograph=False,  # it would leave files in TMPDIR
    )
    return module


def _save_model(model: ModelBytes, classifier: Any, made: Path) -> Predict:
    import tensorflow as tf

    module = _serving_function(classifier)
    tf.saved_model.save(module, str(made), signatures={"serving_default": module.serve})
    served = tf.saved_model.load(str(made)).signatures["serving_default"]
    return lambda images: np.asarray(served(image=tf.constant(images))["probabilities"])


def _save_tflite(model: ModelBytes, classifier: Any, made: Path) -> Predict:
    import tensorflow as tf

    module = _serving_function(classifier)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.serve.get_concrete_function()], module)
    made.write_bytes(converter.convert())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow recommends another package for the interpreter
        # The default delegate writes a message to stderr that cannot be silenced.
        plain = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        interpreter = tf.lite.Interpreter(model_path=str(made), experimental_op_resolver_type=plain)
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()

    def predict(images: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(taken["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(taken["index"], images)
        interpreter.invoke()
        return np.array(interpreter.get_tensor(given["index"]))

    return predict


def _save_onnx(model: ModelBytes, classifier: Any, made: Path) -> Predict:
    import onnxruntime
    import tf2onnx

    module = _serving_function(classifier)
    converted, _ = tf2onnx.convert.from_function(
        module.serve, input_signature=module.serve.input_signature, opset=17, output_path=str(made)
    )
    del converted
    session = onnxruntime.InferenceSession(str(made), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images})[0])


def _save_openvino(model: ModelBytes, classifier: Any, made: Path) -> Predict:
    openvino = import_openvino()
    openvino.save_model(build_graph(model.spec, model.weights), str(made), compress_to_fp16=False)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(str(made)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: np.array(compiled({0: images})[0])
