"""The parts of a job by themselves: the trunk pass beside its limit, and what every start costs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from catdog.cluster.connection import connected, quiet_datasets
from catdog.cluster.plan import make_plan
from catdog.config import AugmentationConfig, ClusterConfig
from catdog.errors import ImageError
from catdog.features.augmentation import augment
from catdog.features.cache import locate_cache, write_part
from catdog.features.extract import extract_features
from catdog.features.rows import CachedRows
from catdog.features.spec import Extraction, PhotoSet
from catdog.features.trunk import Trunk
from catdog.model.backbone_specs import HEAD_CUT, UNIT_SCALING
from catdog.model.weights.pretrained import Pretrained, load_weights
from catdog.photos.decoding.decode import decode_image
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.manifest import build_manifest
from catdog.photos.sources.files import list_photos, read_photo

_LIMITS = DecodeLimits(max_pixels=10**8)
_WARM = 256  # images that the loops of single steps go over
_ROUNDS = 5
_VIEWS = (1, 2, 3)  # as the default recipe has them
_EPOCH_ROWS = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrunkRates:
    """Images a second: of the model alone on ready arrays, of each step alone, and of the whole pass.

    Single steps run on the cores of this process; the pass runs on those of the cluster. `bound` is what the arithmetic
    of model, decoding and augmentation leaves possible where all share the same cores and nothing else costs anything.
    """

    model_alone: float
    read_alone: float  # photos a second out of the page cache, by threads of one process on all cores
    decode_alone: float  # likewise
    augment_alone: float  # likewise
    whole_pass: float  # from the first image to the last
    whole_pass_with_start: float
    bound: float
    share_of_limit: float


def measure_trunk(photos: str, *, limit: int, folder: str) -> TrunkRates:
    """Run the trunk pass over up to `limit` photos of each class, and its steps one by one; write below `folder`."""
    pretrained = load_weights("efficientnet-lite0", weights="imagenet")
    assert pretrained is not None
    extraction = _extraction(pretrained, cut=HEAD_CUT)
    deep = _extraction(pretrained, cut="block7a_project_conv")
    alone = _measure_steps(photos, extraction, deep, pretrained)
    with connected() as resources:
        quiet_datasets(verbose=False)
        plan = make_plan(resources, ClusterConfig())
        manifest = build_manifest(
            photos, train_per_class=limit, validation_per_class=1, test_per_class=0, seed=0, limits=_LIMITS
        )
        table = manifest.select("train").select(["path", "label", "digest"]).sort_by("digest")
        rows = PhotoSet(table=table, views=_VIEWS)
        seen: list[tuple[float, int]] = []
        start = time.monotonic()
        with tempfile.TemporaryDirectory(dir=folder) as root:
            extract_features(
                [(extraction, rows), (deep, rows)], pretrained=pretrained, plan=plan, root=root,
                progress=lambda done, _: seen.append((time.monotonic() - start, done)),
            )  # fmt: skip
    (first, before), (last, total) = next(pair for pair in seen if pair[1]), seen[-1]
    whole = (total - before) / (last - first) if last > first else total / last
    bound = 1 / (1 / alone["model_alone"] + 1 / len(_VIEWS) / alone["decode_alone"] + 1 / alone["augment_alone"])
    return TrunkRates(
        **{step: round(rate, 1) for step, rate in alone.items()},
        whole_pass=round(whole, 1),
        whole_pass_with_start=round(total / last, 1),
        bound=round(bound, 1),
        share_of_limit=round(whole / alone["model_alone"], 3),
    )


def _measure_steps(photos: str, extraction: Extraction, deep: Extraction, pretrained: Pretrained) -> dict[str, float]:
    """Return the rates of the steps of a trunk pass, each by itself on all cores of this process: medians of five."""
    cores = len(os.sched_getaffinity(0))
    cv2.setNumThreads(1)  # as in the tasks of the pass; the threads below are as many as the cores
    paths = [photo.path for photo in list_photos(photos)]
    content = [read_photo(path) for path in paths]  # into the page cache
    good = []
    for one in content:
        with contextlib.suppress(ImageError):
            good.append((one, decode_image(one, size=224)))
        if len(good) == _WARM:
            break
    content, images = [one for one, _ in good], np.stack([image for _, image in good])
    trunk = Trunk(extraction, (extraction.cut, deep.cut), pretrained, threads=cores)
    trunk(images[:32])
    with ThreadPoolExecutor(cores) as pool:
        steps: dict[str, Callable[[], Any]] = {
            "read_alone": lambda: list(pool.map(read_photo, paths[: len(images)])),
            "decode_alone": lambda: list(pool.map(lambda one: decode_image(one, size=224), content)),
            "augment_alone": lambda: list(pool.map(_augment, images)),
            "model_alone": lambda: trunk(images),
        }
        return {
            name: len(images) / statistics.median(_timed(step)[1] for _ in range(_ROUNDS))
            for name, step in steps.items()
        }


def _augment(image: np.ndarray) -> np.ndarray:
    return augment(image, seed=0, digest="0" * 64, view=1, ranges=AugmentationConfig())


def _extraction(pretrained: Pretrained | None, *, cut: str) -> Extraction:
    """Return what the default recipe computes at `cut`; without weights, what names such features."""
    return Extraction(
        backbone="efficientnet-lite0",
        image_size=224,
        scaling=pretrained.scaling if pretrained else UNIT_SCALING,
        pooling="avg" if cut == HEAD_CUT else None,
        weights_checksum=pretrained.checksum if pretrained else "none",
        cut=cut,
        dtype="float16",
        seed=0,
        limits=_LIMITS,
        augmentation=AugmentationConfig(),
    )


def measure_overheads(folder: str) -> dict[str, float]:
    """Return the seconds of what jobs pay besides their work, each in a process of its own; write below `folder`."""
    found = {name: round(_program_seconds(program), 2) for name, program in _PROGRAMS.items()}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        found["trainer, start to first step"] = round(measure_trainer(place), 2)
        first, again = measure_epoch(place)
    found[f"epoch of {_EPOCH_ROWS} cached rows, first"] = round(first, 2)
    found[f"epoch of {_EPOCH_ROWS} cached rows, again"] = round(again, 3)
    return found


_PROGRAMS = {
    "python, start": "pass",
    "catdog, its configuration": "import catdog.config",
    "ray, import": "import ray",
    "ray, start and connect": "from catdog.cluster.connection import connected\nwith connected(): pass",
    "ray train, import": "import catdog.training.tensorflow_trainer",
    "openvino, import and model": (
        "from catdog.model.openvino_graph import *\nfrom catdog.weights import load_weights\n"
        "from catdog.model.saved_model import ClassifierSpec\nfrom catdog.engines import OpenvinoRunner\n"
        "p = load_weights('efficientnet-lite0', weights='imagenet')\n"
        "s = ClassifierSpec(backbone='efficientnet-lite0', image_size=224, classes=('a', 'b'), pooling='avg', "
        "dropout=0.0, scaling=p.scaling)\n"
        "OpenvinoRunner(build_trunk(s, p.tensors, ['head']), threads=2)"
    ),
    "tensorflow, import": "import tensorflow",
}


def measure_trainer(folder: str) -> float:
    """Return the seconds from a TensorflowTrainer's `fit` to the first line of its loop; Ray is up before."""
    program = (
        "import sys, time\nfrom catdog.benchmark.microbenchmarks import start_trainer\n"
        "from catdog.cluster.connection import connected\n"
        "with connected(): start_trainer(sys.argv[1])"
    )
    _program_seconds(program, folder)
    began, stepped = (float(text) for text in Path(folder, "steps").read_text().split())
    return stepped - began


