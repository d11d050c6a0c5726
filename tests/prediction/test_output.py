import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from heard import heard

from catdog.prediction import output
from catdog.prediction.output import InputsDigest
from catdog.prediction.results import commit


def digest_of(*paths: str) -> InputsDigest:
    return InputsDigest.of(pa.chunked_array([pa.array(paths)]))


def test_inputs_are_the_same_in_any_order() -> None:
    assert digest_of("b", "a") == digest_of("a", "b")
    assert digest_of("a", "b") != digest_of("ab")
    assert digest_of("a", "b").to_json() == {"files": 2, "digest": "8fb20ef63ced4145"}


def test_a_job_file_of_an_earlier_version_reads_as_one_of_today(tmp_path: Path) -> None:
    old = {"inputs": "2 files 8fb20ef63ced4145", "photos_a_part": 32, "exclude": []}
    (tmp_path / "predict.json").write_text(json.dumps(old))
    found = output.read_job(str(tmp_path))
    assert InputsDigest.from_json(found["inputs"]) == digest_of("a", "b")
    assert output.read_job(str(tmp_path / "none")) == {}


def test_results_without_a_place_go_below_labels() -> None:
    found = [
        output.default_out(photos)
        for photos in ("a/Pets.zip", "s3://b/pets/", "s3://b/pets?region=x.y/z", "x/*.jpg", "/")
    ]
    assert found == ["labels/Pets", "labels/pets", "labels/pets", "labels/photos", "labels/photos"]


def summary_of(labels: dict[str, int]) -> dict[str, Any]:
    photos = sum(labels.values())
    times = {"labelled_now": photos, "seconds": 2.0, "photos_per_second": photos / 2}
    return {"photos": photos, "labels": labels, "errors": {}, "io": {"failed": 0, "recovered": 0}, **times}


def test_of_many_labels_those_without_photos_are_counted_only() -> None:
    said: list[str] = []
    labels = {f"breed {number}": 0 for number in range(200)} | {"pug": 3, "beagle": 1}
    heard(said, output.say_summary, summary_of(labels), where="out/predictions")
    assert said == [
        "",
        "label   photos  share",
        "------  ------  -----",
        "pug          3  75.0%",
        "beagle       1  25.0%",
        "201 labels without photos not listed.",
        "4 photos in 2s: 2.0 photos/s",
        "Predictions: out/predictions",
    ]


def test_of_few_labels_each_is_listed() -> None:
    said: list[str] = []
    heard(said, output.say_summary, summary_of({"cat": 1, "dog": 0}), where="out/predictions")
    assert said[3:6] == ["cat          1  100.0%", "dog          0    0.0%", "errors       0    0.0%"]


def test_photos_whose_version_is_another_one_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def inputs(**versions: str | None) -> pa.Table:
        return pa.table({"path": list(versions), "version": pa.array(list(versions.values()), pa.string())})

    now = inputs(d="5", c="3", b="3", a="1", new="1")
    monkeypatch.setattr(commit, "read_inputs", lambda out: inputs(a="1", b="2", c=None, d="4"))
    assert output.changed_photos(str(tmp_path), now) == ["b", "d"]
    monkeypatch.setattr(commit, "read_inputs", lambda out: None)
    assert output.changed_photos(str(tmp_path), now) == []
