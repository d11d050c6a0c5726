"""The records of trials: what they contain, and how they are shown."""

from __future__ import annotations

import csv
from pathlib import Path

from catdog.config import TrainConfig
from catdog.tuning.records import read_records, record_text, records_text, write_record, write_tables
from catdog.tuning.space import parse_space

SPACE = parse_space(TrainConfig, {"dropout": "uniform:0,0.5", "frozen.c": "loguniform:0.01,1"})
STOPPED = {
    "number": 1, "values": {"dropout": 0.1, "frozen.c": 0.5}, "status": "stopped", "reached": "frozen",
    "stage": "frozen", "epochs": 1, "validation": {"loss": 0.25, "accuracy": 0.75},
}  # fmt: skip


def test_a_failed_trial_says_why_in_a_line(tmp_path: Path) -> None:
    reason = "the loss is NaN or infinite after epoch 1"
    record = {"number": 3, "values": {"dropout": 0.1}, "status": "failed", "reason": reason}
    written = write_record(record, str(tmp_path), seconds=0.1)
    assert read_records(str(tmp_path)) == {3: written}
    assert record_text(written) == f"trial 3 failed, {reason} in 0s (dropout 0.1)"


def test_a_penalty_is_shown_as_it_was_chosen_and_not_at_all_before_that() -> None:
    solved = {**STOPPED, "values": {"frozen.c": 0.0}, "seconds": 2.0}
    assert record_text({**solved, "stages": {"frozen": {"c": 0.1}}}).endswith("in 2s (frozen.c 0.1)")
    assert record_text({**solved, "values": {"dropout": 0.1, "frozen.c": 0.0}}).endswith("in 2s (dropout 0.1)")
    assert records_text([solved], SPACE).splitlines()[2].split()[-2:] == ["-", "-"]


def test_a_stopped_trial_says_after_which_stage() -> None:
    assert record_text({**STOPPED, "seconds": 2.0}) == (
        "trial 1 stopped after the frozen stage, val loss 0.2500, val acc 0.7500 in 2s (dropout 0.1, frozen.c 0.5)"
    )


def test_the_tables_have_fold_means_and_errors_and_no_test_scores(tmp_path: Path) -> None:
    folds = {"loss": 0.2, "accuracy": 0.8, "loss_error": 0.01, "accuracy_error": 0.02, "scores": [{}, {}]}
    found = {
        0: {**STOPPED, "number": 0, "values": {"dropout": 0.2}, "folds": folds, "seconds": 1.0},
        1: {**STOPPED, "folds": {**folds, "loss": 0.1}, "seconds": 1.0, "test": {"accuracy": 1.0}},
    }
    write_tables(found, SPACE, run_dir=str(tmp_path), metric="val_loss")
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert [(row["trial"], row["rank"], row["fold_loss_mean"], row["fold_loss_error"]) for row in rows] == [
        ("0", "2", "0.2", "0.01"), ("1", "1", "0.1", "0.01"),
    ]  # fmt: skip
    assert rows[0]["frozen.c"] == ""  # a conditional setting whose condition was not met
    assert not any("test" in name for name in rows[0])


def test_the_console_s_table_names_the_defaults() -> None:
    lines = records_text([{**STOPPED, "seconds": 2.0}, {**STOPPED, "number": 0, "seconds": 2.0}], SPACE).splitlines()
    assert lines[0].split() == ["trial", "ended", "epochs", "val", "loss", "val", "acc", "time", "dropout", "frozen.c"]
    assert lines[2].startswith("1 ")
    assert lines[3].startswith("0 (defaults)")
