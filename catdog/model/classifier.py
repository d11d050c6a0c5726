"""The classifier: uint8 image in, class probabilities out; its cut into trunk and tail; its file format.

A saved model is a directory of `weights.h5` and `card.json`. The card says what to build, so no code is loaded: a
stranger's model cannot run anything.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from catdog.cluster.environment import import_tensorflow

import_tensorflow()

import numpy as np
import tensorflow as tf
import tf_keras
from PIL import Image

from catdog.errors import FailureError, UsageError, one_line
from catdog.evaluation.class_maps import evidence_maps
from catdog.model.backbone_specs import HEAD_CUT, INPUT_CUT, Shapes
from catdog.model.backbones import build_backbone, set_tensors, tensor_shapes
from catdog.model.saved_model import (
    CARD_FILE,
    CLASS_SUMS,
    OUTPUT,
    WEIGHTS_FILE,
    ClassifierSpec,
    read_card,
    spec_from_card,
)
from catdog.model.weights.weights_file import Tensors, parse_weights
from catdog.photos.decoding.decode import decode_image
from catdog.photos.sources.files import read_photo
from catdog.storage import files

GAP = "gap"
DROPOUT = "dropout_out"
_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")


def build_classifier(spec: ClassifierSpec, *, precision: str = "float32") -> tf_keras.Model:
    """Build the classifier with random weights: (B, S, S, 3) uint8 to (B, classes) float32 probabilities.

    The head is that of the article (recipe `article`): global pooling `gap`, `dropout_out`, a softmax layer `fc_out`.
    With the precision `bfloat16` the layers compute in bfloat16, but weights and probabilities stay float32.
    """
    before = tf_keras.mixed_precision.global_policy()
    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    try:
        return _build_classifier(spec)
    finally:
        tf_keras.mixed_precision.set_global_policy(before)


def choose_precision(asked: str, capabilities: Sequence[tuple[int, int]]) -> str:
    """Return `float32` or `bfloat16`; `auto` is bfloat16 if all GPUs have tensor cores for it.

    `capabilities` has the compute capability (major, minor) of each GPU of the process, and is empty without GPUs.
    GPUs have such tensor cores from 8.0 (NVIDIA Ampere) on. bfloat16 has the range of float32, so loss scaling is not
    needed.
    """
    if asked != "auto":
        return asked
    return "bfloat16" if capabilities and min(capabilities) >= (8, 0) else "float32"


def gpu_capabilities() -> list[tuple[int, int]]:
    """Return the compute capability of each GPU that TensorFlow sees."""
    details = (tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU"))
    return [tuple(found.get("compute_capability", (0, 0))) for found in details]


def _build_classifier(spec: ClassifierSpec) -> tf_keras.Model:
    image = tf_keras.Input((spec.image_size, spec.image_size, 3), dtype="uint8", name="image")
    scaled = tf_keras.layers.Rescaling(list(spec.scaling.scale), list(spec.scaling.offset), name="input_scaling")(image)
    feature_map = build_backbone(spec.backbone, scaled)
    pool = {"max": tf_keras.layers.GlobalMaxPooling2D, "avg": tf_keras.layers.GlobalAveragePooling2D}[spec.pooling]
    feature = pool(name=GAP)(feature_map)
    if spec.dropout > 0:
        feature = tf_keras.layers.Dropout(spec.dropout, name=DROPOUT)(feature)
    # Probabilities stay float32 even if the rest of the model runs in half precision.
    units = spec.output_units or len(spec.classes)
    output = tf_keras.layers.Dense(units, activation="softmax", dtype="float32", name=OUTPUT)(feature)
    if spec.output_units:
        output = tf_keras.layers.Dense(len(spec.classes), use_bias=False, dtype="float32", name=CLASS_SUMS)(output)
    return tf_keras.Model(image, output, name="classifier")


def valid_cuts(classifier: tf_keras.Model) -> tuple[str, ...]:
    """Return the layers at whose input the classifier can be cut in two, in order from the input.

    A layer inside a skip connection is not a valid cut, because another path leads around it.
    """
    last_use: dict[int, int] = {}
    for index, layer in enumerate(classifier.layers):
        for tensor in _inputs(layer):
            last_use[id(tensor)] = index
    cuts, alive = [], set[int]()
    for index, layer in enumerate(classifier.layers):
        inputs = {id(tensor) for tensor in _inputs(layer)}
        alive = {tensor for tensor in alive if last_use.get(tensor, -1) >= index}
        if len(inputs) == 1 and alive == inputs:
            cuts.append(layer.name)
        alive.add(id(layer.output))
    return tuple(cuts)


def split_at(classifier: tf_keras.Model, cut: str) -> tuple[tf_keras.Model, tf_keras.Model]:
    """Cut `classifier` at the input of the layer `cut` into (trunk, tail), which share its layers.

    `tail(trunk(image))` equals `classifier(image)`. With the cut `input` the trunk is an identity. With the cut `head`
    the tail is the dropout and the output layer.
    Raises UsageError, naming the valid cuts that have weights, if `cut` is not valid.
    """
    if cut == INPUT_CUT:
        identity = tf_keras.layers.Activation("linear", dtype="uint8", name="identity")(classifier.input)
        return tf_keras.Model(classifier.input, identity, name="trunk"), classifier
    if cut == HEAD_CUT:
        return _split(classifier, classifier.get_layer(GAP).output)
    cuts = valid_cuts(classifier)
    if cut not in cuts:
        trainable = [name for name in cuts if classifier.get_layer(name).weights]
        known = "a layer inside a skip connection" if cut in {layer.name for layer in classifier.layers} else "no layer"
        raise UsageError(
            f"--unfrozen.unfreeze-from: {cut!r} is {known}; expected {INPUT_CUT} or one of {', '.join(trainable)}"
        )
    return _split(classifier, classifier.get_layer(cut).input)


def _split(classifier: tf_keras.Model, border: Any) -> tuple[tf_keras.Model, tf_keras.Model]:
    return (
        tf_keras.Model(classifier.input, border, name="trunk"),
        tf_keras.Model(border, classifier.output, name="tail"),
    )


def trunk_with_outputs(classifier: tf_keras.Model, cuts: Sequence[str]) -> tf_keras.Model:
    """Return a model that maps an image to the list of features at `cuts` in one pass."""
    return tf_keras.Model(classifier.input, [split_at(classifier, cut)[0].output for cut in cuts], name="trunk")


def class_maps(classifier: tf_keras.Model, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return where in each image the evidence for its label lies, as evidence_maps does: (N, H, W) float32.

    `images` is uint8 (N, S, S, 3), `labels` is (N,) int, and H x W is the size of the last feature map.
    """
    last = tf_keras.Model(classifier.input, classifier.get_layer(GAP).input)
    maps = np.asarray(last(tf.convert_to_tensor(images), training=False))
    kernel = np.asarray(classifier.get_layer(OUTPUT).kernel)
    if CLASS_SUMS in {layer.name for layer in classifier.layers}:
        kernel = kernel @ np.asarray(classifier.get_layer(CLASS_SUMS).kernel)  # summed over the units of each class
    return evidence_maps(maps, kernel, labels)


