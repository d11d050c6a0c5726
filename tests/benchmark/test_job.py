"""The benchmark on a few photos: that it measures what it says and keeps it, not how fast anything is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from catdog.benchmark.end_to_end import THRESHOLDS
from catdog.model.engines import has_bfloat16


def run_benchmark(*flags: str, address: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "jobs/benchmark.py", *flags], capture_output=True, text=True, check=False,
        env={**os.environ, **({"RAY_ADDRESS": address} if address else {})},
    )  # fmt: skip


def test_every_measure_runs_and_is_kept(ray_session: None, photo_folder: Path, tmp_path: Path) -> None:
    import ray

    out = tmp_path / "benchmark.json"
    ended = run_benchmark(
        "--photos", str(photo_folder), "--count", "48", "--grow-to", "24", "--label-to", "100", "--article-epochs", "1",
        "--trials", "2", "--repeats", "1", "--out", str(out), "--folder", str(tmp_path),
        address=ray.get_runtime_context().gcs_address,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith(f"Figures: {out}\n")
    found = json.loads(out.read_text())
    assert found["command"][:2] == ["python", "jobs/benchmark.py"]
    assert found["hardware"]["cores"] >= 1
    assert found["versions"]["ray"].startswith("2.")

    ours, theirs = found["accuracy"]["catdog, default recipe"], found["accuracy"]["the article's recipe"]
    assert (ours["epochs"], ours["extrapolated"]) == (1, False)  # the head is solved
    assert ours["best_accuracy"] > 0.8
    assert ours["reached"].keys() == {str(limit) for limit in THRESHOLDS}
    assert all(at is None or 0 < at < ours["seconds"] for at in ours["reached"].values())
    # 100 and 200 epochs were computed from one each, none of them shorter than a hundredth of a second.
    assert (theirs["epochs"], theirs["extrapolated"], theirs["seconds"] > 3) == (2, True, True)

    trunk = found["trunk"]
    assert min(trunk.values()) > 0
    assert trunk["bound"] < trunk["model_alone"]
    assert trunk["whole_pass_with_start"] <= trunk["whole_pass"]
    assert trunk["share_of_limit"] == pytest.approx(trunk["whole_pass"] / trunk["model_alone"], abs=0.01)

    labellers = {"threads and tensorflow", "tf.data and tensorflow", "predict job, tensorflow", "predict job, openvino"}
    if has_bfloat16():
        labellers.add("predict job, openvino, bfloat16")
    assert found["predict"].keys() == labellers
    for runs in found["predict"].values():
        assert len(runs) == 1
        assert 0 < runs[0]["first_row_seconds"] <= runs[0]["seconds"]
        assert runs[0]["warm_photos_per_second"] > 0

    tune = found["tune"]
    assert (tune["trials"], tune["trunk_pass"] < tune["train_job"]) == (2, True)
    assert tune["more_trials"] == pytest.approx(tune["all_trials"] - tune["one_trial"], abs=0.11)

    names = {"ray, import", "tensorflow, import", "openvino, import and model", "trainer, start to first step"}
    assert found["overheads"].keys() >= names
    assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in found["overheads"].values())

    growth = found["growth"]
    assert [point["photos"] for point in growth["train"]["points"]] == [12, 24]
    assert [point["photos"] for point in growth["predict"]["points"]] == [12, 24, 100]
    assert growth["predict"]["points"][0]["steps"].keys() == {"list", "start", "label", "commit"}
    assert [one["photos"] for one in growth["projections"]] == 2 * [1_000_000, 1_000_000, 100_000_000, 100_000_000]
    assert min(growth["costs"].values()) > 0


def test_a_folder_that_is_not_there_is_refused_in_one_line() -> None:
    ended = run_benchmark("--measure", "trunk", "--photos", "nowhere")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "catdog: --photos nowhere: expected a local folder of class folders, found none there\n"
