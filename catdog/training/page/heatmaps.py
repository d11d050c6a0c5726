"""Heatmaps for the worst errors of the best stage: where in the photo its model looked."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from catdog.errors import ImageError, one_line
from catdog.evaluation.class_maps import evidence_maps
from catdog.evaluation.held_out import brief, find_outcomes
from catdog.model.engines import OpenvinoRunner, choose_engine
from catdog.model.openvino.graph import LAST_MAP, build_trunk
from catdog.photos.decoding.decode import decode_image
from catdog.photos.decoding.framing import Framing
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.decoding.thumbnails import encode_jpeg, make_thumbnail, overlay_heat
from catdog.photos.sources.files import read_photo
from catdog.report.thumbnails import THUMBNAIL_SIZE, write_pictures
from catdog.storage import files
from catdog.storage.schemas import PICTURES
from catdog.training.fit.head.head_network import HeadNetwork
from catdog.training.fit.marks import best_stage, stage_mark
from catdog.training.fit.networks import Networks, Trained
from catdog.training.fit.stage_job import TrainJob

MapMaker = Callable[[np.ndarray, np.ndarray], np.ndarray]  # takes images and labels, as model.class_maps does

WORST = 24  # number of errors that are shown
HEATMAP_FILE, HEATMAP_FAILURE = "heat.parquet", "heat.json"


def write_heatmaps(job: TrainJob, networks: Trained, *, threads: int) -> None:
    """Write heat.parquet: heatmaps for the worst errors of the best stage.

    The worker does this because it has the model; another process would have to import TensorFlow. If anything fails,
    the run continues without the pictures, and heat.json says why.
    """
    path = files.join(job.run_dir, HEATMAP_FILE)
    if files.exists(path):
        return
    try:
        best = best_stage({stage.name: stage_mark(job.run_dir, stage.name) for stage in job.stages})
        outcomes = find_outcomes(files.join(job.run_dir, best), classes=job.spec.classes)
        worst = brief(outcomes.worst(limit=WORST)) if outcomes is not None else []
        pictures = _make_heatmaps(job, _map_maker(job, networks, best, threads=threads), worst) if worst else []
        write_pictures(path, pa.Table.from_pylist(pictures, PICTURES))
    except Exception as error:  # the model is trained and measured: explaining it must not fail the run
        files.write_json(files.join(job.run_dir, HEATMAP_FAILURE), {"message": one_line(error)})


def _map_maker(job: TrainJob, networks: Trained, best: str, *, threads: int) -> MapMaker:
    """Return a function that makes the class maps of the stage `best`."""
    if isinstance(networks, HeadNetwork) and choose_engine("auto", gpus=False) == "openvino":
        last = OpenvinoRunner(build_trunk(job.spec, networks.tensors, [LAST_MAP]), threads=threads)
        kernel, _ = networks.get()
        return lambda images, labels: evidence_maps(last(images)[0], kernel, labels)
    from catdog.model import classifier as model

    if isinstance(networks, Networks):
        classifier = networks.float32
        if best != job.stages[-1].name:
            model.load_weights_into(classifier, files.join(job.run_dir, best, "model"))
    else:
        classifier = model.load_classifier(files.join(job.run_dir, best, "model")).network
    return functools.partial(model.class_maps, classifier)


def make_seen_thumbnail(content: bytes, image: np.ndarray, *, framing: Framing, limits: DecodeLimits) -> bytes:
    """Return a small JPEG of the part of the photo `content` that the network saw as `image`, for the overlay."""
    if framing.resize == "squash":  # the network saw the whole photo, which looks better undistorted
        return make_thumbnail(content, size=THUMBNAIL_SIZE, limits=limits)
    return make_thumbnail(encode_jpeg(image, quality=95), size=THUMBNAIL_SIZE)


def _make_heatmaps(job: TrainJob, make_maps: MapMaker, worst: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of the schema PICTURES for the photos of `worst` that can be read."""
    names, images, thumbnails, labels = [], [], [], []
    for row in worst:
        try:
            content = read_photo(row["path"])
            image = decode_image(content, size=job.spec.image_size, framing=job.spec.framing, limits=job.limits)
            thumbnails.append(make_seen_thumbnail(content, image, framing=job.spec.framing, limits=job.limits))
        except ImageError:
            continue
        names.append(row["path"])
        images.append(image)
        labels.append(job.spec.classes.index(row["label"]))
    if not names:
        return []
    heatmaps = make_maps(np.stack(images), np.array(labels))
    return [
        {"name": name, "kind": "heat", "jpeg": overlay_heat(thumbnail, heatmap)}
        for name, thumbnail, heatmap in zip(names, thumbnails, heatmaps, strict=True)
    ]
