"""A sweep on a real Ray: its trials, the files it leaves, and how it resumes."""

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

import psutil
import pyarrow.parquet as pq
import pytest
from heard import heard
from PIL import Image
from ray_processes import find_processes

from catdog.command_line.arguments import as_flags, parse_arguments
from catdog.command_line.settings import build_config
from catdog.config import TrainConfig, TuneConfig
from catdog.errors import UsageError
from catdog.model.saved_model import read_card
from catdog.photos.manifest import read_manifest
from catdog.tuning import job as tuning
from catdog.tuning.selection import objective

SAID: list[str] = []
SMALL = {"train_per_class": 4, "validation_per_class": 3, "test_per_class": 2, "views": 1, "image_size": 64}
# All heads are solved, so no process needs TensorFlow until the winner is measured.
HEADS = {**SMALL, "unfrozen.epochs": 0, "folds": 2}
BOTH = {
    **SMALL, "frozen.head": "epochs", "frozen.epochs": 2, "frozen.global_batch_size": 4,
    "unfrozen.epochs": 2, "unfrozen.global_batch_size": 4,
}  # fmt: skip


def sweep(photos: Path, run_dir: Path, **settings: Any) -> dict[str, Any]:
    SAID.clear()
    values = {"photos": str(photos), "run_dir": str(run_dir), **settings}
    return heard(SAID, tuning.tune, build_config(TuneConfig, values))


def records(run_dir: Path) -> dict[int, dict[str, Any]]:
    return {int(path.parent.name): json.loads(path.read_text()) for path in (run_dir / "trials").glob("*/trial.json")}


def counts(run_dir: Path) -> dict[str, int]:
    """Return the number of photos of each split."""
    found = read_manifest(str(run_dir / "manifest")).counts()
    return {split: sum(of_class.values()) for split, of_class in found.items()}


def times(paths: Any) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in paths}


