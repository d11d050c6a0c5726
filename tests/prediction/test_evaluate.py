import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from heard import heard
from made_results import commit_rows

from catdog.errors import UsageError
from catdog.photos.sources.inputs import find_inputs, list_inputs
from catdog.prediction.evaluate import evaluate_labels, order_as_rows, true_labels
from catdog.prediction.results.rows import LabelRule, build_rows

RULE = LabelRule(classes=("cat", "dog"), threshold=0.0, top_k=1, models=2)
FIRST = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], np.float32)
SECOND = np.array([[0.9, 0.1], [0.1, 0.9], [0.3, 0.7]], np.float32)


def evaluated(out: Path, true: list[int], *, scored: bool) -> tuple[dict[str, dict[str, object]], list[str]]:
    """Evaluate four rows, the last of them an error; return evaluation.json and what is printed."""
    rows = build_rows(["a", "b", "c", "d"], ["", "", "", "empty: x"], [FIRST, SECOND], RULE)
    commit_rows(str(out), rows)
    said: list[str] = []
    labels = np.array(true, np.int32)
    heard(said, evaluate_labels, str(out), rule=RULE, models=["m1", "m2"], true=labels, scored=scored)
    return json.loads((out / "evaluation.json").read_text()), said


def test_each_model_is_scored_on_the_readable_photos_of_known_class(tmp_path: Path) -> None:
    found, said = evaluated(tmp_path, [0, 0, -1, 1], scored=True)
    assert [(score["path"], score["photos"], score["correct"]) for score in found["models"]] == [
        ("m1", 2, 2), ("m2", 2, 1),
    ]  # fmt: skip
    assert (found["comparison"]["photos"], found["comparison"]["agree"]) == (2, 1)
    assert "m2 on 2 photos of known class:" in said


def test_two_models_are_compared_also_where_no_class_is_known(tmp_path: Path) -> None:
    found, _ = evaluated(tmp_path, [-1, -1, -1, -1], scored=False)
    assert "models" not in found
    assert (found["comparison"]["photos"], found["comparison"]["agree"], found["comparison"]["p_value"]) == (3, 2, None)


def test_folders_of_classes_that_the_model_does_not_know_are_refused() -> None:
    relative = ["cat/1.jpg", "cat/2.jpg", "owl/1.jpg", "owl/2.jpg"]
    with pytest.raises(UsageError, match="has the classes cat, owl, the model knows cat, dog"):
        true_labels(find_inputs(relative), classes=("cat", "dog"), source="photos")


def test_the_truth_may_be_a_column_of_a_table_or_beside_a_photo_in_a_shard(tmp_path: Path) -> None:
    table = pa.table({"image": [b"1", b"2", b"3"], "label": ["Dog", None, "cat"]})
    pq.write_table(table, tmp_path / "t.parquet")
    found = true_labels(list_inputs(str(tmp_path / "t.parquet")), classes=("cat", "dog"), source="t")
    assert found.tolist() == [1, -1, 0]
    with pytest.raises(UsageError, match="t has the classes cat, dog, the model knows cat, owl"):
        true_labels(list_inputs(str(tmp_path / "t.parquet")), classes=("cat", "owl"), source="t")
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, content in (("a.jpg", b"x"), ("a.cls", b"dog\n"), ("b.jpg", b"y")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    found = true_labels(list_inputs(str(tmp_path / "0.tar")), classes=("cat", "dog"), source="t")
    assert found.tolist() == [1, -1]


def test_labels_stand_in_the_order_of_the_rows_whatever_that_of_the_listing(tmp_path: Path) -> None:
    commit_rows(str(tmp_path), build_rows(["b", "c", "a"], ["", "", ""], [FIRST, SECOND], RULE))
    for listed in (["a", "b", "c"], ["b", "c", "a"]):
        found = order_as_rows(find_inputs(listed), str(tmp_path), rule=RULE)
        assert found["relative"].to_pylist() == ["b", "c", "a"]
