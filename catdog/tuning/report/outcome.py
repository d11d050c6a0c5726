"""The output of a sweep: the winner's model, best.json, the tables, the page, and the summary on the console."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.command_line.arguments import as_flags
from catdog.config import TuneConfig
from catdog.console import counted, duration, say
from catdog.errors import FailureError
from catdog.report.page import write_page
from catdog.report.plots import draw_sweep
from catdog.report.tracking import track_runs
from catdog.storage import files
from catdog.storage.artifacts import versions
from catdog.tuning.layouts import Sweep
from catdog.tuning.records import (
    Record,
    checkpoint_path,
    model_path,
    records_text,
    tracked_run,
    write_tables,
)
from catdog.tuning.report.importance import measure_importance
from catdog.tuning.report.page import build_tune_page
from catdog.tuning.selection import choose_winner, gain_text, measure_gain, record_scores, with_winner_first

if TYPE_CHECKING:
    from catdog.tuning.trials.finals import Final

_TABLE_ROWS = 10


def write_outcome(sweep: Sweep, config: TuneConfig, records: Mapping[int, Record], *, began: float) -> dict[str, Any]:
    """Measure the winner and trial 0, write all outputs, and return the content of best.json.

    `began` is the time.monotonic() at the command's start. Raises FailureError if no trial has a model.
    """
    write_tables(records, sweep.space, run_dir=sweep.run_dir, metric=sweep.metric)
    winner = choose_winner(with_models(records, sweep.run_dir), sweep.metric, rule=config.selection)
    if winner is None:
        reasons = sorted({record.get("reason", record["status"]) for record in records.values()})
        if not records:
            raise FailureError("the time budget ended before the first trial did; give more --time-budget")
        raise FailureError(f"none of {counted(len(records), 'trial')} has a model: {'; '.join(reasons)}")
    result = _measure(sweep, winner, records)
    result |= {
        "metric": sweep.metric,
        "command": train_command(sweep, winner),
        "trials": dict(Counter(record["status"] for record in records.values())),
        "importance": measure_importance(list(records.values()), sweep.space, metric=sweep.metric),
        "trial_seconds": round(sum(record["seconds"] for record in records.values()), 3),
        "seconds": round(time.monotonic() - began, 3),
        "versions": versions(),
    }
    files.write_json(files.join(sweep.run_dir, "best.json"), result)
    _delete_checkpoints(sweep, records, keep={winner["number"], 0})
    ranked = with_winner_first(records, winner["number"], sweep.metric)
    draw_sweep(list(records.values()), list(sweep.space), run_dir=sweep.run_dir)
    for line in summary_lines(ranked, result, sweep):
        say(line)
    write_page(
        sweep.run_dir,
        lambda: build_tune_page(records, sweep.space, result=result, run_dir=sweep.run_dir),
    )
    runs = [tracked_run(record, run_dir=sweep.run_dir) for record in records.values()]
    track_runs(config.track, runs, run_dir=sweep.run_dir)
    return result


def with_models(records: Mapping[int, Record], run_dir: str) -> dict[int, Record]:
    """Return the trials that have a model and so can win. Sweeps of an earlier version kept only one trial's model."""
    return {
        number: record
        for number, record in records.items()
        if "stages" in record or files.exists(model_path(run_dir, number))
    }


def _measure(sweep: Sweep, winner: Record, records: Mapping[int, Record]) -> dict[str, Any]:
    """Return the winner's part of best.json: its scores, those of trial 0, and the gain over trial 0."""
    from catdog.tuning.trials.finals import measure_finals

    default = records.get(0)
    compared = [winner]
    if default is not None and default["number"] != winner["number"] and record_scores(default) and "stage" in default:
        compared.append(default)
    finals = measure_finals(sweep, compared)
    result: dict[str, Any] = {
        "number": winner["number"],
        "values": winner["values"],
        "stage": winner.get("stage"),
        "validation": finals[0].scores["validation"],
        **({"test": finals[0].scores["test"]} if "test" in finals[0].scores else {}),
        **({"folds": winner["folds"]} if winner.get("folds") else {}),
    }
    rated = [_rated_photos(sweep, record, final) for record, final in zip(compared, finals, strict=True)]
    result["photos"] = len(rated[0]["correct"])
    if len(compared) == 1:
        return result
    result["default"] = {"number": 0, "stage": compared[1]["stage"], **finals[1].scores}
    if winner.get("folds") and compared[1].get("folds"):
        result["default"]["folds"] = compared[1]["folds"]
    result["gain"] = measure_gain(rated[0], rated[1]).as_dict(sweep.metric)
    return result


