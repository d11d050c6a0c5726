"""Programs compared with each other: the figures that are compared, and a real run of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from heard import heard
from recorded_programs import recorded_bench

from catdog.benchmark.bench import Programs
from catdog.benchmark.end_to_end import (
    TimeToAccuracy,
    _time_to_accuracy,
    label_by_baseline,
    label_by_catdog,
    measure_trials,
    train_by_article,
    train_by_catdog,
)
from catdog.config import BenchmarkConfig

SMALL = ["--backbone", "efficientnet-lite0", "--image-size", "64", "--train-per-class", "8", "--test-per-class", "0"]


def test_an_epoch_that_is_not_reached_has_no_second() -> None:
    found = _time_to_accuracy([(10.0, 0.9), (12.0, 0.96), (15.0, 0.95)], seconds=20.0, extrapolated=False)
    assert found == TimeToAccuracy(
        reached={"0.95": 12.0, "0.98": None, "0.985": None}, best_accuracy=0.96, epochs=3, seconds=20.0,
        extrapolated=False,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="no epoch was seen"):
        _time_to_accuracy([], seconds=1.0, extrapolated=False)


def test_more_trials_cost_the_difference_of_two_sweeps(photo_folder: Path, tmp_path: Path) -> None:
    config = BenchmarkConfig(photos=str(photo_folder), count=30, trials=9)
    bench, commands = recorded_bench(config, tmp_path)
    lines: list[str] = []
    found = heard(lines, measure_trials, bench)
    assert found == {"train_job": 55.0, "trunk_pass": 9.0, "trials": 9, "one_trial": 41.0, "all_trials": 49.0,
                     "more_trials": 8.0}  # fmt: skip
    assert [command[0] for command in commands] == ["train", "tune", "tune"]
    assert "8 more train jobs, each from the photos  440.0 (computed)" in "\n".join(lines)


@pytest.mark.usefixtures("ray_session")
def test_a_labeller_of_ours_and_one_without_ray_are_watched(
    photo_folder: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    programs = Programs(folder=str(tmp_path))
    where = {"photos": str(photo_folder), "model": str(model_dir)}
    runs = [
        label_by_catdog(programs, ("--engine", "openvino"), **where),
        label_by_baseline(programs, "threads", **where),
    ]
    for run in runs:
        assert 0 < run.first_row_seconds <= run.seconds
        assert run.warm_photos_per_second > 0


@pytest.mark.usefixtures("ray_session")
def test_a_training_of_ours_and_the_article_s_on_its_splits_are_watched(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    programs, run_dir = Programs(folder=str(tmp_path)), str(tmp_path / "run")
    ours = train_by_catdog(programs, ["--photos", str(photo_folder), *SMALL], run_dir=run_dir)
    assert (ours.epochs, ours.extrapolated) == (1, False)  # a head that is solved takes one epoch
    assert all(at is None or 0 < at < ours.seconds for at in ours.reached.values())
    theirs = train_by_article(programs, run_dir=run_dir, epochs=1)
    # The time of 100 and 200 epochs is computed from one epoch of each stage, which takes at least 0.01 s.
    assert (theirs.epochs, theirs.extrapolated, theirs.seconds > 3) == (2, True, True)
