"""What a job pays before its work: interpreter, imports, Ray, trainer and model, each timed in its own process.

And what a user waits for: the train job on the drawn sample, and a predict job until its first labels.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from catdog.console import say, table_text

if TYPE_CHECKING:
    from catdog.benchmark.bench import Bench


_FEW = 240  # photos of a predict job whose start is measured; it stores labels 32 at a time


def measure_overheads(bench: Bench) -> dict[str, list[float]]:
    """Time the start of each part of a job, and of whole jobs, `repeats` times; return the seconds by part."""
    runs = [{**_measure_once(bench.folder), **_measure_jobs(bench)} for _ in range(bench.config.repeats)]
    found = {name: [run[name] for run in runs] for name in runs[0]}
    rows = [
        (name, f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f}-{max(seconds):.2f}")
        for name, seconds in found.items()
    ]
    say(table_text([("started alone", "seconds", "spread"), *rows]))
    return found


def _measure_once(folder: str) -> dict[str, float]:
    from catdog.benchmark.microbenchmarks import EPOCH_ROWS, measure_epoch

    found = {name: round(_run_in_process(start), 2) for name, start in _STARTS.items()}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        _run_in_process(start_trainer, place)
        began, stepped = (float(text) for text in Path(place, "steps").read_text().split())
        found["trainer, start to first step"] = round(stepped - began, 2)
        first, again = measure_epoch(place)
    found[f"epoch of {EPOCH_ROWS} cached rows, first"] = round(first, 2)
    found[f"epoch of {EPOCH_ROWS} cached rows, again"] = round(again, 3)
    return found


def _measure_jobs(bench: Bench) -> dict[str, float]:
    """Return the seconds of a train job on the drawn sample, and of predict jobs until the first labels are stored."""
    import ray

    from catdog.benchmark.bench import multiply_photos
    from catdog.benchmark.end_to_end import label_by_catdog
    from catdog.cluster.connection import connected

    model, alone, found = bench.trained_model(), dataclasses.replace(bench.programs, ray_address="local"), {}
    with tempfile.TemporaryDirectory(dir=bench.folder) as place:
        found["train job on the drawn sample"] = alone.run("train", "--run-dir", f"{place}/run").seconds
        photos = f"{place}/photos"
        multiply_photos(bench.photos, photos, _FEW)
        labelled = label_by_catdog(alone, (), photos=photos, model=model)
        found["predict job, first labels"] = labelled.first_row_seconds
        with connected():
            there = dataclasses.replace(bench.programs, ray_address=ray.get_runtime_context().gcs_address)
            labelled = label_by_catdog(there, (), photos=photos, model=model)
        found["predict job, first labels, Ray runs"] = labelled.first_row_seconds
    return {name: round(seconds, 2) for name, seconds in found.items()}


def _run_in_process(start: Callable[..., None], *arguments: str) -> float:
    """Return the seconds of a Python process that calls `start`, a function of this module, and exits."""
    program = f"import sys; from {start.__module__} import {start.__name__}; {start.__name__}(*sys.argv[1:])"
    # Without RAY_ADDRESS=local the process would join a running Ray, but the start of Ray is what is measured.
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "RAY_ADDRESS": "local"}
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True, env=environment)
    return time.monotonic() - begin


# What the processes run. Each import is timed, so none is at the top of this module.


def start_python() -> None:
    """Do nothing: only the interpreter is timed."""


def import_config() -> None:
    """Import the settings, as `--help` does."""
    import catdog.config  # noqa: F401


def import_ray() -> None:
    """Import Ray."""
    import ray  # noqa: F401


def import_tensorflow() -> None:
    """Import TensorFlow."""
    import tensorflow  # noqa: F401


def import_trainer() -> None:
    """Import the trainer, and Ray Train with it."""
    import catdog.training.trainer  # noqa: F401


def import_scores() -> None:
    """Import the packages that score predictions: scikit-learn and SciPy."""
    import sklearn.metrics  # noqa: F401


def start_ray() -> None:
    """Start Ray on this machine and connect to it."""
    from catdog.cluster.connection import connected

    with connected():
        pass


def build_on_openvino() -> None:
    """Build a trunk on OpenVINO from the ImageNet weights."""
    from catdog.model.backbone_specs import HEAD_CUT
    from catdog.model.engines import OpenvinoRunner
    from catdog.model.openvino.graph import build_trunk
    from catdog.model.saved_model import ClassifierSpec
    from catdog.model.weights.pretrained import load_weights

    pretrained = load_weights("efficientnet-lite0", weights="imagenet")
    assert pretrained is not None
    spec = ClassifierSpec(
        backbone="efficientnet-lite0",
        image_size=224,
        classes=("a", "b"),
        pooling="avg",
        dropout=0.0,
        scaling=pretrained.scaling,
    )
    OpenvinoRunner(build_trunk(spec, pretrained.tensors, [HEAD_CUT]), threads=2)


_STARTS: dict[str, Callable[[], None]] = {
    "python, start": start_python,
    "catdog, its settings": import_config,
    "ray, import": import_ray,
    "ray, start and connect": start_ray,
    "ray train, import": import_trainer,
    "openvino, import and model": build_on_openvino,
    "scikit-learn and scipy, import": import_scores,
    "tensorflow, import": import_tensorflow,
}


def start_trainer(folder: str) -> None:
    """Run a trainer whose only worker just records the time.

    Writes two times to `folder`/steps: before the trainer starts, and in its worker.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.tensorflow import TensorflowTrainer

    from catdog.cluster.connection import connected
    from catdog.training.trainer import TensorflowWorkers

    def step() -> None:
        with Path(folder, "steps").open("a") as notes:
            notes.write(f"{time.time()}\n")

    with connected():
        step()
        TensorflowTrainer(
            step,
            tensorflow_config=TensorflowWorkers(),
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.5}),
            run_config=RunConfig(name="trainer", storage_path=folder),
        ).fit()
