"""The benchmark on a few photos: it measures what it says and saves the figures; speed is not tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def run_benchmark(*flags: str, address: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "jobs/benchmark.py", *flags], capture_output=True, text=True, check=False,
        env={**os.environ, **({"RAY_ADDRESS": address} if address else {})},
    )  # fmt: skip


def test_what_is_measured_is_kept(ray_session: None, photo_folder: Path, tmp_path: Path) -> None:
    import ray

    out = tmp_path / "benchmark.json"
    ended = run_benchmark(
        "--measure", "trunk", "--photos", str(photo_folder), "--count", "12", "--out", str(out),
        "--folder", str(tmp_path), address=ray.get_runtime_context().gcs_address,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith(f"Figures: {out}\n")
    found = json.loads(out.read_text())
    assert found["command"][:2] == ["python", "jobs/benchmark.py"]
    assert found["hardware"]["cores"] >= 1
    assert found["versions"]["ray"].startswith("2.")
    trunk = found["trunk"]
    assert min(trunk.values()) > 0
    assert trunk["bound"] < trunk["model_alone"]
    assert trunk["whole_pass_with_start"] <= trunk["whole_pass"]
    assert trunk["share_of_limit"] == pytest.approx(trunk["whole_pass"] / trunk["model_alone"], abs=0.01)


def test_a_folder_that_is_not_there_is_refused_in_one_line() -> None:
    ended = run_benchmark("--measure", "trunk", "--photos", "nowhere")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "catdog: --photos nowhere: expected a local folder of class folders, found none there\n"
