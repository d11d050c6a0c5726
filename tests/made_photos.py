"""Photos and models for tests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image


def draw_photo(path: Path, *, seed: int, colour: tuple[int, int, int]) -> None:
    """Draw a small noisy JPEG of one colour, so that a few training steps can separate the classes."""
    random = np.random.default_rng(seed)
    noise = random.integers(-40, 41, (48, 64, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path)


def drawn_photos(folder: Path, count: int) -> pa.Table:
    """Draw `count` photos of two classes in turn, and return path, label and digest of each."""
    paths = [folder / f"{index}.jpg" for index in range(count)]
    for index, path in enumerate(paths):
        draw_photo(path, seed=index, colour=(190, 90, 60))
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    labels = pa.array([index % 2 for index in range(count)], pa.int32())
    return pa.table({"path": [str(path) for path in paths], "label": labels, "digest": digests})


def save_classifier(
    directory: Path, *, seed: int, classes: tuple[str, ...] = ("cat", "dog"), image_size: int = 224
) -> Path:
    """Save a Lite0 classifier with a random head drawn from `seed`, without TensorFlow, which takes seconds."""
    from catdog.model.saved_model import OUTPUT, ClassifierSpec, spec_to_card
    from catdog.model.weights.hdf5_file import write_tensors
    from catdog.model.weights.pretrained import load_weights

    pretrained = load_weights("efficientnet-lite0", weights="imagenet")
    assert pretrained is not None
    spec = ClassifierSpec(
        backbone="efficientnet-lite0",
        image_size=image_size,
        classes=classes,
        pooling="avg",
        dropout=0.2,
        scaling=pretrained.scaling,
    )
    tensors = {name: tensor for name, tensor in pretrained.tensors.items() if name != "probs"}
    units, limit = len(classes), np.sqrt(6 / (1280 + len(classes)))  # Glorot uniform, Keras's default for a dense layer
    kernel = np.random.default_rng(seed).uniform(-limit, limit, (1280, units))
    head = {"kernel": kernel.astype(np.float32), "bias": np.zeros(units, np.float32)}
    (directory / "weights.h5").write_bytes(write_tensors({**tensors, OUTPUT: head}))
    (directory / "card.json").write_text(json.dumps(spec_to_card(spec)))
    return directory