@pytest.fixture(scope="module")
def finished(photo_folder: Path, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a sweep of five trials with both stages, and return its directory."""
    run_dir = tmp_path_factory.mktemp("sweep")
    sweep(photo_folder, run_dir, trials=5, **BOTH)
    return run_dir


@pytest.fixture(scope="module")
def heads(photo_folder: Path, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Run a sweep of five trials over folds and over kinds of pooling; return its directory and console lines."""
    run_dir = tmp_path_factory.mktemp("heads")
    sweep(photo_folder, run_dir, trials=5, **HEADS, space=("pooling=grid:avg,max", "frozen.c=choice:0.01,0.1"))
    return run_dir, list(SAID)


@pytest.fixture
def start(heads: tuple[Path, list[str]], tmp_path: Path) -> Path:
    """Return a run directory with the manifest of `heads`, so that the photos need not be checked again."""
    for name in ("manifest", ".catdog.json"):
        copy = shutil.copytree if (heads[0] / name).is_dir() else shutil.copy
        copy(heads[0] / name, tmp_path / name)
    return tmp_path


def test_a_sweep_leaves_what_the_readme_says(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir() if not path.name.startswith(".")) == [
        "best.json", "config.json", "features", "manifest", "model", "report.html", "sweep.png",
        "trials", "trials.csv", "trials.parquet",
    ]  # fmt: skip
    rows = pq.read_table(finished / "trials.parquet").to_pylist()
    assert [row["trial"] for row in rows] == list(range(5))
    assert next(csv.DictReader((finished / "trials.csv").open())).keys() == rows[0].keys()
    assert {row["status"] for row in rows} <= {"finished", "stopped"}
    assert all(0 <= row["val_accuracy"] <= 1 and row["seconds"] > 0 for row in rows)
    assert not any("test" in column for column in rows[0])  # nobody should choose by test scores
    with Image.open(finished / "sweep.png") as picture:
        assert picture.size == (1200, 540)


def test_the_default_settings_are_trial_0_and_run_to_the_end(finished: Path) -> None:
    found, defaults = records(finished)[0], build_config(TrainConfig, BOTH)
    assert found["values"] == {
        "frozen.learning_rate": defaults.frozen.learning_rate,
        "unfrozen.learning_rate": defaults.unfrozen.learning_rate,
        "dropout": defaults.dropout,
    }
    assert (found["status"], found["epochs"], list(found["stages"])) == ("finished", 4, ["frozen", "unfrozen"])


def test_the_best_quarter_and_the_defaults_go_on_and_the_others_stop_after_the_frozen_stage(finished: Path) -> None:
    found = records(finished)
    further = {number for number, record in found.items() if record["reached"] == "unfrozen"}
    losses = {number: record["stages"]["frozen"]["loss"] for number, record in found.items()}
    assert further == {0, *sorted(losses, key=lambda number: (losses[number], number))[:2]}
    assert {found[number]["status"] for number in found.keys() - further} == {"stopped"}


def test_the_winner_is_the_best_of_the_table_however_it_ended(finished: Path) -> None:
    best, found = json.loads((finished / "best.json").read_text()), records(finished)
    losses = {number: record["validation"]["loss"] for number, record in found.items()}
    assert best["number"] == min(losses, key=lambda number: (losses[number], number))
    (first,) = (row for row in pq.read_table(finished / "trials.parquet").to_pylist() if row["rank"] == 1)
    assert first["trial"] == best["number"]
    # The model that is measured at the end is the one that was rated during training.
    assert best["validation"]["loss"] == pytest.approx(losses[best["number"]], rel=1e-3)
    assert best["test"].keys() >= {"accuracy", "loss"}
    if best["number"]:
        assert best["default"].keys() >= {"validation", "test"}
        assert best["gain"]["loss"] == pytest.approx(losses[0] - losses[best["number"]], abs=1e-3)


def test_the_winner_can_be_used_and_trained_again(finished: Path) -> None:
    best = json.loads((finished / "best.json").read_text())
    card = read_card(str(finished / "model"))
    assert (card["dropout"], card["stage"]["name"]) == (best["values"]["dropout"], best["stage"])
    assert card["stage"]["validation"] == best["validation"]
    words = shlex.split(best["command"])
    assert words[:2] == ["python", "jobs/train.py"]
    config = parse_arguments(TrainConfig, words[2:], description="train")
    assert (config.dropout, config.frozen.learning_rate, config.run_dir) == (
        best["values"]["dropout"], best["values"]["frozen.learning_rate"], f"{finished}/best",
    )  # fmt: skip
    kept = {path.parent.name for path in (finished / "trials").glob("*/*.npz")}
    assert kept == {"00000", f"{best['number']:05d}"}  # no other checkpoints remain


def test_trials_over_folds_are_ranked_by_their_mean_and_say_its_error(heads: tuple[Path, list[str]]) -> None:
    run_dir, said = heads
    found, best = records(run_dir), json.loads((run_dir / "best.json").read_text())
    assert all(len(record["folds"]["scores"]) == 2 for record in found.values())
    values = {number: objective(record["folds"], "val_loss") for number, record in found.items()}
    assert best["number"] == min(values, key=lambda number: (values[number], number))
    assert values[best["number"]] <= values[0]
    photos = counts(run_dir)
    assert best["photos"] == photos["train"] + photos["validation"]  # each was held out once
    row = next(csv.DictReader((run_dir / "trials.csv").open()))
    assert {"fold_loss_mean", "fold_loss_error", "fold_accuracy_mean", "fold_accuracy_error"} <= row.keys()
    assert best["number"] == 0 or any("is within noise" in line or "larger than the noise" in line for line in said)


def test_structure_is_swept_with_one_trunk_pass_for_each_combination(heads: tuple[Path, list[str]]) -> None:
    run_dir, said = heads
    photos = counts(run_dir)
    # Training photos have two views, validation and test photos one, all of them for two kinds of pooling.
    images = 2 * (2 * photos["train"] + photos["validation"] + photos["test"])
    assert f"2 trunk passes, one for each combination of settings: {images} images in total." in said
    found = records(run_dir)
    assert [found[number]["values"]["pooling"] for number in range(5)] == ["avg", "avg", "max", "avg", "max"]
    assert found[1]["folds"] != found[2]["folds"]


def test_trials_run_in_processes_that_are_used_again(heads: tuple[Path, list[str]]) -> None:
    assert len({record["process"] for record in records(heads[0]).values()}) <= 2  # two run at the same time


def test_a_time_budget_ends_the_sweep_with_the_best_so_far_and_the_next_command_goes_on(
    heads: tuple[Path, list[str]], photo_folder: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from catdog.tuning.trials.run import TrialRunner

    settings = {**HEADS, "features": str(heads[0] / "features")}
    # The test does not depend on a clock: the time is up once three trials have ended.
    monkeypatch.setattr(TrialRunner, "_is_late", lambda self: len(self._records) >= 3)
    sweep(photo_folder, start, trials=200, time_budget="1h", **settings)
    assert not any(line.startswith("Trunk pass") for line in SAID)  # the features of another run are reused
    before = times((start / "trials").glob("*/trial.json"))
    assert 3 <= len(before) < 200
    assert json.loads((start / "best.json").read_text())["number"] in records(start)
    monkeypatch.undo()
    sweep(photo_folder, start, trials=len(before) + 1, **settings)
    assert f"Resuming: {len(before)} of {len(before) + 1} trials were finished before." in SAID
    assert set(records(start)) == set(range(len(before) + 1))
    assert times(before) == before
    with pytest.raises(UsageError, match="space was"):
        sweep(photo_folder, start, trials=7, **settings, space=("frozen.c=uniform:0.01,0.4",))


@pytest.mark.parametrize("search", ["optuna", "hyperopt"])
def test_a_search_that_learns_runs_and_goes_on(
    search: str, heads: tuple[Path, list[str]], photo_folder: Path, start: Path
) -> None:
    pytest.importorskip(search)
    settings = {**HEADS, "features": str(heads[0] / "features"), "search": search}
    space = ("frozen.c=loguniform:1e-4,1", "class_weights=choice:none,balanced")
    sweep(photo_folder, start, trials=3, space=space, **settings)
    first = records(start)
    assert first[0]["values"] == {"frozen.c": 0.0, "class_weights": "auto"}  # the defaults are outside the space
    if search == "optuna":
        sweep(photo_folder, start, trials=4, space=space, **settings)
    found = records(start)
    assert set(found) == set(range(4 if search == "optuna" else 3))
    assert {number: found[number] for number in first} == first
    assert len({record["values"]["frozen.c"] for record in found.values()}) == len(found)
    assert all(1e-4 <= found[number]["values"]["frozen.c"] <= 1 for number in found.keys() - {0})


def test_a_distributed_trial_is_a_trainer_of_its_own_and_ends_as_one_of_a_single_process(
    finished: Path, photo_folder: Path, tmp_path: Path
) -> None:
    sweep(
        photo_folder, tmp_path, trials=1, features=str(finished / "features"), **BOTH, **{"cluster.workers": 2},
    )  # fmt: skip
    (record,) = records(tmp_path).values()
    assert (record["status"], record["epochs"]) == ("finished", 4)
    alone = records(finished)[0]
    assert record["values"] == alone["values"]
    # The batches differ, with the same global size, so the losses are close but not equal.
    for stage, wanted in alone["stages"].items():
        assert record["stages"][stage]["loss"] == pytest.approx(wanted["loss"], abs=0.2)
    assert sorted(path.name for path in (tmp_path / "trials/00000").iterdir()) == ["model", "trial.json"]
    assert read_card(str(tmp_path / "model"))["dropout"] == record["values"]["dropout"]


def test_a_trial_whose_process_is_killed_runs_again(
    heads: tuple[Path, list[str]], photo_folder: Path, start: Path
) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    before = find_processes("ray::ImplicitFunc", address=address)  # the processes of a sweep that has just ended
    killed, ended = threading.Event(), threading.Event()

    def kill() -> None:
        while not (killed.is_set() or ended.wait(0.05)):
            for process in find_processes("ray::ImplicitFunc.train", address=address):  # Ray's name for a running trial
                if process not in before and not killed.is_set():
                    process.kill()
                    killed.set()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    sweep(photo_folder, start, trials=12, features=str(heads[0] / "features"), **HEADS)
    ended.set()
    thread.join(10)
    assert killed.is_set()
    (line,) = (line for line in SAID if " was lost and runs again: " in line)
    assert re.fullmatch(r"Trial \d+ was lost and runs again: The actor died .*", line), line
    assert {record["status"] for record in records(start).values()} == {"finished"}
    assert set(records(start)) == set(range(12))


def test_a_sweep_whose_driver_is_killed_goes_on(heads: tuple[Path, list[str]], photo_folder: Path, start: Path) -> None:
    import ray

    values = {"photos": str(photo_folder), "run_dir": str(start), "features": str(heads[0] / "features")}
    config = build_config(TuneConfig, {**values, **HEADS, "trials": 24})
    command = [sys.executable, "jobs/tune.py", *as_flags(config)]
    # Use the Ray of the other tests: it survives the death of a driver, and another test covers its start.
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    while process.poll() is None and len(list((start / "trials").glob("*/trial.json"))) < 2:
        time.sleep(0.02)
    job = psutil.Process(process.pid).children()  # the child process that runs the job; it dies with its parent
    process.kill()
    psutil.wait_procs(job, 600)
    process.wait()
    before = records(start)
    assert before
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
    assert f"Resuming: {len(before)} of 24 trials were finished before." in ended.stdout
    after = records(start)
    assert set(after) == set(range(24))
    assert {number: after[number] for number in before} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trials", "0"], "--trials: expected a number from 1"),
        (["--space.droput", "uniform:0,1"], "did you mean --space.dropout?"),
        (["--space.dropout", "normal:0,1"], "--space.dropout: expected one of uniform:LOW,HIGH"),
        (["--space.augmentation.zoom-fraction", "uniform:0,0.5"], "each value needs its own trunk pass"),
        (["--space.dropout", "uniform:0,0.5", "--unfrozen.epochs", "0"], "--space.dropout: it would have no effect"),
        (
            ["--space.frozen.learning-rate", "loguniform:1e-3,1e-2"],
            "it would have no effect, because the head is solved",
        ),
        (["--space.unfrozen.patience", "randint:1,3", "--unfrozen.epochs", "0"], "there is no unfrozen stage"),
        (["--time-budget", "soon"], "--time-budget soon: expected a time such as 90s, 10m or 1h30m"),
        (["--folds", "5", "--unfrozen.epochs", "2"], "cross-validation rates the frozen stage alone"),
        (["--space", "nowhere.yaml"], "--space nowhere.yaml: expected a YAML file of settings and domains"),
    ],
)
def test_a_user_s_mistake_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    def run() -> None:
        tuning.tune(parse_arguments(TuneConfig, ["--photos", "nowhere", *arguments], description="tune"))

    with pytest.raises(UsageError) as raised:
        run()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_search_that_is_not_installed_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning.importlib.util, "find_spec", lambda name: None)
    for search in ("optuna", "hyperopt"):
        with pytest.raises(UsageError, match=rf"expected the package {search}, found none: pip install 'catdog-ray\["):
            tuning.read_config(build_config(TuneConfig, {"search": search}))


def test_a_time_is_read_as_people_write_it() -> None:
    assert [tuning.read_duration(text) for text in ("", "90s", "10m", "1h30m", "0.5h")] == [0, 90, 600, 5400, 1800]


def test_a_train_job_s_folder_is_not_a_sweep_s(photo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / ".catdog.json").write_text('{"kind": "run"}')
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(UsageError, match="belongs to a train job: give another --run-dir, and --features"):
        sweep(photo_folder, tmp_path, trials=2)
