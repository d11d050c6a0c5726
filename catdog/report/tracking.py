"""Runs in TensorBoard or MLflow: settings, curves by epoch, scores and files, written when a job has ended.

TensorBoard: event files in RUN_DIR/tensorboard (`tensorboard --logdir RUN_DIR/tensorboard`). MLflow: the server at
MLFLOW_TRACKING_URI, or without one RUN_DIR/mlflow.db with the files in RUN_DIR/mlruns
(`mlflow ui --backend-store-uri sqlite:///RUN_DIR/mlflow.db`).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from catdog.console import say
from catdog.errors import UsageError, one_line
from catdog.storage import files

_PACKAGES = {"tensorboard": ("tensorboardX",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
_EXPERIMENT = "catdog"
_LONGEST_PARAMETER = 500  # characters; a limit of MLflow's servers
_METRICS_PER_CALL = 1000  # a limit of MLflow's servers


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """One run of a train job, or one trial of a sweep.

    `curves` has a row of numbers per epoch, with the stages one after the other. `files` are paths or URIs.
    """

    name: str
    settings: Mapping[str, Any]
    curves: Sequence[Mapping[str, float]]
    scores: Mapping[str, float]
    files: Sequence[str] = ()


def require_tracker(kind: str, *, run_dir: str) -> None:
    """Raise UsageError, before any work is done, if the tool that `--track` names cannot be used here."""
    for package in _PACKAGES.get(kind, ()):
        if importlib.util.find_spec(package) is None:
            raise UsageError(
                f"--track {kind}: expected the package {package}, found none: pip install 'catdog-ray[{kind}]'"
            )
    if kind == "mlflow" and files.is_uri(run_dir) and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise UsageError("--track mlflow: expected a server in MLFLOW_TRACKING_URI, because --run-dir is a URI")


def track_runs(kind: str, runs: Sequence[TrackedRun], *, run_dir: str) -> None:
    """Write `runs` to the tool `kind` (none, tensorboard, mlflow) and print where; a failure prints one line."""
    if kind == "none":
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from the trackers, which use deprecated names of other libraries
            where = {"tensorboard": _to_tensorboard, "mlflow": _to_mlflow}[kind](runs, run_dir)
    except Exception as error:  # trackers raise many types, and the run itself is finished
        say(f"Warning: the run could not be written to {kind}: {one_line(error)}")
        return
    say(f"Tracked: {where}")


def run_curves(histories: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[str, float]]:
    """Return the rows of history.csv of all stages, in order, as the curves of one run."""
    return [
        {
            "loss": row["loss"],
            "accuracy": row["acc"],
            "val_loss": row["val_loss"],
            "val_accuracy": row["val_acc"],
            "learning_rate": row["learning_rate"],
        }
        for history in histories
        for row in history
    ]


def _to_tensorboard(runs: Sequence[TrackedRun], run_dir: str) -> str:
    from tensorboardX import SummaryWriter
    from tensorboardX.summary import hparams

    directory = files.join(run_dir, "tensorboard")
    with files.staged_directory(directory) as folder:
        for run in runs:
            below = folder / run.name if len(runs) > 1 else folder
            # Two runs with the same score names, so that TensorBoard draws training and validation in one plot.
            for part, prefix in (("train", ""), ("validation", "val_")):
                with SummaryWriter(str(below / part)) as writer:
                    for epoch, row in enumerate(run.curves, start=1):
                        for name in ("loss", "accuracy"):
                            writer.add_scalar(name, row[prefix + name], epoch)
                        if part == "train":
                            writer.add_scalar("learning_rate", row["learning_rate"], epoch)
            with SummaryWriter(str(below / "settings")) as writer:
                settings = {key: _plain(value) for key, value in run.settings.items()}
                for summary in hparams(settings, dict(run.scores)):
                    writer.file_writer.add_summary(summary)
                for name, value in run.scores.items():
                    writer.add_scalar(name, value, len(run.curves))
    return f"{directory} (tensorboard --logdir shows it)"


def _to_mlflow(runs: Sequence[TrackedRun], run_dir: str) -> str:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # send nothing except to the user's own server
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    own = os.environ.get("MLFLOW_TRACKING_URI")
    uri = own or f"sqlite:///{run_dir}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
    found = client.get_experiment_by_name(name)
    place = None if own else files.join(run_dir, "mlruns")
    experiment = found.experiment_id if found else client.create_experiment(name, artifact_location=place)
    for run in runs:
        number = client.create_run(experiment, run_name=run.name).info.run_id
        now = int(time.time() * 1000)
        parameters = [Param(key, str(value)[:_LONGEST_PARAMETER]) for key, value in run.settings.items()]
        for start in range(0, len(parameters), 100):
            client.log_batch(number, params=parameters[start : start + 100])
        metrics = [
            Metric(key, value, now, epoch)
            for epoch, row in enumerate(run.curves, start=1)
            for key, value in row.items()
        ]
        metrics += [Metric(key, value, now, len(run.curves)) for key, value in run.scores.items()]
        for start in range(0, len(metrics), _METRICS_PER_CALL):
            client.log_batch(number, metrics=metrics[start : start + _METRICS_PER_CALL])
        _log_files(client, number, run.files, run_dir)
        client.set_terminated(number)
    return f"{uri} (experiment {name})"


def _log_files(client: Any, number: str, paths: Sequence[str], run_dir: str) -> None:
    """Log copies of those files of `paths` that exist, in the same folders that they have below `run_dir`."""
    with tempfile.TemporaryDirectory(prefix="catdog-") as folder:
        for path in paths:
            if files.exists(path):
                inside = path.removeprefix(f"{run_dir.rstrip('/')}/")
                copy = Path(folder) / inside
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(files.read_bytes(path))
        client.log_artifacts(number, folder)


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else str(value)
