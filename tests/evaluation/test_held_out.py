from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog.errors import FailureError
from catdog.evaluation.held_out import (
    brief,
    build_outcomes,
    find_outcomes,
    read_outcomes,
    select_split,
    write_outcomes,
)

CLASSES = ("cat", "<b>dog</b>")
PROBABILITIES = np.array([[0.9, 0.1], [0.3, 0.7], [0.45, 0.55], [0.02, 0.98]], np.float32)


def rows() -> pa.Table:
    halves = [
        build_outcomes(
            [f"/photos/{index}.jpg" for index in chosen],
            split=split,
            labels=np.array([0, 0, 1, 0], np.int32)[chosen],
            probabilities=PROBABILITIES[chosen],
            classes=CLASSES,
        )
        for split, chosen in (("validation", [0, 1]), ("test", [2, 3]))
    ]
    return pa.concat_tables(halves)


def test_outcomes_survive_the_round_trip(tmp_path: Path) -> None:
    write_outcomes(str(tmp_path), rows())
    found = read_outcomes(str(tmp_path), classes=CLASSES)
    assert found is not None
    assert found.column_names == ["path", "split", "true", "label", "probability", "p_cat", "p_<b>dog</b>"]
    assert found.equals(rows())
    labels, probabilities = select_split(found, "test", classes=CLASSES)
    assert labels.tolist() == [1, 0]
    np.testing.assert_allclose(probabilities, PROBABILITIES[2:], atol=1e-7)


def test_a_run_of_an_earlier_version_has_none_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    assert read_outcomes(str(tmp_path), classes=CLASSES) is None
    (tmp_path / "predictions.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(FailureError, match=r"predictions\.parquet cannot be read"):
        read_outcomes(str(tmp_path), classes=CLASSES)


def test_the_worst_are_wrong_and_sure_and_the_least_sure_may_be_right(tmp_path: Path) -> None:
    write_outcomes(str(tmp_path), rows())
    outcomes = find_outcomes(str(tmp_path), classes=CLASSES)
    assert outcomes is not None
    worst = brief(outcomes.worst(limit=24))
    assert [(row["path"], row["split"], row["true"], row["label"]) for row in worst] == [
        ("/photos/3.jpg", "test", "cat", "<b>dog</b>"),
        ("/photos/1.jpg", "validation", "cat", "<b>dog</b>"),
    ]
    assert worst[0]["probability"] == pytest.approx(0.98)
    assert brief(outcomes.worst(limit=1)) == worst[:1]
    assert outcomes.least_confident(limit=2)["path"].to_pylist() == ["/photos/2.jpg", "/photos/1.jpg"]


def test_rows_that_are_read_in_stretches_say_what_they_say_at_once(tmp_path: Path) -> None:
    write_outcomes(str(tmp_path), rows())
    pq.write_table(rows(), tmp_path / "predictions.parquet", row_group_size=1)
    outcomes = find_outcomes(str(tmp_path), classes=CLASSES)
    assert outcomes is not None
    assert [rows.num_rows for rows in outcomes.stretches()] == [1, 1, 1, 1]
    assert outcomes.worst(limit=24)["path"].to_pylist() == ["/photos/3.jpg", "/photos/1.jpg"]
    assert outcomes.least_confident(limit=2)["path"].to_pylist() == ["/photos/2.jpg", "/photos/1.jpg"]
    assert outcomes.first("test", rows=1)[0].tolist() == [1]
    labels, probabilities = outcomes.first("test", rows=9)
    assert labels.tolist() == [1, 0]
    np.testing.assert_allclose(probabilities, PROBABILITIES[2:], atol=1e-7)
    assert read_outcomes(str(tmp_path), classes=CLASSES).equals(rows())  # type: ignore[union-attr]
