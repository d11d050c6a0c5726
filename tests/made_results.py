"""Finished results of a predict job, made without Ray and without a model."""

from __future__ import annotations

import pyarrow as pa

from catdog.prediction.results import commit
from catdog.prediction.results.parts import write_prediction_part
from catdog.storage.lease import hold_lease


def commit_rows(out: str, rows: pa.Table, *, format: str = "parquet") -> None:
    """Leave `rows` in `out` as the one file of a committed result."""
    write_prediction_part(out, "part-0.parquet", rows, retried=0)
    with hold_lease(out, flag="--out") as lease:
        staging = commit.staging_directory(out, owner=lease.owner)
        entry = commit.write_file(out, staging, "predictions-00000", ["part-0.parquet"], format=format)
        commit.finish_commit(out, {"format": format, "files": [entry]}, lease=lease, replaces=False)
