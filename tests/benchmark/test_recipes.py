import json
from pathlib import Path

import pytest

from catdog.benchmark.recipes import _VARIANTS, RecipeScore, recipe_rows, score_runs
from catdog.command_line.arguments import parse_arguments
from catdog.config import TrainConfig


def leave_run(folder: Path, *, accuracy: float, best: str) -> str:
    """Write the scores that a finished train job leaves in `folder`, and return the folder."""
    (folder / "model").mkdir(parents=True)
    stages = {name: {"validation": {"accuracy": accuracy, "loss": 0.5}} for name in ("frozen", "unfrozen")}
    report = {"stages": stages, "model": best, "seconds": {"total": 10 * accuracy}}
    evaluations = {name: {"validation": {"calibration_error": 0.01}} for name in stages}
    contents = {
        "report.json": report,
        "diagnosis.json": {"evaluations": evaluations},
        "config.json": {"views": 3, "frozen.head": "logistic"},
        "model/card.json": {"backbone": "efficientnet-lite2", "image_size": 260},
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))
    return str(folder)


@pytest.mark.parametrize("flags", _VARIANTS.values(), ids=_VARIANTS.keys())
def test_a_variant_has_flags_that_the_train_job_knows(flags: str) -> None:
    parse_arguments(TrainConfig, flags.split(), description="", program="train")


def test_scores_are_means_over_the_runs_of_a_recipe(tmp_path: Path) -> None:
    runs = [
        leave_run(tmp_path / "0", accuracy=0.98, best="frozen"),
        leave_run(tmp_path / "1", accuracy=0.99, best="unfrozen"),
    ]
    frozen, unfrozen = score_runs("accurate", runs)
    assert frozen == RecipeScore(
        recipe="accurate", backbone="efficientnet-lite2", image_size=260, views=3, head="logistic", stage="frozen",
        runs=2, chosen=1, accuracy=0.985, loss=0.5, calibration_error=0.01, seconds=9.85,
    )  # fmt: skip
    assert unfrozen.stage == "unfrozen"
    assert recipe_rows([frozen])[1] == (
        "accurate", "efficientnet-lite2", "260", "3", "logistic", "frozen", "1/2", "0.9850", "0.5000", "0.0100", "10",
    )  # fmt: skip
