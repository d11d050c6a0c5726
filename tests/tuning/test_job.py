"""A sweep on a real Ray: its trials, what it leaves, how it goes on."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from heard import heard
from PIL import Image
from ray_processes import find_processes

from catdog.command_line.arguments import parse_arguments
from catdog.command_line.settings import build_config
from catdog.config import TrainConfig, TuneConfig
from catdog.errors import UsageError
from catdog.model.saved_model import read_card
from catdog.tuning import job as tuning

SAID: list[str] = []
SMALL = {
    "train_per_class": 8, "validation_per_class": 4, "test_per_class": 4, "views": 1,
    "frozen.head": "epochs", "frozen.epochs": 3, "frozen.global_batch_size": 4,
    "unfrozen.epochs": 3, "unfrozen.global_batch_size": 4,
}  # fmt: skip


def sweep(photos: Path, run_dir: Path, **settings: Any) -> dict[str, Any]:
    SAID.clear()
    values = {"photos": str(photos), "run_dir": str(run_dir), **SMALL, **settings}
    return heard(SAID, tuning.tune, build_config(TuneConfig, values))


def records(run_dir: Path) -> dict[int, dict[str, Any]]:
    return {int(path.parent.name): json.loads(path.read_text()) for path in (run_dir / "trials").glob("*/trial.json")}


@pytest.fixture(scope="module")
def finished(photo_folder: Path, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of six trials."""
    run_dir = tmp_path_factory.mktemp("sweep")
    sweep(photo_folder, run_dir, trials=6)
    return run_dir


def test_a_sweep_leaves_what_the_readme_says(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        "best.json", "config.json", "features", "manifest", "model", "report.html", "sweep.png",
        "trials", "trials.csv", "trials.parquet",
    ]  # fmt: skip
    rows = pq.read_table(finished / "trials.parquet").to_pylist()
    assert [row["trial"] for row in rows] == list(range(6))
    assert next(csv.DictReader((finished / "trials.csv").open())).keys() == rows[0].keys()
    assert {row["status"] for row in rows} <= {"finished", "stopped"}
    assert all(3 <= row["epochs"] <= 6 and 0 <= row["val_accuracy"] <= 1 and row["seconds"] > 0 for row in rows)
    assert not any("test" in column for column in rows[0])  # nobody is to choose by it
    with Image.open(finished / "sweep.png") as picture:
        assert picture.size == (1200, 540)


def test_the_best_trial_is_chosen_on_validation_and_can_be_used_and_trained_again(finished: Path) -> None:
    best = json.loads((finished / "best.json").read_text())
    ended = [record for record in records(finished).values() if record["status"] == "finished"]
    chosen = max(ended, key=lambda one: (one["validation"]["accuracy"], -one["validation"]["loss"]))
    assert best["values"] == chosen["values"]
    assert set(best["test"]) == {"accuracy", "balanced_accuracy", "loss"}
    card = read_card(str(finished / "model"))
    assert (card["dropout"], card["stage"]["name"]) == (best["values"]["dropout"], best["stage"])
    words = shlex.split(best["command"])
    assert words[:2] == ["python", "jobs/train.py"]
    config = parse_arguments(TrainConfig, words[2:], description="train")
    assert (config.dropout, config.frozen.learning_rate, config.run_dir) == (
        best["values"]["dropout"], best["values"]["frozen.learning_rate"], f"{finished}/best",
    )  # fmt: skip
    kept = [path.parent.name for path in (finished / "trials").glob("*/model")]
    assert kept == [f"{best['number']:05d}"]


def test_a_longer_sweep_keeps_the_trials_it_has_and_a_finished_one_runs_none(
    finished: Path, photo_folder: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "trials").glob("*/trial.json")}
    features = {path: path.stat().st_mtime_ns for path in (finished / "features").rglob("*.parquet")}
    sweep(photo_folder, finished, trials=7)
    assert "Resuming: 6 of 7 trials were finished before." in SAID
    assert set(records(finished)) == set(range(7))
    sweep(photo_folder, finished, trials=7)
    assert not any(line.startswith(("Resuming", "7/7")) for line in SAID)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {path: path.stat().st_mtime_ns for path in (finished / "features").rglob("*.parquet")} == features
    with pytest.raises(UsageError, match="space was"):
        sweep(photo_folder, finished, trials=7, space=("dropout=uniform:0,0.4",))


def test_trials_run_in_processes_that_are_used_again(finished: Path) -> None:
    assert len({record["process"] for record in records(finished).values()}) <= 3  # two at once, and one more sweep