def start_trainer(folder: str) -> None:
    """Run the job's trainer with one worker that does nothing but note the time; leave both times in `folder`."""
    from ray.train import RunConfig, ScalingConfig

    from catdog.training.tensorflow_trainer import LeanTensorflowTrainer

    def step() -> None:
        with Path(folder, "steps").open("a") as notes:
            notes.write(f"{time.time()}\n")

    step()
    LeanTensorflowTrainer(
        step,
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(name="trainer", storage_path=folder),
    ).fit()


def measure_epoch(folder: str) -> tuple[float, float]:
    """Return the seconds of the first epoch of cached rows of the unfrozen stage, and of the one after it.

    The rows are written below `folder` first, so they come out of the page cache.
    """
    shape = (7, 7, 1152)
    count = _EPOCH_ROWS
    table = pa.table(
        {
            "path": [f"{row}.jpg" for row in range(count)],
            "label": pa.array(np.arange(count) % 2, pa.int32()),
            "digest": [f"{row:064x}" for row in range(count)],
        }
    )
    photos = PhotoSet(table=table, views=(1,))
    extraction = _extraction(None, cut="block7a_project_conv")
    cache = locate_cache(extraction, photos, root=folder)
    random = np.random.default_rng(0)
    for name, (part, views) in photos.parts().items():
        rows = {"path": np.array(part["path"].to_pylist(), object), "label": part["label"].to_numpy()}
        rows["view"] = np.full(part.num_rows, views[0], np.int32)
        write_part(
            f"{cache.directory}/{name}",
            rows,
            random.random((part.num_rows, *shape), np.float32).astype("f2"),
            unreadable=[],
        )
    cache.finish(blocks=photos.blocks, cut=extraction.cut)
    share = CachedRows(cache, seed=0)
    return _timed(lambda: list(share.epoch(0)))[1], _timed(lambda: list(share.epoch(1)))[1]


def _program_seconds(program: str, *arguments: str) -> float:
    # A Ray that is up already would be joined, and its start is what is measured.
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "RAY_ADDRESS": "local"}
    command = [sys.executable, "-c", program, *arguments]
    return _timed(lambda: subprocess.run(command, check=True, capture_output=True, env=environment))[1]


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.monotonic()
    found = call()
    return found, time.monotonic() - start
