import os
import subprocess
import sys
from pathlib import Path

import pytest
from heard import heard

from catdog.errors import UsageError
from catdog.report.tracking import TrackedRun, require_tracker, run_curves, track_runs
from catdog.training.fit.checkpoint import HISTORY_COLUMNS

ROWS = [
    dict(zip(HISTORY_COLUMNS, (epoch, 4, 0.1, 1e-3, 1 / epoch, 0.5, 2 / epoch, 0.25 * epoch), strict=True))
    for epoch in (1, 2)
]


def made(folder: Path, *, name: str = "pets") -> TrackedRun:
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text("{}")
    (folder / "model" / "card.json").write_text("{}")
    files = [str(folder / part) for part in ("report.json", "model/card.json", "gone.html")]
    return TrackedRun(
        name=name,
        settings={"frozen.epochs": 2, "dropout": 0.2, "photos": "=x" * 400, "flip": True},
        curves=run_curves([ROWS, ROWS[:1]]),
        scores={"frozen_test_accuracy": 0.75},
        files=files,
    )


def test_curves_go_on_from_stage_to_stage() -> None:
    curves = run_curves([ROWS, ROWS[:1]])
    assert [row["val_accuracy"] for row in curves] == [0.25, 0.5, 0.25]
    assert curves[1] == {"loss": 0.5, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5, "learning_rate": 1e-3}


def test_nothing_is_tracked_unless_it_is_asked_for(tmp_path: Path) -> None:
    lines: list[str] = []
    require_tracker("none", run_dir=str(tmp_path))
    heard(lines, track_runs, "none", [made(tmp_path / "run")], run_dir=str(tmp_path))
    assert lines == []
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_tensorboard_s_event_files_hold_the_curves(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    import tensorflow as tf

    lines: list[str] = []
    run_dir = tmp_path / "run"
    heard(lines, track_runs, "tensorboard", [made(run_dir)], run_dir=str(run_dir))
    assert lines == [f"Tracked: {run_dir}/tensorboard (tensorboard --logdir shows it)"]

    def scalars(part: str) -> dict[str, list[tuple[int, float]]]:
        found: dict[str, list[tuple[int, float]]] = {}
        (events,) = (run_dir / "tensorboard" / part).glob("events.*")
        for event in tf.compat.v1.train.summary_iterator(str(events)):
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
        return found

    assert scalars("train")["loss"] == [(1, 1.0), (2, 0.5), (3, 1.0)]
    assert scalars("validation") == {
        "loss": [(1, 2.0), (2, 1.0), (3, 2.0)], "accuracy": [(1, 0.25), (2, 0.5), (3, 0.25)],
    }  # fmt: skip
    assert scalars("settings")["frozen_test_accuracy"] == [(3, 0.75)]
    heard(lines, track_runs, "tensorboard", [made(run_dir), made(run_dir, name="other")], run_dir=str(run_dir))
    assert sorted(path.name for path in (run_dir / "tensorboard").iterdir()) == ["other", "pets"]


def test_mlflow_has_settings_curves_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lines: list[str] = []
    run_dir = tmp_path / "run"
    heard(lines, track_runs, "mlflow", [made(run_dir)], run_dir=str(run_dir))
    assert lines == [f"Tracked: sqlite:///{run_dir}/mlflow.db (experiment catdog)"]
    client = MlflowClient(tracking_uri=f"sqlite:///{run_dir}/mlflow.db")
    experiment = client.get_experiment_by_name("catdog")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "pets"
    assert run.info.status == "FINISHED"
    assert run.data.params["frozen.epochs"] == "2"
    assert len(run.data.params["photos"]) == 500
    assert run.data.metrics["frozen_test_accuracy"] == 0.75
    assert [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "val_accuracy")] == [
        (1, 0.25), (2, 0.5), (3, 0.25),
    ]  # fmt: skip
    assert {path.name for path in (run_dir / "mlruns").rglob("*.json")} == {"report.json", "card.json"}


def test_a_tracker_that_fails_costs_the_run_a_line(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    lines: list[str] = []
    (tmp_path / "run").write_text("a file where a folder should be")
    run = made(tmp_path / "made")
    heard(lines, track_runs, "tensorboard", [run], run_dir=str(tmp_path / "run"))
    assert len(lines) == 1
    assert lines[0].startswith("Warning: the run could not be written to tensorboard: ")


def test_mlflow_needs_a_server_for_a_run_directory_that_is_a_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UsageError, match="MLFLOW_TRACKING_URI"):
        require_tracker("mlflow", run_dir="s3://bucket/run")


def test_a_missing_package_ends_the_command_before_any_work(photo_folder: Path, tmp_path: Path) -> None:
    # This find_spec never finds mlflow, whether it is installed or not.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'mlflow' else find(name, *rest)\n"
    )
    places = [str(tmp_path), str(Path.cwd()), os.environ.get("PYTHONPATH", "")]
    job = subprocess.run(
        [sys.executable, "jobs/train.py", "--photos", photo_folder, "--run-dir", tmp_path / "run", "--track", "mlflow"],
        capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
    )  # fmt: skip
    assert job.returncode == 2, job.stderr
    assert job.stderr == (
        "catdog: --track mlflow: expected the package mlflow, found none: pip install 'catdog-ray[mlflow]'\n"
    )
    assert not (tmp_path / "run").exists()
