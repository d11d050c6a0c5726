"""The records of trials: which is the best, and how they read."""

from __future__ import annotations

from pathlib import Path

from catdog.tuning.records import best_record, read_records, record_text, write_record


def test_a_failed_trial_says_why_in_a_line(tmp_path: Path) -> None:
    reason = "the loss is not a number after epoch 1"
    record = {"number": 3, "values": {"dropout": 0.1}, "status": "failed", "reason": reason}
    write_record(record, str(tmp_path), seconds=0.1)
    found = read_records(str(tmp_path))
    assert found.keys() == {3}
    assert record_text(found[3]) == f"trial 3 failed, {reason} in 0s (dropout 0.1)"
    assert best_record(found) is None