def test_features_of_a_train_job_are_not_computed_again(finished: Path, photo_folder: Path, tmp_path: Path) -> None:
    sweep(
        photo_folder, tmp_path / "other", trials=2, features=str(finished / "features"), scheduler="none",
        space=("unfrozen.epochs=grid:1,2",),
    )  # fmt: skip
    assert not (tmp_path / "other/features").exists()
    assert not any(line.startswith("Trunk pass") for line in SAID)
    assert {record["epochs"] for record in records(tmp_path / "other").values()} == {4, 5}


def test_optuna_s_search_runs_and_goes_on_from_what_it_learnt(
    finished: Path, photo_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    settings = {"features": str(finished / "features"), "search": "optuna", "unfrozen.epochs": 0}
    space = ("dropout=uniform:0,0.5", "frozen.learning_rate=loguniform:1e-4,1e-1", "frozen.optimizer=choice:adam,sgd")
    sweep(photo_folder, tmp_path, trials=3, space=space, **settings)
    first = records(tmp_path)
    sweep(photo_folder, tmp_path, trials=5, space=space, **settings)
    found = records(tmp_path)
    assert set(found) == set(range(5))
    assert {number: found[number] for number in first} == first
    assert len({record["values"]["dropout"] for record in found.values()}) == 5
    assert all(0 <= record["values"]["dropout"] <= 0.5 for record in found.values())


def test_a_distributed_trial_is_a_trainer_of_its_own(finished: Path, photo_folder: Path, tmp_path: Path) -> None:
    sweep(
        photo_folder, tmp_path, trials=1, features=str(finished / "features"), **{"cluster.workers": 2},
    )  # fmt: skip
    (record,) = records(tmp_path).values()
    assert (record["status"], record["epochs"]) == ("finished", 6)
    assert sorted(path.name for path in (tmp_path / "trials/00000").iterdir()) == ["model", "trial.json"]
    assert read_card(str(tmp_path / "model"))["dropout"] == record["values"]["dropout"]


def test_a_trial_whose_process_is_killed_runs_again(finished: Path, photo_folder: Path, tmp_path: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    before = find_processes("ray::ImplicitFunc", address=address)  # of a sweep that has just ended
    killed, ended = threading.Event(), threading.Event()

    def kill() -> None:
        while not (killed.is_set() or ended.wait(0.1)):
            for process in find_processes("ray::ImplicitFunc.train", address=address):  # Ray's name of a trial at work
                if process not in before and not killed.is_set():
                    process.kill()
                    killed.set()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    sweep(photo_folder, tmp_path, trials=3, features=str(finished / "features"), scheduler="none")
    ended.set()
    thread.join(10)
    assert killed.is_set()
    (line,) = (line for line in SAID if " was lost and runs again: " in line)
    assert re.fullmatch(r"Trial \d was lost and runs again: The actor died .*", line), line
    assert {record["status"] for record in records(tmp_path).values()} == {"finished"}
    assert set(records(tmp_path)) == {0, 1, 2}


def test_a_sweep_whose_driver_is_killed_goes_on(finished: Path, photo_folder: Path, tmp_path: Path) -> None:
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]
    command = [
        sys.executable, "jobs/tune.py", "--photos", str(photo_folder), "--run-dir", str(tmp_path), "--trials", "6",
        "--features", str(finished / "features"), *flags,
    ]  # fmt: skip
    import ray

    # The Ray of the other tests: a driver's death leaves it standing, and its start is another test's.
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    while process.poll() is None and len(records(tmp_path)) < 2:
        time.sleep(0.1)
    process.kill()
    process.wait()
    before = records(tmp_path)
    assert 2 <= len(before) < 6
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
    assert "trials were finished before." in ended.stdout
    after = records(tmp_path)
    assert set(after) == set(range(6))
    assert {number: after[number] for number in before} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trials", "0"], "--trials: expected a number from 1"),
        (["--space.droput", "uniform:0,1"], "did you mean --space.dropout?"),
        (["--space.dropout", "normal:0,1"], "--space.dropout: expected uniform:LOW,HIGH"),
        (["--space.augmentation.zoom-fraction", "uniform:0,0.5"], "each value needs a trunk pass of its own"),
    ],
)
def test_a_user_s_mistake_is_one_line_and_exit_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    command = [sys.executable, str(Path("jobs/tune.py").absolute()), "--photos", "nowhere", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_train_job_s_folder_is_not_a_sweep_s(photo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(UsageError, match="is a train job's: give another --run-dir, and --features"):
        sweep(photo_folder, tmp_path, trials=2)
    shutil.rmtree(tmp_path)
