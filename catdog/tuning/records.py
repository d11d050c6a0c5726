"""What a sweep keeps of each trial: trials/NNNNN/trial.json, and the tables and console lines made of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pyarrow import fs

from catdog.console import duration, table_text
from catdog.report.tracking import TrackedRun, run_curves
from catdog.storage import files
from catdog.training.fit.checkpoint import read_history
from catdog.tuning.space import Space

RECORD_FILE = "trial.json"

Record = Mapping[str, Any]


def trial_directory(run_dir: str, number: int) -> str:
    """Return the folder of trial `number`: its record, and its model while that is the best one."""
    return files.join(run_dir, "trials", f"{number:05d}")


def record_path(run_dir: str, number: int) -> str:
    """Return where the record of trial `number` is written when the trial ends."""
    return files.join(trial_directory(run_dir, number), RECORD_FILE)


def write_record(record: Record, run_dir: str, *, seconds: float) -> None:
    """Write the record of a trial that took `seconds` and has ended now."""
    ending = {"seconds": round(seconds, 3), "ended": round(time.time(), 3)}
    files.write_json(record_path(run_dir, record["number"]), {**record, **ending})


def read_records(run_dir: str) -> dict[int, dict[str, Any]]:
    """Return the record of each trial that has ended, by its number."""
    base = files.join(run_dir, "trials")
    system, inside = files.open_filesystem(base)
    found = system.get_file_info(fs.FileSelector(inside, recursive=True, allow_not_found=True))
    names = [entry.path.split("/")[-2] for entry in found if entry.base_name == RECORD_FILE]
    records = [files.read_json(files.join(base, name, RECORD_FILE)) for name in names]
    return {int(record["number"]): record for record in sorted(records, key=lambda record: record["number"])}


def best_record(records: Mapping[int, Record]) -> Record | None:
    """Return the finished trial of the highest validation accuracy, on a tie that of the lowest loss."""
    finished = [record for record in records.values() if record["status"] == "finished"]
    if not finished:
        return None
    return max(finished, key=lambda one: (one["validation"]["accuracy"], -one["validation"]["loss"], -one["number"]))


def record_text(record: Record) -> str:
    """Return one trial in a line: its result and its values."""
    values = ", ".join(f"{key} {value}" for key, value in record["values"].items())
    scores = record.get("validation")
    found = f"val acc {scores['accuracy']:.4f}, val loss {scores['loss']:.4f}" if scores else record.get("reason", "")
    state = "" if record["status"] == "finished" else f"{record['status']}, "
    after = f" after {record['epochs']} epochs" if record.get("epochs") else ""
    return f"trial {record['number']} {state}{found}{after} in {duration(record['seconds'])} ({values})"


def records_text(records: Mapping[int, Record], space: Space, *, limit: int = 10) -> str:
    """Return the best trials as a table for the console, the best first."""
    rated = [record for record in records.values() if "validation" in record]
    rated.sort(key=lambda one: (-one["validation"]["accuracy"], one["validation"]["loss"]))
    rows = [("trial", "status", "epochs", "val acc", "val loss", "time", *space)]
    for one in rated[:limit]:
        scores = [f"{one['validation'][name]:.4f}" for name in ("accuracy", "loss")]
        values = [str(one["values"][key]) for key in space]
        rows.append((str(one["number"]), one["status"], str(one["epochs"]), *scores, duration(one["seconds"]), *values))
    return table_text(rows)


def write_tables(records: Mapping[int, Record], space: Space, *, run_dir: str) -> None:
    """Write trials.csv and trials.parquet: a row for each trial, with scores on validation, never on test."""
    rows = [
        {
            "trial": number,
            **{key: record["values"].get(key) for key in space},
            "status": record["status"],
            "stage": record.get("stage"),
            "epochs": record.get("epochs", 0),
            "val_accuracy": record.get("validation", {}).get("accuracy"),
            "val_loss": record.get("validation", {}).get("loss"),
            "seconds": record["seconds"],
            "reason": record.get("reason"),
        }
        for number, record in sorted(records.items())
    ]
    table = pa.Table.from_pylist(rows)
    for name, write in (("trials.parquet", pq.write_table), ("trials.csv", pa.csv.write_csv)):
        sink = pa.BufferOutputStream()
        write(table, sink)
        files.write_bytes(files.join(run_dir, name), bytes(sink.getvalue()))


def tracked_run(record: Record, *, run_dir: str) -> TrackedRun:
    """Return a trial as a run of its own for a tracker; its scores are on validation, as in trials.csv."""
    directory = trial_directory(run_dir, record["number"])
    return TrackedRun(
        name=f"trial-{record['number']:04d}",
        settings={**record["values"], "status": record["status"]},
        curves=run_curves([read_history(files.join(directory, stage)) for stage in ("frozen", "unfrozen")]),
        scores={f"validation_{score}": value for score, value in record.get("validation", {}).items()},
        files=[record_path(run_dir, record["number"])],
    )
