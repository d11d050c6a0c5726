"""What the driver does when a trial ends: write its record, print its line, and delete models no longer needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from catdog.cluster.failures import root_cause
from catdog.console import duration, say
from catdog.storage import files
from catdog.tuning.layouts import Sweep
from catdog.tuning.records import Record, checkpoint_path, model_path, record_text, write_record
from catdog.tuning.selection import choose_winner, objective, record_scores
from catdog.tuning.trials.checkpoint import move_checkpoint
from catdog.tuning.trials.distributed import collect_distributed

MAX_FAILURES = 1  # of a trial's process; with more, the trial counts as failed
TIME_BUDGET = "the time budget ended"


class TrialFollower(Callback):  # type: ignore[misc]
    """Records each trial when it ends, prints its line, and keeps the models that may still be needed.

    `records` holds the trials that ended before, and receives the new ones. `ends` is the number of trials in this
    run. With `may_continue`, stopped trials may continue in another run. `is_late` returns whether the time budget
    is over.
    """

    def __init__(
        self,
        sweep: Sweep,
        records: dict[int, Record],
        *,
        ends: int,
        parallel: int,
        is_late: Callable[[], bool],
        may_continue: bool,
    ) -> None:
        self._sweep, self._records, self._ends = sweep, records, ends
        self._parallel, self._is_late, self._may_continue = parallel, is_late, may_continue
        self._start, self._ended, self._counted = time.monotonic(), 0, 0
        self._winner = choose_winner(records, sweep.metric)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record a trial that finished or was stopped."""
        self._record_end(trial, trial.last_result or {})

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Report that a trial lost its process and runs again."""
        say(f"Trial {int(str(trial))} was lost and runs again: {_failure_text(trial)}")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record a trial that failed too often. What it reported before still counts."""
        if trial.num_failures > MAX_FAILURES:
            reason = "its process died, or raised an error, more than once"
            self._record_end(trial, {**(trial.last_result or {}), "status": "failed", "reason": reason})

    def _record_end(self, trial: Trial, result: Mapping[str, Any]) -> None:
        number, values = int(str(trial)), trial.config["values"]
        before = self._records.get(number, {})
        found = dict(result)
        if "status" not in found and "stage" not in found:
            return  # it was stopped before it reported anything, so it runs again
        if self._sweep.base.cluster.workers:
            found.update(collect_distributed(self._sweep, values, number))
        elif trial.checkpoint is not None:
            move_checkpoint(trial.checkpoint, checkpoint_path(self._sweep.run_dir, number, found["stage"]))
        record = merge_record(before, found, number=number, values=values, metric=self._sweep.metric)
        if record["status"] == "stopped" and self._is_late():
            record["reason"] = TIME_BUDGET
        seconds = float(result.get("time_total_s", 0.0)) + before.get("seconds", 0.0)
        self._records[number] = write_record(record, self._sweep.run_dir, seconds=seconds)
        self._ended += 1
        before_best, self._winner = self._winner, self._better(self._records[number])
        self._drop_models({_number(before_best), number} - {_number(self._winner)})
        say(self._line(self._records[number], self._winner))
        if self._ended == self._parallel:
            # The pace leaves out the first trials, which waited for their processes to start.
            self._start, self._counted = time.monotonic(), self._ended
        elif self._ended == 2 * self._parallel < self._ends:
            left, pace = self._ends - self._ended, self._pace()
            say(f"Measured: {pace:.2g}s for each trial; about {duration(pace * left)} for the other {left}.")

    def _better(self, record: Record) -> Record | None:
        """Return the best trial so far. Comparing all trials again would cost more with each trial."""
        pair = [record] if self._winner is None else [self._winner, record]
        return choose_winner({one["number"]: one for one in pair}, self._sweep.metric)

    def _drop_models(self, numbers: set[int]) -> None:
        """Delete the models of these trials, which are not the best, unless they may still be needed.

        Trial 0 is compared with the winner, and the unfrozen stage may start from a frozen-stage checkpoint.
        """
        for other in numbers - {0, -1}:
            files.delete(model_path(self._sweep.run_dir, other))
            files.delete(checkpoint_path(self._sweep.run_dir, other, "unfrozen"))
            if len(self._sweep.stage_names) == 1:
                files.delete(checkpoint_path(self._sweep.run_dir, other, "frozen"))

    def _line(self, record: Record, winner: Record | None) -> str:
        left = self._ends - self._ended
        text = f"{self._ended}/{self._ends}: {record_text(record, may_continue=self._may_continue)}"
        if winner is not None:
            scores = record_scores(winner) or {}
            text += f" - best {scores['loss']:.4f}, {scores['accuracy']:.4f} (trial {winner['number']})"
        return text + (f" - ETA {duration(self._pace() * left)}" if left and self._ended > self._counted else "")

    def _pace(self) -> float:
        """Return the elapsed seconds per trial, over all trials that run in parallel."""
        return (time.monotonic() - self._start) / max(1, self._ended - self._counted)


def merge_record(
    before: Record, result: Mapping[str, Any], *, number: int, values: Mapping[str, Any], metric: str
) -> dict[str, Any]:
    """Return the record of a trial that reported `result` last. `before` is its record from an earlier Ray Tune run.

    The scores are the better of the two: every checkpoint counts, from whatever stage and however the trial ended.
    """
    stages = {**before.get("stages", {}), **result.get("stages", {})}
    record: dict[str, Any] = {
        "number": number,
        "values": dict(values),
        "process": result.get("process"),
        "status": result.get("status", "stopped"),
        **({"reason": result["reason"]} if "reason" in result else {}),
        "reached": "unfrozen" if "unfrozen" in stages else "frozen",
        "epochs": sum(stage["epochs"] for stage in stages.values()),
        "stages": stages,
    }
    candidates = [one for one in (before, result) if record_scores(one) is not None]
    if candidates:
        best = min(candidates, key=lambda one: objective(record_scores(one) or {}, metric))
        record |= {name: best[name] for name in ("stage", "validation", "folds") if name in best}
    return record


def _number(record: Record | None) -> int:
    return -1 if record is None else int(record["number"])


def _failure_text(trial: Trial) -> str:
    """Return in one line why the process of `trial` last failed."""
    try:
        # While the trial runs, the file is here, later in the sweep's folder. Read as text: never unpickle a file.
        text = Path(trial.error_file).read_text()
    except (OSError, TypeError):
        return "its process died"
    last = text.rpartition("Failure # ")[2].partition("\n")[2]  # it follows a line with its number and time
    return root_cause(RuntimeError(last)).partition(". ")[0]
