"""Quantizes a model with the photos of its run or of a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np

from catdog.errors import ImageError, UsageError
from catdog.model.openvino.quantization import Int8Scores, quantize_model, require_nncf
from catdog.model.saved_model import ClassifierSpec, read_card, spec_from_card
from catdog.photos.decoding.decode import decode_image
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.manifest import read_manifest
from catdog.photos.sharded.manifest import INDEX_FILE
from catdog.photos.sharded.photo_rows import PhotoRows
from catdog.photos.sources.files import read_photo
from catdog.photos.sources.inputs import list_inputs
from catdog.storage import files

_CALIBRATION_PHOTOS = 300
_JUDGED_PHOTOS = 1000
_MAX_TRIED = 10_000  # some may have become unreadable
_IMAGE_BYTES = 512 * 2**20

LabelledPhoto = tuple[str, int]


def quantize_with_photos(model_dir: str, *, photos: str, limits: DecodeLimits) -> Int8Scores:
    """Quantize the model in `model_dir` with `photos`, or else with the photos of its run, and return the scores.

    Raises UsageError if there are no photos or NNCF is not installed, and otherwise as `quantize_model` does.
    """
    require_nncf("--to int8")
    spec = spec_from_card(read_card(model_dir), where=model_dir)
    chosen, judged = _folder_photos(photos, spec) if photos else _run_photos(model_dir)
    calibration, _ = _decode_photos(chosen, spec=spec, limits=limits, count=_CALIBRATION_PHOTOS)
    validation, labels = _decode_photos(judged, spec=spec, limits=limits, count=_JUDGED_PHOTOS)
    if not len(calibration) or not len(validation):
        raise UsageError("--to int8: expected a few hundred photos for calibration and evaluation, found too few")
    known = None if (labels < 0).any() else labels
    return quantize_model(model_dir, calibration=calibration, validation=validation, labels=known)


def int8_text(scores: Int8Scores) -> str:
    """Return one line on what int8 costs."""
    text = f"int8: {scores.agreement:.1%} of {scores.photos} photos keep their label"
    if scores.accuracy is not None:
        text += f"; accuracy {scores.accuracy_int8:.4f}, in float32 {scores.accuracy:.4f}"
    return text + ("; some layers stay in float32" if scores.accuracy_aware else "")


def _run_photos(model_dir: str) -> tuple[list[LabelledPhoto], list[LabelledPhoto]]:
    """Return training photos for calibration and validation photos for evaluation, each with its class number.

    Raises UsageError if `model_dir` is not in a run directory.
    """
    directory = files.join(files.absolute(model_dir).rstrip("/").rpartition("/")[0], "manifest")
    if not any(files.exists(files.join(directory, name)) for name in ("manifest.parquet", INDEX_FILE)):
        raise UsageError(f"--to int8: {model_dir} is not in its run directory: give --photos")
    manifest = read_manifest(directory)
    train, validation = (manifest.photos(split) for split in ("train", "validation"))
    return _labelled(train), _labelled(validation)


def _labelled(photos: PhotoRows) -> list[LabelledPhoto]:
    table = photos.read(0, min(photos.count, _MAX_TRIED))
    return list(zip(table["path"].to_pylist(), table["label"].to_pylist(), strict=True))


def _folder_photos(photos: str, spec: ClassifierSpec) -> tuple[list[LabelledPhoto], list[LabelledPhoto]]:
    """Return shuffled photos for calibration and other photos for evaluation, each with the class number of its folder.

    The number is -1 if the folder's name is not a class.
    """
    numbers = {name: number for number, name in enumerate(spec.classes)}
    found = [
        (path, numbers.get(path.rpartition("/")[0].rpartition("/")[2], -1))
        for path in list_inputs(photos)["path"].to_pylist()
    ]
    shuffled = [found[index] for index in np.random.default_rng(0).permutation(len(found))]
    split = min(_CALIBRATION_PHOTOS, len(found) // 2)
    return shuffled[:split], shuffled[split:]


def _decode_photos(
    photos: Sequence[LabelledPhoto], *, spec: ClassifierSpec, limits: DecodeLimits, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (images, labels) of the first `count` photos that can be read.

    For large images `count` is lowered, so that they take at most 512 MiB, but not below 50.
    """
    count = min(count, max(50, _IMAGE_BYTES // (spec.image_size**2 * 3)))
    images: list[np.ndarray] = []
    labels = []
    for path, label in photos:
        if len(images) == count:
            break
        with contextlib.suppress(ImageError):
            content = read_photo(path)
            images.append(decode_image(content, size=spec.image_size, framing=spec.framing, limits=limits))
            labels.append(label)
    return np.stack(images) if images else np.zeros((0, 0)), np.array(labels, np.int64)
