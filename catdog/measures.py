"""What `jobs/benchmark.py` measures besides labelling: the trunk pass and its limit, a sweep, overheads."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from catdog import cluster
from catdog.augmentation import augment
from catdog.card import HEAD_CUT
from catdog.config import AugmentationConfig, ClusterConfig, TrainConfig
from catdog.features import Extraction, PhotoSet
from catdog.images import decode_image
from catdog.manifest import build_manifest
from catdog.photos import read_photo
from catdog.trunk import Trunk, extract_features
from catdog.weights import load_weights

_WARM = 256  # images that the loop over ready arrays goes over
_VIEWS = (0, 1, 2)  # as the default recipe has them


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrunkRates:
    """Images a second: of the model alone on ready arrays, of each step alone, and of the whole pass."""

    model_alone: float
    decode_alone: float  # photos a second, by threads of one process on all cores
    augment_alone: float  # likewise
    whole_pass: float  # from the first image to the last
    whole_pass_with_start: float
    share_of_limit: float


def measure_trunk(photos: str, *, limit: int) -> TrunkRates:
    """Run the trunk pass over up to `limit` photos of each class below `photos`, and its steps one by one."""
    cores = len(os.sched_getaffinity(0))
    pretrained = load_weights("efficientnet-lite0", weights="imagenet")
    assert pretrained is not None
    extraction = Extraction(
        backbone="efficientnet-lite0", image_size=224, input_scale=pretrained.scale,
        input_offset=pretrained.offset, pooling="avg", weights_checksum=pretrained.checksum, cut=HEAD_CUT,
        dtype="float16", seed=0, max_pixels=10**8, augmentation=AugmentationConfig(),
    )  # fmt: skip
    deep = dataclasses.replace(extraction, cut="block7a_project_conv", pooling=None)
    with cluster.connected() as resources:
        cluster.quiet_datasets(verbose=False)
        plan = cluster.make_plan(resources, ClusterConfig())
        manifest = build_manifest(
            photos, train_per_class=limit, validation_per_class=1, test_per_class=0, seed=0, max_pixels=10**8
        )
        table = manifest.select("train").select(["path", "label", "digest"]).sort_by("digest")
        rows = PhotoSet(table=table, views=_VIEWS)
        seen: list[tuple[float, int]] = []
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="catdog-benchmark-") as root:
            extract_features(
                [(extraction, rows), (deep, rows)], pretrained=pretrained, plan=plan, root=root,
                progress=lambda done, _: seen.append((time.monotonic() - start, done)),
            )  # fmt: skip
    (first, before), (last, total) = next(pair for pair in seen if pair[1]), seen[-1]
    content = [read_photo(path) for path in table["path"].to_pylist()[:_WARM]]
    with ThreadPoolExecutor(cores) as pool:
        decoded, decoding = _timed(lambda: list(pool.map(lambda one: decode_image(one, size=224), content)))
        _, augmenting = _timed(
            lambda: list(
                pool.map(
                    lambda image: augment(image, seed=0, digest="0" * 64, view=1, ranges=AugmentationConfig()), decoded
                )
            )
        )
    images = np.stack(decoded)
    trunk = Trunk(extraction, (HEAD_CUT, deep.cut), pretrained, threads=cores)
    trunk(images[:32])
    _, running = _timed(lambda: trunk(images))
    model_alone, whole = len(images) / running, (total - before) / (last - first) if last > first else total / last
    return TrunkRates(
        model_alone=round(model_alone, 1),
        decode_alone=round(len(images) / decoding, 1),
        augment_alone=round(len(images) / augmenting, 1),
        whole_pass=round(whole, 1),
        whole_pass_with_start=round(total / last, 1),
        share_of_limit=round(whole / model_alone, 3),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialCosts:
    """Seconds of a train job, and of sweeps of one trial and of many on the features that it left."""

    train_job: float
    trunk_pass: float
    trials: int
    one_trial: float
    all_trials: float

    @property
    def more_trials(self) -> float:
        """Seconds of the trials after the first."""
        return self.all_trials - self.one_trial


def measure_trials(jobs: Path, flags: Sequence[str], *, trials: int) -> TrialCosts:
    """Run the train job once and the tune job twice, with the same `flags`, as a user does."""
    with tempfile.TemporaryDirectory(prefix="catdog-benchmark-") as folder:
        train = _job_seconds(jobs / "train.py", *flags, "--run-dir", f"{folder}/train")
        found = []
        for count in (1, trials):
            sweep = ["--features", f"{folder}/train/features", "--trials", str(count)]
            found.append(_job_seconds(jobs / "tune.py", *flags, *sweep, "--run-dir", f"{folder}/sweep{count}"))
        seconds = json.loads(Path(folder, "train", "report.json").read_text())["seconds"]
    return TrialCosts(
        train_job=train, trunk_pass=seconds["trunk"], trials=trials, one_trial=found[0], all_trials=found[1]
    )


def measure_overheads() -> dict[str, float]:
    """Return the seconds of what every job pays before its work begins, each in a process of its own."""
    programs = {
        "python, start": "pass",
        "catdog, its configuration": "import catdog.config",
        "ray, import": "import ray",
        "ray, start and connect": "from catdog import cluster\nwith cluster.connected(): pass",
        "ray train, import": "import ray.train.tensorflow",
        "openvino, import and model": (
            "from catdog.openvino_graph import *\nfrom catdog.weights import load_weights\n"
            "from catdog.card import ClassifierSpec\nfrom catdog.engines import OpenvinoRunner\n"
            "p = load_weights('efficientnet-lite0', weights='imagenet')\n"
            "s = ClassifierSpec(backbone='efficientnet-lite0', image_size=224, classes=('a', 'b'), pooling='avg', "
            "dropout=0.0, input_scale=p.scale, input_offset=p.offset)\n"
            "OpenvinoRunner(build_trunk(s, p.tensors, ['head']), threads=2)"
        ),
        "tensorflow, import": "import tensorflow",
    }
    return {name: round(_program_seconds(program), 2) for name, program in programs.items()}


def _program_seconds(program: str) -> float:
    # A Ray that is up already would be joined, and its start is what is measured.
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "RAY_ADDRESS": "local"}
    _, seconds = _timed(
        lambda: subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, env=environment)
    )
    return seconds


def _job_seconds(job: Path, *flags: str) -> float:
    _, seconds = _timed(
        lambda: subprocess.run([sys.executable, str(job), *flags], check=True, capture_output=True, text=True)
    )
    return round(seconds, 1)


def recipe_flags(photos: str, *, limit: int) -> list[str]:
    """Return the flags of a train or tune job on up to `limit` training photos a class, half as many to validate."""
    defaults = TrainConfig()
    train = min(limit, defaults.train_per_class)
    counts = {"--train-per-class": train, "--validation-per-class": max(1, train // 2), "--test-per-class": 0}
    return ["--photos", photos, *(text for flag, count in counts.items() for text in (flag, str(count)))]


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.monotonic()
    found = call()
    return found, time.monotonic() - start
