"""Outcomes: a stage's predictions on held-out photos, validation and test, one row per photo.

Each stage writes `predictions.parquet`; all scores of the report are computed from these rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catdog.errors import FailureError, one_line
from catdog.storage import files
from catdog.storage.schemas import check_schema, outcome_schema

OUTCOMES_FILE = "predictions.parquet"


def build_outcomes(
    paths: Sequence[str], *, split: str, labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> pa.Table:
    """Return the rows of one split: true `labels` (N,) int, `probabilities` (N, classes) float32."""
    names = np.array(classes, object)
    top = probabilities.argmax(axis=1)
    columns = [
        pa.array(paths, pa.string()),
        pa.array([split] * len(paths), pa.string()),
        pa.array(names[labels], pa.string()),
        pa.array(names[top], pa.string()),
        pa.array(probabilities[np.arange(len(top)), top], pa.float32()),
        *(pa.array(np.ascontiguousarray(column), pa.float32()) for column in probabilities.T),
    ]
    return pa.table(columns, schema=outcome_schema(classes))


def write_outcomes(directory: str, rows: pa.Table) -> None:
    """Write predictions.parquet into the stage's `directory`, whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    files.write_bytes(files.join(directory, OUTCOMES_FILE), sink.getvalue())


def read_outcomes(directory: str, *, classes: Sequence[str]) -> pa.Table | None:
    """Return the rows that a stage left in `directory`; None where an earlier version of catdog trained it.

    Raises FailureError when the file is damaged or of other columns.
    """
    path = files.join(directory, OUTCOMES_FILE)
    if not files.exists(path):
        return None
    try:
        rows = pq.read_table(pa.BufferReader(files.read_bytes(path)))
    except (OSError, pa.ArrowException) as error:
        raise FailureError(f"{path} cannot be read: {one_line(error)}") from error
    return check_schema(rows, outcome_schema(classes), where=path)


def select_split(rows: pa.Table, split: str, *, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return (true labels (N,) int64, probabilities (N, classes) float64) of the rows of `split`."""
    chosen = rows.filter(pc.equal(rows["split"], split))
    labels = pc.index_in(chosen["true"], pa.array(classes)).to_numpy().astype(np.int64)
    return labels, np.stack([chosen[f"p_{name}"].to_numpy().astype(np.float64) for name in classes], axis=1)


def worst_outcomes(rows: pa.Table, *, limit: int) -> list[dict[str, Any]]:
    """Return the wrong rows, most confident first, at most `limit`: path, split, true, label, probability."""
    wrong = rows.filter(pc.not_equal(rows["true"], rows["label"]))
    return _brief(wrong, order="descending", limit=limit)


def least_confident_outcomes(rows: pa.Table, *, limit: int) -> list[dict[str, Any]]:
    """Return the rows of the lowest confidence, correct or not, at most `limit`; columns as `worst_outcomes`."""
    return _brief(rows, order="ascending", limit=limit)


def _brief(rows: pa.Table, *, order: str, limit: int) -> list[dict[str, Any]]:
    ordered = rows.sort_by([("probability", order), ("path", "ascending")]).slice(0, limit)
    found: list[Mapping[str, Any]] = ordered.select(["path", "split", "true", "label", "probability"]).to_pylist()
    return [dict(row) for row in found]
