"""What all measures share: the photos, the model, the way to start jobs, and the results so far."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from catdog.benchmark.process_monitor import ProcessRun, watch_program
from catdog.config import BenchmarkConfig
from catdog.model.openvino.int8_file import CARD_KEY as INT8_ENTRY
from catdog.model.saved_model import read_card
from catdog.photos.sample import draw_sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class Programs:
    """Starts catdog's jobs and the baselines, each in its own process.

    They write below `folder`. On a cluster all machines must share it. `ray_address` is what RAY_ADDRESS is set to;
    by default it stays as it is.
    """

    folder: str
    verbose: bool = False
    ray_address: str = ""

    def run(self, job: str, *flags: str, poll: Callable[[float], None] = lambda seconds: None) -> ProcessRun:
        """Run a job until it ends."""
        environment = {"RAY_ADDRESS": self.ray_address} if self.ray_address else {}
        return watch_program(
            [sys.executable, "-m", "catdog", job, *flags], environment=environment, verbose=self.verbose, poll=poll
        )

    def run_baseline(self, name: str, *arguments: str) -> ProcessRun:
        """Run one of the programs of benchmark/baselines until it ends."""
        return watch_program(
            [sys.executable, "-m", "catdog.benchmark.baselines", name, *arguments], verbose=self.verbose
        )


class Bench:
    """One run of the benchmark: its settings, its temporary folder, and its `results` so far.

    `model_dir` is the model used for labelling. If the settings name none, it is "" until a measure has trained one.
    """

    def __init__(self, config: BenchmarkConfig, *, folder: str) -> None:
        self.config, self.folder = config, folder
        self.programs = Programs(folder=folder, verbose=config.verbose)
        self.photos = config.photos
        if not self.photos:
            self.photos = f"{folder}/sample"
            draw_sample(Path(self.photos))
        self.model_dir = config.model
        self.results: dict[str, Any] = {}
        self._many = ""

    def many_photos(self) -> str:
        """Return a folder of at least `count` photos, filled with copies if there are too few originals."""
        if not self._many:
            if len(list_photo_files(self.photos)) >= self.config.count:
                self._many = self.photos
            else:
                self._many = f"{self.folder}/many"
                multiply_photos(self.photos, self._many, self.config.count)
        return self._many

    def trained_model(self) -> str:
        """Return the model used for labelling; train it first if there is none yet."""
        if not self.model_dir:
            run_dir = f"{self.folder}/model-run"
            self.programs.run("train", "--photos", self.photos, "--run-dir", run_dir)
            self.model_dir = f"{run_dir}/model"
        return self.model_dir

    def quantize_model(self) -> bool:
        """Quantize the model for labelling if it was trained here and NNCF is installed.

        Returns whether it has a quantized graph, as a model of the user, which is not changed, may have, too.
        """
        model = self.trained_model()
        if not self.config.model and importlib.util.find_spec("nncf"):
            self.programs.run("export", "--to", "int8", "--model", model, "--photos", self.photos)
        return INT8_ENTRY in read_card(model)


_MAX_PER_CLASS = 1000  # photos to train on, as in the article


def recipe_flags(photos: str, *, per_class: int) -> list[str]:
    """Return the flags of a train or tune job on up to `per_class` photos of a class, a third of them to validate."""
    train = max(1, min(2 * per_class // 3, _MAX_PER_CLASS))
    return split_flags(photos, train=train, validation=max(1, train // 2))


def split_flags(photos: str, *, train: int, validation: int) -> list[str]:
    """Return the flags of a job that draws `train` and `validation` photos of each class, and none for testing."""
    counts = {"--train-per-class": train, "--validation-per-class": validation, "--test-per-class": 0}
    return ["--photos", photos, *(text for flag, count in counts.items() for text in (flag, str(count)))]


def list_photo_files(photos: str) -> list[Path]:
    """Return all files below `photos`."""
    return [path for path in Path(photos).rglob("*") if path.is_file()]


def multiply_photos(photos: str, folder: str, count: int, *, link: bool = False) -> None:
    """Fill `folder` with `count` photos, taken in turn from the class folders of `photos` and repeated as needed.

    A repeated photo has a few bytes appended, so that the check for duplicates takes it for another file. With `link`,
    the copies of a photo are hard links to one file instead, which is enough for a predict job.
    """
    classes = [sorted(list_photo_files(str(place))) for place in sorted(Path(photos).iterdir()) if place.is_dir()]
    turns = _turns([files for files in classes if files])
    for number, (files, turn) in enumerate(itertools.islice(turns, count)):
        source = files[turn % len(files)]
        target = Path(folder, source.parent.name, f"{number:07d}{source.suffix}")
        target.parent.mkdir(parents=True, exist_ok=True)
        first = Path(folder, source.parent.name, f".{source.name}")
        if link and not first.exists():
            first.write_bytes(source.read_bytes())
        if link and first.stat().st_nlink < 60_000:  # file systems allow at least 65,000
            os.link(first, target)
        else:
            target.write_bytes(source.read_bytes() + (b"" if turn < len(files) else f"copy {number}".encode()))


def _turns(classes: Sequence[list[Path]]) -> Iterator[tuple[list[Path], int]]:
    """Yield the files of each class in turn, endlessly, with the number of the turn."""
    for turn in itertools.count():
        for files in classes:
            yield files, turn
