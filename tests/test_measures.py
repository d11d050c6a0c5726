"""The benchmark's measures on a few photos: that they measure what they say, not how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from catdog.measures import TrialCosts, measure_trunk


def test_the_trunk_pass_is_measured_beside_its_steps(ray_session: None, photo_folder: Path) -> None:
    rates = measure_trunk(str(photo_folder), limit=8)
    assert min(rates.model_alone, rates.decode_alone, rates.augment_alone, rates.whole_pass) > 0
    assert rates.whole_pass_with_start <= rates.whole_pass
    assert rates.share_of_limit == round(rates.whole_pass / rates.model_alone, 3)


def test_the_cost_of_more_trials_is_the_difference() -> None:
    costs = TrialCosts(train_job=60.0, trunk_pass=20.0, trials=17, one_trial=30.0, all_trials=45.0)
    assert costs.more_trials == 15.0


def test_overheads_are_printed_and_kept(tmp_path: Path) -> None:
    out = tmp_path / "benchmark.json"
    ended = subprocess.run(
        [sys.executable, "jobs/benchmark.py", "--measure", "overheads", "--repeats", "1", "--out", str(out)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    found = json.loads(out.read_text())
    assert found["overheads"].keys() >= {"ray, import", "tensorflow, import", "openvino, import and model"}
    assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in found["overheads"].values())
    assert found["hardware"]["cores"] >= 1
    assert "ray, start and connect" in ended.stdout


def test_a_measure_without_photos_is_refused_in_one_line() -> None:
    ended = subprocess.run(
        [sys.executable, "jobs/benchmark.py", "--measure", "trunk"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "catdog: expected --photos, a folder of class folders\n"