def _rated_photos(sweep: Sweep, record: Record, final: Final) -> dict[str, np.ndarray]:
    """Return the loss and correctness of each photo on which a trial is rated: of all folds, else of validation."""
    from catdog.tuning.trials.finals import read_rated

    checkpoint = read_rated(sweep, record) if record.get("folds") else None
    rated = final if checkpoint is None else checkpoint
    return {"losses": rated.losses, "correct": rated.correct}


def train_command(sweep: Sweep, winner: Record) -> str:
    """Return the command that trains with the winner's settings."""
    # Use a separate folder: the photos' default run directory may hold another training run on them.
    config = dataclasses.replace(sweep.config(winner["values"]), run_dir=files.join(sweep.run_dir, "best"))
    return shlex.join(["python", "jobs/train.py", *as_flags(config)])


def _delete_checkpoints(sweep: Sweep, records: Mapping[int, Record], *, keep: set[int]) -> None:
    """Delete the checkpoints of all trials except `keep`."""
    for number in records.keys() - keep:
        for stage in sweep.stage_names:
            path = checkpoint_path(sweep.run_dir, number, stage)
            if files.exists(path):
                files.delete(path)


def summary_lines(ranked: list[Record], result: Mapping[str, Any], sweep: Sweep) -> list[str]:
    """Return the last console lines: the table with the winner on top, its gain, and where its model is."""
    states = ", ".join(f"{count} {state}" for state, count in sorted(result["trials"].items()))
    shown = ranked[:_TABLE_ROWS]
    shown += [record for record in ranked[_TABLE_ROWS:] if record["number"] == 0]
    lines = [
        "",
        records_text(shown, sweep.space),
        f"{counted(sum(result['trials'].values()), 'trial')} ({states}) in {duration(result['seconds'])}.",
        winner_text(result, sweep.metric),
    ]
    if "gain" in result:
        lines.append(gain_text(result["gain"], winner=result["number"], photos=compared_photos(result)))
    if "test" in result:
        lines.append(held_out_text(result))
    return [
        *lines,
        f"Model: {files.join(sweep.run_dir, 'model')}",
        f"To train it again: {result['command']}",
    ]


def winner_text(result: Mapping[str, Any], metric: str) -> str:
    """Return which trial won, and by which score, from best.json."""
    scores = result.get("folds") or result["validation"]
    rated = f"over {len(scores['scores'])} folds" if result.get("folds") else "on validation"
    name = "the default settings (trial 0)" if result["number"] == 0 else f"trial {result['number']}"
    return (
        f"Best: {name}, its {result['stage']} stage, chosen by {metric} {rated}: "
        f"loss {scores['loss']:.4f}, accuracy {scores['accuracy']:.4f}."
    )


def compared_photos(result: Mapping[str, Any]) -> str:
    """Return in words which photos the winner and trial 0 were compared on."""
    return "photos, each left out of its fold" if result.get("folds") else "validation photos"


def held_out_text(result: Mapping[str, Any]) -> str:
    """Return the scores on the test photos, which were not used to choose the winner."""
    text = f"On the test photos, which were not used for selection: accuracy {result['test']['accuracy']:.4f}"
    default = result.get("default", {}).get("test")
    return f"{text}, trial 0 {default['accuracy']:.4f}." if default else f"{text}."
