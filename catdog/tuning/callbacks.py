"""What happens in the driver when a trial ends: its record, its line on the console, and whose model is kept.

Imported late: it needs Ray.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from catdog.cluster.failures import root_cause
from catdog.console import duration, say
from catdog.storage import files
from catdog.tuning.records import Record, best_record, record_path, record_text, trial_directory, write_record

MAX_FAILURES = 1  # of a trial's process; after more the trial counts as failed


class TrialFollower(Callback):  # type: ignore[misc]
    """Prints a line for each trial, and records the trials that ended without a record of their own."""

    def __init__(self, run_dir: str, *, trials: int, done: Mapping[int, Record]) -> None:
        self._run_dir, self._trials = run_dir, trials
        self._start = time.monotonic()
        self._before = len(done)
        self._records = dict(done)
        self._kept = _number(best_record(done))  # the trial whose model is kept

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record a trial that ran to its end, or that the scheduler stopped."""
        self._record_end(trial, {"status": "stopped"})

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Say that a trial lost its process and runs again."""
        say(f"Trial {int(str(trial))} was lost and runs again: {_failure_text(trial)}")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record a trial that failed too often."""
        if trial.num_failures > MAX_FAILURES:
            reason = "its process died, or raised an error, more than once"
            self._record_end(trial, {"status": "failed", "reason": reason})

    def _record_end(self, trial: Trial, ending: Mapping[str, Any]) -> None:
        number = int(str(trial))
        path = record_path(self._run_dir, number)
        if not files.exists(path):
            last = trial.last_result or {}
            scores = {"accuracy": last.get("val_acc"), "loss": last.get("val_loss")}
            record = {
                "number": number,
                "values": trial.config["values"],
                "process": last.get("pid"),
                **ending,
                "epochs": last.get("epochs", 0),
                **({"validation": scores} if scores["accuracy"] is not None else {}),
            }
            write_record(record, self._run_dir, seconds=float(last.get("time_total_s", 0.0)))
        self._records[number] = files.read_json(path)
        for stage in ("frozen", "unfrozen"):
            files.delete(files.join(trial_directory(self._run_dir, number), f"{stage}.npz"))
        best = best_record(self._records)
        self._keep_model(number, _number(best))
        say(self._line(self._records[number], best))

    def _keep_model(self, ended: int, best: int) -> None:
        """Delete the models of the trial that ended and of the one before it, whichever is not the `best`."""
        for other in {ended, self._kept} - {best, -1}:
            files.delete(files.join(trial_directory(self._run_dir, other), "model"))
        self._kept = best

    def _line(self, record: Record, best: Record | None) -> str:
        new, left = len(self._records) - self._before, self._trials - len(self._records)
        text = f"{len(self._records)}/{self._trials}: {record_text(record)}"
        if best:
            text += f" - best {best['validation']['accuracy']:.4f} (trial {best['number']})"
        eta = (time.monotonic() - self._start) / max(1, new) * left
        return text + (f" - ETA {duration(eta)}" if left else "")


def _number(record: Record | None) -> int:
    return -1 if record is None else int(record["number"])


def _failure_text(trial: Trial) -> str:
    """Return in a line what ended the process of `trial` the last time."""
    try:
        # While the trial runs the file is here, later in the sweep's own folder. Read as text: never unpickle a file.
        text = Path(trial.error_file).read_text()
    except (OSError, TypeError):
        return "its process died"
    last = text.rpartition("Failure # ")[2].partition("\n")[2]  # under a line with its number and time
    return root_cause(RuntimeError(last)).partition(". ")[0]
