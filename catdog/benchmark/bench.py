"""What all measures share: the photos, the model, how jobs are started, and where to say what was found."""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from catdog.benchmark.process_monitor import ProcessRun, watch_program
from catdog.config import BenchmarkConfig
from catdog.photos.sample import draw_sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class Programs:
    """How to start catdog's jobs and the baselines, each as a process of its own.

    `folder` is where they write: on a cluster one that all its machines share.
    """

    folder: str
    verbose: bool = False

    def run(self, job: str, *flags: str, poll: Callable[[float], None] = lambda seconds: None) -> ProcessRun:
        """Run a job to its end."""
        return watch_program([sys.executable, "-m", "catdog", job, *flags], verbose=self.verbose, poll=poll)

    def run_baseline(self, name: str, *arguments: str) -> ProcessRun:
        """Run one of the programs of benchmark/baselines to its end."""
        return watch_program(
            [sys.executable, "-m", "catdog.benchmark.baselines", name, *arguments], verbose=self.verbose
        )


class Bench:
    """One run of the benchmark: its settings, its temporary folder, and what was found so far (`results`).

    `model_dir` is the model that labels, "" until a measure has trained one.
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
        """Return a folder of `count` photos, made of copies where there are fewer."""
        if not self._many:
            if len(list_photo_files(self.photos)) >= self.config.count:
                self._many = self.photos
            else:
                self._many = f"{self.folder}/many"
                multiply_photos(self.photos, self._many, self.config.count)
        return self._many

    def trained_model(self) -> str:
        """Return a model that labels, trained first where none is at hand."""
        if not self.model_dir:
            run_dir = f"{self.folder}/model-run"
            self.programs.run("train", "--photos", self.photos, "--run-dir", run_dir)
            self.model_dir = f"{run_dir}/model"
        return self.model_dir


_MOST_PER_CLASS = 1000  # photos to train on, as the article has


def recipe_flags(photos: str, *, per_class: int) -> list[str]:
    """Return the flags of a train or tune job on up to `per_class` photos of a class, a third of them to validate."""
    train = max(1, min(2 * per_class // 3, _MOST_PER_CLASS))
    return split_flags(photos, train=train, validation=max(1, train // 2))


def split_flags(photos: str, *, train: int, validation: int) -> list[str]:
    """Return the flags of a job that draws so many photos of each class, and none to test."""
    counts = {"--train-per-class": train, "--validation-per-class": validation, "--test-per-class": 0}
    return ["--photos", photos, *(text for flag, count in counts.items() for text in (flag, str(count)))]


def list_photo_files(photos: str) -> list[Path]:
    """Return all files below `photos`."""
    return [path for path in Path(photos).rglob("*") if path.is_file()]


def multiply_photos(photos: str, folder: str, count: int, *, link: bool = False) -> None:
    """Fill `folder` with `count` photos in the class folders of `photos`, in turn from each, as often as it takes.

    A copy has a few bytes behind the picture, so that the check for duplicates takes it for another file; with `link`
    the copies of a photo are one file under several names, which a predict job does not mind.
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
        if link and first.stat().st_nlink < 60_000:  # file systems allow 65,000 at least
            os.link(first, target)
        else:
            target.write_bytes(source.read_bytes() + (b"" if turn < len(files) else f"copy {number}".encode()))


def _turns(classes: Sequence[list[Path]]) -> Iterator[tuple[list[Path], int]]:
    """Yield the classes in turn without end, with the number of the turn."""
    for turn in itertools.count():
        for files in classes:
            yield files, turn
