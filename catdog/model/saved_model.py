"""The saved model: its card, which says what to build, and copies of the directory. Needs no TensorFlow."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from typing import Any

import h5py

from catdog.errors import FailureError, UsageError
from catdog.model.backbone_specs import Scaling
from catdog.storage import files

CARD_FILE = "card.json"
WEIGHTS_FILE = "weights.h5"
CARD_FORMAT = 1
_CARD_KEYS = ("backbone", "image_size", "classes", "pooling", "dropout", "input_scale", "input_offset")

OUTPUT = "fc_out"  # the output layer's name


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierSpec:
    """All that is needed to build a classifier but its weights.

    `image_size` is the side of the square input, in pixels; the backbone sees the image in `scaling`.
    """

    backbone: str
    image_size: int
    classes: tuple[str, ...]
    pooling: str
    dropout: float
    scaling: Scaling

    def settings(self) -> dict[str, Any]:
        """Return the fields under the names that the card has for them; its lists are tuples here."""
        settings = {**vars(self), "input_scale": self.scaling.scale, "input_offset": self.scaling.offset}
        del settings["scaling"]
        return settings


def spec_to_card(spec: ClassifierSpec) -> dict[str, Any]:
    """Return the part of a model card that tells how to build the classifier."""
    return {"format": CARD_FORMAT, **spec.settings(), "classes": list(spec.classes)}


def spec_from_card(card: Mapping[str, Any], *, where: str) -> ClassifierSpec:
    """Read back what `spec_to_card` wrote.

    Raises UsageError, naming `where`, when something is missing or of another format.
    """
    if card.get("format") != CARD_FORMAT:
        raise UsageError(f"{where}: expected a model card of format {CARD_FORMAT}, found {card.get('format')!r}")
    missing = [name for name in _CARD_KEYS if name not in card]
    if missing:
        raise UsageError(f"{where}: the model card lacks {', '.join(missing)}; was it written by catdog?")
    return ClassifierSpec(
        backbone=card["backbone"],
        image_size=card["image_size"],
        classes=tuple(card["classes"]),
        pooling=card["pooling"],
        dropout=card["dropout"],
        scaling=Scaling(tuple(card["input_scale"]), tuple(card["input_offset"])),
    )


def read_card(model_dir: str) -> dict[str, Any]:
    """Return the card of the model in `model_dir`, a path or URI.

    Raises UsageError when the directory holds no model.
    """
    path = files.join(files.absolute(model_dir), CARD_FILE)
    if not files.exists(path):
        raise UsageError(
            f"{model_dir} is not a model directory: expected {CARD_FILE} and {WEIGHTS_FILE} in it, "
            "as a train job leaves them in RUN_DIR/model"
        )
    return files.read_json(path)


def copy_model(source: str, destination: str, *, temperature: float | None = None) -> None:
    """Copy a model directory, whole or not at all.

    With a `temperature` its card says so, and the output layer is divided by it: the copy's probabilities are
    calibrated, those of the source stay as they were trained.
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
