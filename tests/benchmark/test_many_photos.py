"""Jobs on photos that cost nothing: each step is reported and counts its calls; speed is not tested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from catdog.benchmark.scaling import free_ingest, free_job, many_photos


def test_each_step_of_a_free_job_counts_its_calls(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_job, "_IDLE_CALLS", 10)
    monkeypatch.setattr(many_photos, "_FOLDER_PHOTOS", 100)
    monkeypatch.setattr(many_photos, "_MAX_LINKS", 120)
    many_photos.make_links(tmp_path, 250)
    assert len(list((tmp_path / "photos").rglob("*.jpg"))) == 250
    free_job.main(str(tmp_path / "photos"), str(tmp_path / "labels"))
    *said, line = capsys.readouterr().out.splitlines()
    assert said[0] == "Verified: 250 rows, one for each photo; the checksums match (1 file)."
    found = json.loads(line)
    assert [step["step"] for step in found["steps"]] == [
        "start", "list", "label", "commit", "verify", "evaluate", "sort",
    ]  # fmt: skip
    calls = {step["step"]: step["calls"] for step in found["steps"]}
    assert calls["list"] == 3  # one task for the root, and one for each of its two folders
    assert calls["label"] > 2
    assert calls["commit"] == 0  # the driver itself writes a single file
    assert (calls["evaluate"], calls["sort"]) == (3, 3)  # 2 shards and 1 file; claim names, settle them, place photos
    assert len(list((tmp_path / "sorted").glob("*/*.jpg"))) == 250
    assert found["shards"] == 2
    assert found["seconds_a_call"] > 0


def test_each_step_of_a_free_ingest_is_told(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many_photos, "_FOLDER_PHOTOS", 100)
    many_photos.make_links(tmp_path, 250)
    free_ingest.main(str(tmp_path / "photos"), str(tmp_path / "run"))
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [step["step"] for step in found["steps"]] == ["start", "ingest", "trunk pass, planned"]
    assert found["shards"] == 1
    assert 1500 < found["rows"] < 2000  # 70 % of the photos, in ten views