def configure_tensorflow(*, threads: int) -> None:
    """Set TensorFlow's number of threads and let GPU memory grow as needed; no effect once TensorFlow has started."""
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        for device in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(device, True)
    except RuntimeError:
        return  # a reused process: TensorFlow has started


def save_model(directory: Path, classifier: tf_keras.Model, card: Mapping[str, Any]) -> None:
    """Write `weights.h5` and `card.json` into the existing local `directory`."""
    classifier.save_weights(str(directory / WEIGHTS_FILE))
    files.write_json(str(directory / CARD_FILE), card)


def load_weights_into(network: tf_keras.Model, model_dir: str) -> None:
    """Set all weights of `network` from the model directory `model_dir`, a path or URI.

    Raises FailureError when they do not fit.
    """
    set_tensors(network.layers, _read_tensors(model_dir, shapes=tensor_shapes(network.layers)))


def set_weights(network: tf_keras.Model, content: bytes, *, where: str) -> None:
    """Set all weights of `network` from the `content` of a weights.h5.

    Raises FailureError, naming `where`, when they do not fit.
    """
    set_tensors(network.layers, _parse(content, shapes=tensor_shapes(network.layers), where=where))


def load_classifier(model_dir: str) -> Classifier:
    """Load the model that a train job left in `model_dir`, a path or URI.

    Raises UsageError when it is not a model directory, FailureError when its weights do not fit its card.
    """
    card = read_card(model_dir)
    spec = spec_from_card(card, where=model_dir)
    tensors = _read_tensors(model_dir, shapes=spec.tensor_shapes())  # before the network, which takes seconds to build
    network = build_classifier(spec)
    set_tensors(network.layers, tensors)
    return Classifier(network=network, spec=spec, card=card)


