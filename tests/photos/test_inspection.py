from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pytest

from catdog.errors import FailureError
from catdog.photos import inspection
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.inspection import _rows_per_block, inspect_photos, reject_copies


@pytest.mark.parametrize(
    ("photos", "cpus", "rows"), [(370, 2, 185), (25_000, 2, 256), (20, 16, 16), (3000, 32, 94), (10**7, 8, 2442)]
)
def test_blocks_keep_every_cpu_busy_and_the_driver_idle(photos: int, cpus: int, rows: int) -> None:
    assert _rows_per_block(photos, cpus=cpus) == rows


def test_photos_that_kill_their_process_end_the_job(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(block: pa.Table, *, limits: DecodeLimits) -> pa.Table:
        os._exit(1)

    monkeypatch.setattr(inspection, "_inspect_block", die)
    monkeypatch.setattr(inspection, "MAX_RETRIES", 0)
    with pytest.raises(FailureError, match=r"^a process checking photos died 1 times on the same few \(0 of 1 done\)"):
        inspect_photos(["/1.jpg"], limits=DecodeLimits())


def test_the_first_copy_stays_and_contradictions_all_go() -> None:
    reasons = reject_copies(
        ["cat/1", "cat/2", "cat/3", "cat/4", "dog/1", "dog/2", "dog/3"],
        labels=np.array([0, 0, 0, 0, 1, 1, 1]),
        digests=pa.chunked_array([["a", "b", None, "a"], ["b", "c", None]]),
        classes=("cat", "dog"),
    )
    assert reasons == {
        1: "conflict: same bytes as dog/1 of class dog",
        3: "duplicate: same bytes as cat/1",
        4: "conflict: same bytes as cat/2 of class cat",
    }
