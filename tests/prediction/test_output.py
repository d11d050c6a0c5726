import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from heard import heard
from made_results import commit_rows

from catdog.photos.sources.inputs import INPUTS, find_inputs
from catdog.photos.sources.listing.shards import SetDigest, Shard, cut_into_shards
from catdog.prediction import output
from catdog.prediction.results.matching import Changes
from catdog.prediction.results.rows import LabelRule, build_rows

RULE = LabelRule(classes=("cat", "dog"), threshold=0.0, top_k=1, models=1)


def table(**versions: str | None) -> pa.Table:
    return pa.table({"path": list(versions), "version": pa.array(list(versions.values()), pa.string())})


@dataclasses.dataclass(frozen=True)
class Listed:
    shards: list[Shard]
    digest: SetDigest


def listed(**versions: str | None) -> Listed:
    shards = cut_into_shards(table(**versions))
    return Listed(shards, SetDigest.total(shard.digest for shard in shards))


def is_set_of_a_and_b(stored: Any) -> bool:
    found = listed(b="1", a="2")
    return output.is_set(stored, found.digest, lambda: [shard.read()["path"] for shard in found.shards])


def test_a_job_knows_its_photos_by_their_paths_in_any_order() -> None:
    name = {"files": 2, "paths": "08bb6928ca5517152e4b8118ff058d82334469f89d507abd84f46634858a4958"}
    assert output.set_name(listed(a=None, b="x").digest) == name
    assert is_set_of_a_and_b(name)
    assert not is_set_of_a_and_b({**name, "files": 3})
    assert not is_set_of_a_and_b(output.set_name(listed(ab="1", c="1").digest))


@pytest.mark.parametrize(
    ("stored", "same"),
    [
        ({"files": 2, "digest": "8fb20ef63ced4145"}, True),
        ({"files": 2, "digest": "8fb20ef63ced4146"}, False),
        ({"files": 3, "digest": "8fb20ef63ced4145"}, False),
        ("2 files 8fb20ef63ced4145", True),
    ],
)
def test_the_photos_of_a_job_of_an_earlier_version_are_known(stored: Any, same: bool) -> None:
    assert is_set_of_a_and_b(stored) is same


def test_a_folder_without_a_job_has_none(tmp_path: Path) -> None:
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
        "201 labels without photos are not listed.",
        "4 photos in 2s: 2.0 photos/s",
        "Predictions: out/predictions",
    ]


def test_of_few_labels_each_is_listed() -> None:
    said: list[str] = []
    heard(said, output.say_summary, summary_of({"cat": 1, "dog": 0}), where="out/predictions")
    assert said[3:6] == ["cat          1  100.0%", "dog          0    0.0%", "errors       0    0.0%"]


def test_photos_whose_version_is_another_one_have_changed(tmp_path: Path) -> None:
    rows = build_rows(list("abcd"), [""] * 4, [np.full((4, 2), 0.5, np.float32)], RULE)
    before = pa.table({**find_inputs(list("abcd")).to_pydict(), "version": ["1", "2", None, "4"]}, schema=INPUTS)
    commit_rows(str(tmp_path), rows, rows_per_file=3, inputs=before)
    # In the order of the rows, in another order, and with a new photo.
    for now in (listed(a="1", b="3", c="3", d="5"), listed(d="5", c="3", b="3", a="1"), listed(d="5", b="3", new="1")):
        assert output.changed_photos(str(tmp_path), now) == Changes(count=2, first="b")
    assert output.changed_photos(str(tmp_path), listed(a="1", b="2", c=None, d="4")) == Changes()
    written = tmp_path / "predictions/_MANIFEST.json"
    manifest = json.loads(written.read_text())
    for entry in manifest["files"]:
        del entry["inputs"], entry["digest"]
    written.write_text(json.dumps(manifest))
    assert output.changed_photos(str(tmp_path), listed(a="2")) == Changes()  # no versions are recorded
