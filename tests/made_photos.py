"""Photos and models that tests make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def draw_photo(path: Path, *, seed: int, colour: tuple[int, int, int]) -> None:
    """A small noisy JPEG of one colour: classes that a few steps can tell apart."""
    random = np.random.default_rng(seed)
    noise = random.integers(-40, 41, (48, 64, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path)


def save_classifier(directory: Path, *, seed: int, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Save a Lite0 classifier with a random head drawn from `seed`."""
    import tf_keras

    from catdog.model import backbones
    from catdog.model import classifier as model
    from catdog.model.saved_model import ClassifierSpec, spec_to_card
    from catdog.model.weights.pretrained import load_weights

    pretrained = load_weights("efficientnet-lite0", weights="imagenet")
    assert pretrained is not None
    tf_keras.utils.set_random_seed(seed)
    spec = ClassifierSpec(
        backbone="efficientnet-lite0",
        image_size=224,
        classes=classes,
        pooling="avg",
        dropout=0.2,
        scaling=pretrained.scaling,
    )
    classifier = model.build_classifier(spec)
    backbones.load_pretrained(classifier, pretrained)
    model.save_model(directory, classifier, spec_to_card(spec))
    return directory
