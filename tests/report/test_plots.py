import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catdog.report.plots import draw_curves, draw_sweep, stage_table


def history(epochs: int) -> list[dict[str, float]]:
    return [
        {"epoch": epoch, "loss": 1 / epoch, "acc": 1 - 0.5 / epoch, "val_loss": 1.1 / epoch, "val_acc": 1 - 0.6 / epoch}
        for epoch in range(1, epochs + 1)
    ]


def test_both_plots_are_drawn_with_dots_line_and_border(tmp_path: Path) -> None:
    draw_curves({"frozen": history(5), "unfrozen": history(3)}, run_dir=str(tmp_path))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["accuracy.png", "loss.png"]
    for file in tmp_path.iterdir():
        image = np.asarray(Image.open(io.BytesIO(file.read_bytes())).convert("RGB")).astype(int)
        assert image.shape == (540, 960, 3)
        for colour in ((31, 95, 168), (224, 122, 31), (153, 153, 153)):  # line, dots, border
            assert (np.abs(image - np.array(colour)).sum(axis=2) < 60).sum() > 50


def test_one_stage_alone_is_drawn(tmp_path: Path) -> None:
    draw_curves({"frozen": history(1), "unfrozen": []}, run_dir=str(tmp_path))
    assert (tmp_path / "accuracy.png").stat().st_size > 5000


def test_the_closing_table_sets_frozen_against_unfrozen() -> None:
    stages = {
        "frozen": {"epochs": 12, "seconds": 4.4, "validation": {"accuracy": 0.98, "loss": 0.05}},
        "unfrozen": {
            "epochs": 8, "seconds": 65, "validation": {"accuracy": 0.99, "loss": 0.04},
            "test": {"accuracy": 0.985, "loss": 0.0512},
        },
    }  # fmt: skip
    assert stage_table(stages).splitlines() == [
        "stage     epochs  val acc  val loss  test acc  test loss   time",
        "--------  ------  -------  --------  --------  ---------  -----",
        "frozen        12   0.9800    0.0500         -          -     4s",
        "unfrozen       8   0.9900    0.0400    0.9850     0.0512  1m05s",
    ]


def test_the_closing_table_shows_balanced_accuracy_where_it_differs_and_that_a_head_was_solved() -> None:
    scores = {"accuracy": 0.98, "balanced_accuracy": 0.9, "loss": 0.05}
    stages = {"frozen": {"epochs": 1, "seconds": 4.4, "validation": scores, "head": {"c": 0.01, "losses": {}}}}
    assert stage_table(stages).splitlines() == [
        "stage   epochs  val acc  val balanced  val loss  test acc  test balanced  test loss  time",
        "------  ------  -------  ------------  --------  --------  -------------  ---------  ----",
        "frozen  solved   0.9800        0.9000    0.0500         -              -          -    4s",
    ]
    stages["frozen"]["validation"] = {"accuracy": 0.98, "balanced_accuracy": 0.98, "loss": 0.05}
    assert "balanced" not in stage_table(stages)


@pytest.mark.parametrize("settings", [("dropout", "frozen.learning_rate"), ("pooling",), ()])
def test_a_sweep_of_numbers_or_of_words_is_drawn(settings: tuple[str, ...], tmp_path: Path) -> None:
    records = [
        {
            "status": ("finished", "stopped")[number % 2], "seconds": 4.0, "ended": 100.0 + number,
            "values": {"dropout": number / 10, "frozen.learning_rate": 10.0**-number, "pooling": "avg"},
            "validation": {"accuracy": 0.9 + number / 100, "loss": 0.2},
        }
        for number in range(1, 5)
    ]  # fmt: skip
    draw_sweep([*records, {"status": "failed", "values": {}}], settings, run_dir=str(tmp_path))
    assert Image.open(tmp_path / "sweep.png").size == (1200, 540)
