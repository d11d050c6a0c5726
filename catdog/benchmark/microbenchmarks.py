"""Single parts of a training: the trunk pass compared with its limit, and an epoch of cached rows."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from catdog.benchmark.bench import Bench
from catdog.cluster.connection import connected
from catdog.cluster.environment import quiet_datasets
from catdog.cluster.plan import make_plan
from catdog.command_line.settings import build_config
from catdog.config import RECIPE_DEFAULTS, AugmentationConfig, ClusterConfig, TrainConfig
from catdog.console import say, table_text
from catdog.errors import ImageError
from catdog.features.augmentation import augment
from catdog.features.cache import locate_cache, write_part
from catdog.features.extract import extract_features
from catdog.features.rows import CachedRows
from catdog.features.spec import Extraction, PhotoSet
from catdog.features.trunk import Trunk
from catdog.model.backbone_specs import UNIT_SCALING
from catdog.model.weights.pretrained import Pretrained, load_weights
from catdog.photos.decoding.decode import decode_image
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.ingest import build_manifest
from catdog.photos.sharded.photo_rows import PhotoRows
from catdog.photos.sources.files import list_photos, read_photo
from catdog.training.stages import StageLayout

_LIMITS = DecodeLimits(max_pixels=10**8)
_WARM = 256  # images that each measurement of a single step processes
_ROUNDS = 5
EPOCH_ROWS = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrunkRates:
    """Images per second: of the model alone on decoded arrays, of each other step alone, and of the whole pass.

    Single steps run on the cores of this process, the pass on those of the cluster. `bound` is the computed rate of a
    pass in which model and decoding share the same cores and nothing else costs time. `share_of_limit` is the warm rate
    of the pass divided by that of the model alone. Augmentation is the article's. The pass of the default recipe has
    none.
    """

    model_alone: float
    read_alone: float  # photos per second from the page cache, by threads of one process on all cores
    decode_alone: float  # photos per second from memory, by the same threads
    augment_alone: float  # images per second, by the same threads, of the same size
    whole_pass: float  # from the first image to the last
    whole_pass_with_start: float
    bound: float
    share_of_limit: float


def measure_trunk(bench: Bench) -> dict[str, Any]:
    """Measure the trunk pass and its single steps, and print how they compare."""
    rates = trunk_rates(bench.many_photos(), limit=bench.config.count // 3, folder=bench.folder)
    rows = [
        ("images a second", "rate"),
        ("model alone, ready arrays", f"{rates.model_alone:.1f}"),
        ("decode alone, photos", f"{rates.decode_alone:.1f}"),
        ("augment alone", f"{rates.augment_alone:.1f}"),
        ("trunk pass, warm", f"{rates.whole_pass:.1f}"),
        ("trunk pass, with its start", f"{rates.whole_pass_with_start:.1f}"),
    ]
    say(table_text(rows))
    share = rates.bound / rates.model_alone
    say(f"The trunk pass runs at {rates.share_of_limit:.2f} of the model alone. Decoding on the same cores would")
    say(f"leave {share:.2f} of it if nothing else took any time.")
    return dataclasses.asdict(rates)


def trunk_rates(photos: str, *, limit: int, folder: str) -> TrunkRates:
    """Return the rates of the default recipe's trunk pass over up to `limit` photos of each class, and of its steps.

    The features are written to a temporary folder below `folder`.
    """
    config = build_config(TrainConfig, {**RECIPE_DEFAULTS["default"], "photos": photos})
    pretrained = load_weights(config.backbone, weights=config.weights)
    assert pretrained is not None
    with connected():
        manifest = build_manifest(photos, per_class={"train": limit, "validation": 1, "test": 0}, limits=_LIMITS)
    with tempfile.TemporaryDirectory(dir=folder) as root:
        layout = StageLayout(config, manifest, pretrained, root=root)
        alone = _measure_steps(photos, layout.wanted()[0][0], pretrained)
        seen: list[tuple[float, int]] = []
        with connected() as resources:
            quiet_datasets(verbose=False)
            plan = make_plan(resources, ClusterConfig())
            start = time.monotonic()
            extract_features(
                layout.wanted(), pretrained=pretrained, plan=plan, root=root,
                progress=lambda done, _: seen.append((time.monotonic() - start, done)),
            )  # fmt: skip
    (first, before), (last, total) = next(pair for pair in seen if pair[1]), seen[-1]
    whole = (total - before) / (last - first) if last > first else total / last
    bound = 1 / (1 / alone["model_alone"] + 1 / alone["decode_alone"])
    return TrunkRates(
        **{step: round(rate, 1) for step, rate in alone.items()},
        whole_pass=round(whole, 1),
        whole_pass_with_start=round(total / last, 1),
        bound=round(bound, 1),
        share_of_limit=round(whole / alone["model_alone"], 3),
    )


def _measure_steps(photos: str, extraction: Extraction, pretrained: Pretrained) -> dict[str, float]:
    """Return the rate of each step of a trunk pass, run alone on all cores of this process: the median of five runs."""
    cores = len(os.sched_getaffinity(0))
    cv2.setNumThreads(1)  # as in the tasks of the pass; the thread pool below has one thread per core
    paths = [photo.path for photo in list_photos(photos)]
    content = [read_photo(path) for path in paths]  # this also fills the page cache

    def decode(one: bytes) -> np.ndarray:
        return decode_image(one, size=extraction.image_size, framing=extraction.framing)

    good = []
    for one in content:
        with contextlib.suppress(ImageError):
            good.append((one, decode(one)))
        if len(good) == _WARM:
            break
    content, images = [one for one, _ in good], np.stack([image for _, image in good])
    trunk = Trunk(extraction, (extraction.cut,), pretrained, threads=cores)
    trunk(images[:32])
    with ThreadPoolExecutor(cores) as pool:
        steps: dict[str, Callable[[], Any]] = {
            "read_alone": lambda: list(pool.map(read_photo, paths[: len(images)])),
            "decode_alone": lambda: list(pool.map(decode, content)),
            "augment_alone": lambda: list(pool.map(_augment, images)),
            "model_alone": lambda: trunk(images),
        }
        return {
            name: len(images) / statistics.median(timed(step)[1] for _ in range(_ROUNDS))
            for name, step in steps.items()
        }


def _augment(image: np.ndarray) -> np.ndarray:
    return augment(image, seed=0, digest="0" * 64, view=1, ranges=AugmentationConfig())


def measure_epoch(folder: str) -> tuple[float, float]:
    """Return the seconds of the first and the second epoch over cached rows of the unfrozen stage.

    The rows are first written below `folder`, so they are read from the page cache.
    """
    shape = (7, 7, 1152)
    count = EPOCH_ROWS
    table = pa.table(
        {
            "path": [f"{row}.jpg" for row in range(count)],
            "label": pa.array(np.arange(count) % 2, pa.int32()),
            "digest": [f"{row:064x}" for row in range(count)],
        }
    )
    photos = PhotoSet(photos=PhotoRows.of(table), views=(1,))
    extraction = Extraction(
        backbone="efficientnet-lite0",
        image_size=224,
        scaling=UNIT_SCALING,
        pooling=None,
        weights_checksum="none",
        cut="block7a_project_conv",
        dtype="float16",
        seed=0,
        limits=_LIMITS,
        augmentation=AugmentationConfig(),
    )
    cache = locate_cache(extraction, photos, root=folder)
    random = np.random.default_rng(0)
    for part in photos.parts():
        chosen = part.read()
        rows = {"path": np.array(chosen["path"].to_pylist(), object), "label": chosen["label"].to_numpy()}
        rows["view"] = np.full(part.rows, 1, np.int32)
        write_part(
            f"{cache.directory}/{part.name}",
            rows,
            random.random((part.rows, *shape), np.float32).astype("f2"),
            unreadable=[],
        )
    cache.finish(blocks=photos.blocks, cut=extraction.cut)
    share = CachedRows(cache, seed=0)
    return timed(lambda: list(share.epoch(0)))[1], timed(lambda: list(share.epoch(1)))[1]


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of `call`, and the seconds that it took."""
    start = time.monotonic()
    found = call()
    return found, time.monotonic() - start
