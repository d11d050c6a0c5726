import json
from pathlib import Path

from catdog.prediction import output
from catdog.prediction.output import InputsDigest


def test_inputs_are_the_same_in_any_order() -> None:
    assert InputsDigest.of(["b", "a"]) == InputsDigest.of(["a", "b"])
    assert InputsDigest.of(["a", "b"]) != InputsDigest.of(["ab"])
    assert InputsDigest.of(["a", "b"]).to_json() == {"files": 2, "digest": "8fb20ef63ced4145"}


def test_a_job_file_of_an_earlier_version_reads_as_one_of_today(tmp_path: Path) -> None:
    old = {"inputs": "2 files 8fb20ef63ced4145", "photos_a_part": 32, "exclude": []}
    (tmp_path / "predict.json").write_text(json.dumps(old))
    found = output.read_job(str(tmp_path))
    assert InputsDigest.from_json(found["inputs"]) == InputsDigest.of(["a", "b"])
    assert output.read_job(str(tmp_path / "none")) == {}


def test_results_without_a_place_go_below_labels() -> None:
    found = [output.default_out(photos) for photos in ("a/Pets.zip", "s3://b/pets/", "x/*.jpg", "/")]
    assert found == ["labels/Pets", "labels/pets", "labels/photos", "labels/photos"]