def _read_tensors(model_dir: str, *, shapes: Shapes) -> Tensors:
    try:
        content = files.read_bytes(files.join(files.absolute(model_dir), WEIGHTS_FILE))
    except OSError as error:
        raise FailureError(f"{model_dir}: {WEIGHTS_FILE} cannot be read: {one_line(error)}") from error
    return _parse(content, shapes=shapes, where=model_dir)


def _parse(content: bytes, *, shapes: Shapes, where: str) -> Tensors:
    try:
        return parse_weights(content, shapes=shapes, where=WEIGHTS_FILE)
    except UsageError as error:
        raise FailureError(f"{where}: {WEIGHTS_FILE} cannot be used: {error}") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
    """A loaded model: `predict` for one photo, `predict_images` for many."""

    network: tf_keras.Model
    spec: ClassifierSpec
    card: Mapping[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the probabilities."""
        return self.spec.classes

    def predict(self, photo: str | Path | BinaryIO | Image.Image) -> tuple[str, float]:
        """Return (class name, probability) for a path or URI, an open binary file or a Pillow image: `("dog", 0.9998)`.

        A class for everything else, such as the ImageNet model's `other`, is never the answer.
        Raises ImageError when the photo cannot be read.
        """
        image = decode_image(_read_content(photo), size=self.spec.image_size, framing=self.spec.framing)
        probabilities = self.predict_images(image[np.newaxis])[0]
        answers = [index for index, name in enumerate(self.classes) if name != self.card.get("rest")]
        label = max(answers, key=lambda index: float(probabilities[index]))
        return self.classes[label], float(probabilities[label])

    def predict_images(self, images: np.ndarray) -> np.ndarray:
        """Return float32 (N, classes) probabilities of uint8 (N, S, S, 3) RGB `images`."""
        return np.asarray(self.network(tf.convert_to_tensor(images), training=False))


def _read_content(photo: str | Path | BinaryIO | Image.Image) -> bytes:
    """Return the bytes of a photo; a Pillow image is encoded as PNG, so that it is treated like a file."""
    if isinstance(photo, Image.Image):
        sink = io.BytesIO()
        plain = photo if photo.mode in _PNG_MODES else photo.convert("RGB")
        plain.save(sink, "PNG", exif=photo.getexif(), compress_level=0)
        return sink.getvalue()
    return read_photo(files.absolute(str(photo))) if isinstance(photo, str | Path) else photo.read()


def _inputs(layer: tf_keras.layers.Layer) -> list[Any]:
    if isinstance(layer, tf_keras.layers.InputLayer):
        return []
    return list(layer.input) if isinstance(layer.input, list) else [layer.input]
