"""The saved model: its card, which says what to build, and copies of its directory. Needs no TensorFlow."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

import h5py

from catdog.errors import FailureError, UsageError, one_line
from catdog.model.backbone_specs import BACKBONES, Scaling, Shapes, backbone_spec
from catdog.model.weights.weights_file import LFS_POINTER
from catdog.photos.decoding.framing import RESAMPLINGS, RESIZES, SQUASH, Framing
from catdog.storage import files

CARD_FILE = "card.json"
WEIGHTS_FILE = "weights.h5"
CARD_FORMAT = 1
SMALLEST_IMAGE, LARGEST_IMAGE = 32, 2048  # sides, in pixels

OUTPUT = "fc_out"  # the output layer's name
CLASS_SUMS = "class_sums"  # the name of the layer after it, if output units are not classes

Check = tuple[str, Callable[[Any], bool]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierSpec:
    """Everything needed to build a classifier, except its weights.

    `image_size` is the side of the square input, in pixels. `framing` says how a photo becomes this square, and
    `scaling` how its pixels are scaled for the backbone. If `output_units` is set, the output layer has that many
    units, and the layer `class_sums` adds up their probabilities to those of the classes.
    """

    backbone: str
    image_size: int
    classes: tuple[str, ...]
    pooling: str
    dropout: float
    scaling: Scaling
    framing: Framing = SQUASH
    output_units: int = 0

    def settings(self) -> dict[str, Any]:
        """Return the fields under the card's names.

        The fields that older cards lack are left out if they have their default values.
        """
        found = {name: getattr(self, name) for name in ("backbone", "image_size", "classes", "pooling", "dropout")}
        found |= {"input_scale": self.scaling.scale, "input_offset": self.scaling.offset}
        if self.framing != SQUASH:
            found |= dataclasses.asdict(self.framing)
        return found | ({"output_units": self.output_units} if self.output_units else {})

    def tensor_shapes(self) -> Shapes:
        """Return the shapes of all weights, by layer and variable name."""
        backbone, classes = backbone_spec(self.backbone), len(self.classes)
        units = self.output_units or classes
        found = {**backbone.tensor_shapes(), OUTPUT: {"kernel": (backbone.top_filters, units), "bias": (units,)}}
        return found | ({CLASS_SUMS: {"kernel": (units, classes)}} if self.output_units else {})


def spec_to_card(spec: ClassifierSpec) -> dict[str, Any]:
    """Return the part of a model card that says how to build the classifier."""
    return {
        "format": CARD_FORMAT,
        **spec.settings(),
        "classes": list(spec.classes),
        **dataclasses.asdict(spec.framing),
    }


def spec_from_card(card: Mapping[str, Any], *, where: str) -> ClassifierSpec:
    """Read back what `spec_to_card` wrote; a card of an earlier version has no framing, which then was `squash`.

    Raises UsageError, naming `where`, when something is missing, of another type or out of range.
    """
    if card.get("format") != CARD_FORMAT:
        raise UsageError(f"{where}: expected a model card of format {CARD_FORMAT}, found {card.get('format')!r}")
    missing = [name for name in _CARD_CHECKS if name not in card and name not in _LATER_KEYS]
    if missing:
        raise UsageError(f"{where}: the model card lacks {', '.join(missing)}; was it written by catdog?")
    values = {**_LATER_KEYS, **{name: card[name] for name in _CARD_CHECKS if name in card}}
    for name, (expected, is_valid) in _CARD_CHECKS.items():
        if not is_valid(values[name]):
            found = repr(values[name])
            raise UsageError(
                f"{where}: the model card's {name}: expected {expected}, found {found[:80]}{'…' * (len(found) > 80)}"
            )
    return ClassifierSpec(
        backbone=values["backbone"],
        image_size=values["image_size"],
        classes=tuple(values["classes"]),
        pooling=values["pooling"],
        dropout=float(values["dropout"]),
        scaling=Scaling(tuple(values["input_scale"]), tuple(values["input_offset"])),
        framing=Framing(resize=values["resize"], resampling=values["resampling"]),
        output_units=values["output_units"],
    )


def _one_of(names: Collection[str]) -> Check:
    return f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST_SCALE


def _are_names(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and 1 <= len(value) <= _MAX_CLASSES
        and all(isinstance(name, str) and name and name == name.encode(errors="ignore").decode() for name in value)
        and len(set(value)) == len(value)
    )


def _are_channels(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_number, value))


_LARGEST_SCALE = 1e6
_MAX_CLASSES = 100_000
# What each key of a card must hold: in words, and as a check.
_CARD_CHECKS: dict[str, Check] = {
    "backbone": _one_of(BACKBONES),
    "image_size": (
        f"a whole number from {SMALLEST_IMAGE} to {LARGEST_IMAGE}",
        lambda value: _is_whole(value, SMALLEST_IMAGE, LARGEST_IMAGE),
    ),
    "classes": ("a list of distinct names", _are_names),
    "pooling": _one_of(("avg", "max")),
    "dropout": ("a number from 0 to below 1", lambda value: _is_number(value) and 0 <= value < 1),
    "input_scale": ("three numbers", _are_channels),
    "input_offset": ("three numbers", _are_channels),
    "resize": _one_of(RESIZES),
    "resampling": _one_of(RESAMPLINGS),
    # For a model that was not trained for its classes: the probability below which a photo is unsure, and the class
    # that is never a label.
    "threshold": ("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1),
    "rest": ("a string", lambda value: isinstance(value, str)),
    "output_units": ("a whole number from 0 to 100,000", lambda value: _is_whole(value, 0, _MAX_CLASSES)),
}
# Keys that cards of earlier versions lack, with their defaults.
_LATER_KEYS: dict[str, Any] = {**dataclasses.asdict(SQUASH), "output_units": 0, "threshold": 0.0, "rest": ""}


def read_card(model_dir: str) -> dict[str, Any]:
    """Return the card of the model in `model_dir`, a path or URI.

    Raises UsageError when the directory holds no model, or its card is not a JSON object.
    """
    path = files.join(files.absolute(model_dir), CARD_FILE)
    if not files.exists(path):
        inside = files.join(files.absolute(model_dir), "model")
        near = f"; did you mean {inside}?" if files.exists(files.join(inside, CARD_FILE)) else ""
        raise UsageError(
            f"{model_dir} is not a model directory: expected {CARD_FILE} and {WEIGHTS_FILE} in it, "
            f"as a train job leaves them in RUN_DIR/model{near}"
        )
    try:
        content = files.read_bytes(path)
        if content.startswith(LFS_POINTER):
            raise UsageError(f"{path}: is a pointer of Git LFS, not the card itself: fetch it with git lfs pull")
        card = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path}: expected a model card in JSON, found {one_line(error)}; copy it again from where it was trained"
        ) from error
    if not isinstance(card, dict):
        raise UsageError(f"{path}: expected a model card, a JSON object, found a {type(card).__name__}")
    return card


def copy_model(source: str, destination: str, *, temperature: float | None = None) -> None:
    """Copy a model directory, whole or not at all.

    With a `temperature`, the copy's card records it, and the copy's output layer is divided by it. So the copy's
    probabilities are calibrated, while those of the source stay as trained.
    """
    with files.staged_directory(destination) as folder:
        for name in (CARD_FILE, WEIGHTS_FILE):
            (folder / name).write_bytes(files.read_bytes(files.join(source, name)))
        if temperature is not None:
            card = {**files.read_json(str(folder / CARD_FILE)), "temperature": round(temperature, 6)}
            files.write_json(str(folder / CARD_FILE), card)
            if temperature != 1.0:
                weights = folder / WEIGHTS_FILE
                weights.write_bytes(fold_temperature(weights.read_bytes(), temperature))


def fold_temperature(weights: bytes, temperature: float) -> bytes:
    """Return the content of a weights.h5 whose output layer is divided by `temperature`.

    Raises FailureError when the file has no such layer.
    """
    stream = io.BytesIO(weights)
    with h5py.File(stream, "r+") as file:
        layer = file.get(OUTPUT)
        if layer is None or not len(layer.attrs["weight_names"]):
            raise FailureError(f"the model's weights have no layer {OUTPUT}")
        for name in layer.attrs["weight_names"]:
            variable = layer[name.decode() if isinstance(name, bytes) else name]
            variable[...] = variable[...] / temperature
    return stream.getvalue()
