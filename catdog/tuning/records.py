"""The record of each trial, trials/NNNNN/trial.json, and the tables and console lines that are built from it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv
from pyarrow import fs

from catdog.console import duration, table_text
from catdog.report.tracking import TrackedRun, run_curves
from catdog.storage import files
from catdog.storage.tables import write_parquet
from catdog.tuning.selection import rank_records, record_scores
from catdog.tuning.space import Space

RECORD_FILE = "trial.json"

Record = Mapping[str, Any]


def trial_directory(run_dir: str, number: int) -> str:
    """Return the folder of trial `number`, which holds its record and, while it may be needed, its best model."""
    return files.join(run_dir, "trials", f"{number:05d}")


def record_path(run_dir: str, number: int) -> str:
    """Return where the record of trial `number` is written when the trial ends."""
    return files.join(trial_directory(run_dir, number), RECORD_FILE)


def checkpoint_path(run_dir: str, number: int, stage: str) -> str:
    """Return where the best weights of a stage of a trial are kept."""
    return files.join(trial_directory(run_dir, number), f"{stage}.npz")


def model_path(run_dir: str, number: int) -> str:
    """Return where the best model of a distributed trial is kept."""
    return files.join(trial_directory(run_dir, number), "model")


def write_record(record: Record, run_dir: str, *, seconds: float) -> dict[str, Any]:
    """Write and return the record of a trial that took `seconds` and has just ended."""
    whole = {**record, "seconds": round(seconds, 3), "ended": round(time.time(), 3)}
    files.write_json(record_path(run_dir, record["number"]), whole)
    return whole


def read_records(run_dir: str) -> dict[int, dict[str, Any]]:
    """Return the records of the trials that have ended, by trial number."""
    base = files.join(run_dir, "trials")
    system, inside = files.open_filesystem(base)
    found = system.get_file_info(fs.FileSelector(inside, recursive=True, allow_not_found=True))
    names = [entry.path.split("/")[-2] for entry in found if entry.base_name == RECORD_FILE]
    records = [files.read_json(files.join(base, name, RECORD_FILE)) for name in names]
    return {int(record["number"]): record for record in sorted(records, key=lambda record: record["number"])}


def effective_values(record: Record) -> dict[str, Any]:
    """Return a trial's values, with a `frozen.c` of 0 replaced by the penalty that cross-validation chose.

    The penalty is None if the trial ended before that choice.
    """
    values = dict(record["values"])
    if values.get("frozen.c") == 0:
        values["frozen.c"] = record.get("stages", {}).get("frozen", {}).get("c")
    return values


def stage_text(record: Record) -> str:
    """Return how a trial ended, with the stage if it was stopped: `finished`, `stopped after the frozen stage`."""
    if record["status"] != "stopped" or "reached" not in record:
        return str(record["status"])
    return f"stopped {'after' if record['reached'] == 'frozen' else 'in'} the {record['reached']} stage"


def record_text(record: Record, *, may_continue: bool = False) -> str:
    """Return one trial in a line: its result and its values.

    With `may_continue`, a stopped trial may still continue, so the line does not call it stopped.
    """
    values = ", ".join(f"{key} {value}" for key, value in effective_values(record).items() if value is not None)
    scores = record_scores(record)
    found = f"val loss {scores['loss']:.4f}, val acc {scores['accuracy']:.4f}" if scores else record.get("reason", "")
    if scores and record.get("folds"):
        found += f" over {len(record['folds']['scores'])} folds"
    is_plain = record["status"] == "finished" or (may_continue and record["status"] == "stopped")
    state = "" if is_plain else f"{stage_text(record)}, "
    after = f" after {record['epochs']} epochs" if record.get("epochs", 0) > 1 else ""
    return f"trial {record['number']} {state}{found}{after} in {duration(record['seconds'])} ({values})"


def records_text(records: Sequence[Record], space: Space) -> str:
    """Return `records`, which have the winner first, as a table for the console in the same order."""
    rows = [("trial", "ended", "epochs", "val loss", "val acc", "time", *space)]
    for one in records:
        found = record_scores(one) or {}
        scores = [f"{found[name]:.4f}" for name in ("loss", "accuracy")]
        of_trial = effective_values(one)
        values = ["-" if of_trial.get(key) is None else str(of_trial[key]) for key in space]
        number = "0 (defaults)" if one["number"] == 0 else str(one["number"])
        rows.append((number, stage_text(one), str(one["epochs"]), *scores, duration(one["seconds"]), *values))
    return table_text(rows)


def write_tables(records: Mapping[int, Record], space: Space, *, run_dir: str, metric: str) -> None:
    """Write trials.csv and trials.parquet: one row per trial, with scores on validation or folds, never on test."""
    ranks = {record["number"]: rank for rank, record in enumerate(rank_records(records, metric), start=1)}
    table = pa.Table.from_pylist(
        [{"trial": number, "rank": ranks.get(number), **_row(records[number], space)} for number in sorted(records)]
    )
    write_parquet(files.join(run_dir, "trials.parquet"), table)
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(table, sink)
    files.write_bytes(files.join(run_dir, "trials.csv"), sink.getvalue())


def _row(record: Record, space: Space) -> dict[str, Any]:
    validation, folds = record.get("validation") or {}, record.get("folds") or {}
    scores = {
        "val_accuracy": validation.get("accuracy"),
        "val_loss": validation.get("loss"),
        **{
            f"fold_{name}{suffix}": folds.get(f"{name}{key}")
            for name in ("accuracy", "loss")
            for suffix, key in (("_mean", ""), ("_error", "_error"))
        },
    }
    if not folds:
        scores = {name: score for name, score in scores.items() if not name.startswith("fold_")}
    return {
        **{key: record["values"].get(key) for key in space},
        "status": record["status"],
        "stage": record.get("stage"),
        "reached": record.get("reached"),
        "epochs": record.get("epochs", 0),
        **scores,
        "seconds": record["seconds"],
        "reason": record.get("reason"),
    }


def tracked_run(record: Record, *, run_dir: str) -> TrackedRun:
    """Return a trial as a separate run for a tracker. Its scores are on validation, as in trials.csv."""
    histories = [stage["history"] for stage in record.get("stages", {}).values() if "loss" in stage["history"][0]]
    return TrackedRun(
        name=f"trial-{record['number']:04d}",
        settings={**record["values"], "status": record["status"]},
        curves=run_curves(histories),
        scores={f"validation_{score}": value for score, value in (record.get("validation") or {}).items()},
        files=[record_path(run_dir, record["number"])],
    )
