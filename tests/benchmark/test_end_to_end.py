"""What programs side by side are compared by; the programs themselves run in test_benchmark.py."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from catdog.benchmark.baselines import label_by_tf_data, label_by_threads
from catdog.benchmark.end_to_end import Race, TrialCosts, _race, recipe_flags
from catdog.benchmark.process_monitor import watch_program


def test_an_epoch_that_is_not_reached_has_no_second() -> None:
    race = _race([(10.0, 0.9), (12.0, 0.96), (15.0, 0.95)], seconds=20.0, extrapolated=False)
    assert race == Race(
        reached={"0.95": 12.0, "0.98": None, "0.985": None}, best_accuracy=0.96, epochs=3, seconds=20.0,
        extrapolated=False,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="no epoch was seen"):
        _race([], seconds=1.0, extrapolated=False)


def test_the_programs_without_ray_label_every_photo_alike(photo_folder: Path, model_dir: Path, tmp_path: Path) -> None:
    label_by_threads(str(photo_folder), str(model_dir), str(tmp_path / "threads.parquet"))
    label_by_tf_data(str(photo_folder), str(model_dir), str(tmp_path / "tf.parquet"))
    threads = pq.read_table(tmp_path / "threads.parquet").to_pylist()
    assert len(threads) == 35
    assert {Path(row["path"]).name for row in threads if row["error"]} == {"666.jpg", "11702.jpg"}
    labels = {row["path"]: row["label"] for row in threads if not row["error"]}
    # It cannot tell which photos it left out.
    assert {row["path"]: row["label"] for row in pq.read_table(tmp_path / "tf.parquet").to_pylist()} == labels


def test_the_cost_of_more_trials_is_the_difference() -> None:
    costs = TrialCosts(train_job=60.0, trunk_pass=20.0, trials=17, one_trial=30.0, all_trials=45.0)
    assert costs.more_trials == 15.0


def test_a_third_of_the_photos_of_a_class_validates() -> None:
    counts = ["--train-per-class", "40", "--validation-per-class", "20", "--test-per-class", "0"]
    assert recipe_flags("pets", a_class=60) == ["--photos", "pets", *counts]
    assert recipe_flags("pets", a_class=10_000)[3] == "1000"


def test_a_program_is_watched_to_its_end_and_its_failure_is_told() -> None:
    looks: list[float] = []
    seen = watch_program(["bash", "-c", "echo one; sleep 0.5; echo two"], poll=looks.append)
    assert [line for _, line in seen.lines] == ["one", "two"]
    assert seen.lines[1][0] - seen.lines[0][0] > 0.4
    assert seen.seconds >= seen.lines[1][0]
    assert looks
    with pytest.raises(RuntimeError, match=r"ended with 3:\nbroken"):
        watch_program(["bash", "-c", "echo broken >&2; exit 3"])
