"""Checks the predictions of a finished train run for each photo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest


def check_outcomes(run_dir: Path, report: dict[str, Any]) -> None:
    """Check that every validation and test photo has one row, and that the rows give the losses of report.json."""
    manifest = pq.read_table(run_dir / "manifest" / "manifest.parquet").to_pylist()
    known = {row["path"]: (row["split"], row["class"]) for row in manifest if row["split"] in ("validation", "test")}
    for stage in ("frozen", "unfrozen"):
        rows = pq.read_table(run_dir / stage / "predictions.parquet").to_pylist()
        assert {row["path"]: (row["split"], row["true"]) for row in rows} == known
        assert len(rows) == len(known)
        for split in ("validation", "test"):
            chances = [row[f"p_{row['true']}"] for row in rows if row["split"] == split]
            assert -np.log(chances).mean() == pytest.approx(report["stages"][stage][split]["loss"], abs=1e-4)
