import functools
import io
import itertools
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from heard import heard
from made_results import commit_rows

from catdog.cluster.actors import map_in_order
from catdog.errors import UsageError
from catdog.photos.sources.inputs import INPUTS, find_inputs, list_inputs
from catdog.photos.sources.listing.shards import Shard, cut_into_shards
from catdog.prediction.evaluate import TrueLabels, evaluate_labels
from catdog.prediction.results.rows import LabelRule, build_rows
from catdog.prediction.truth import Map, Truth, find_truth, see_shard

RULE = LabelRule(classes=("cat", "dog"), threshold=0.0, top_k=1, models=2)
FIRST = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], np.float32)
SECOND = np.array([[0.9, 0.1], [0.1, 0.9], [0.3, 0.7]], np.float32)


def shards_of(inputs: pa.Table, *, rows: int) -> list[Shard]:
    """Cut `inputs` into shards of at most `rows` rows."""
    return [shard for start in range(0, inputs.num_rows, rows) for shard in cut_into_shards(inputs.slice(start, rows))]


def evaluated(
    out: Path, true: str, *, scored: bool, rows_per_file: int = 0
) -> tuple[dict[str, dict[str, object]], str]:
    """Evaluate rows of four photos in the folders `true`, the last an error; return evaluation.json and the output."""
    inputs = find_inputs([f"{folder}/{place}.jpg" for place, folder in enumerate(true.split())])
    rows = build_rows(inputs["path"].to_pylist(), ["", "", "", "empty: x"], [FIRST, SECOND], RULE)
    commit_rows(str(out), rows, rows_per_file=rows_per_file)
    truth = Truth(classes=RULE.labels, class_of_folder={"cat": "cat", "dog": "dog"})
    shards = shards_of(inputs, rows=3)
    labels = TrueLabels(str(out), rule=RULE, shards=shards, truth=truth, mapped=itertools.starmap)
    said: list[str] = []
    heard(said, evaluate_labels, str(out), rule=RULE, models=["m1", "m2"], true=labels, scored=scored)
    return json.loads((out / "evaluation.json").read_text()), "\n".join(said)


@pytest.mark.parametrize("rows_per_file", [0, 1, 2])
def test_each_model_is_scored_on_the_readable_photos_of_known_class(tmp_path: Path, rows_per_file: int) -> None:
    found, said = evaluated(tmp_path, "cat cat other dog", scored=True, rows_per_file=rows_per_file)
    assert [(score["path"], score["photos"], score["correct"]) for score in found["models"]] == [
        ("m1", 2, 2), ("m2", 2, 1),
    ]  # fmt: skip
    assert (found["comparison"]["photos"], found["comparison"]["agree"]) == (2, 1)
    assert "m2 on 2 photos of known class:" in said


def test_two_models_are_compared_also_where_no_class_is_known(tmp_path: Path) -> None:
    found, _ = evaluated(tmp_path, "a b c d", scored=False)
    assert "models" not in found
    assert (found["comparison"]["photos"], found["comparison"]["agree"], found["comparison"]["p_value"]) == (3, 2, None)


def truth_of(inputs: pa.Table, *classes: str, rows: int = 1) -> list[int]:
    """Return the true labels of `inputs`; the truth is decided from shards of at most `rows` rows."""
    truth = find_truth(shards_of(inputs, rows=rows), classes=classes, source="t", mapped=itertools.starmap)
    return truth.labels_of(inputs).tolist()


def test_folders_of_classes_that_the_model_does_not_know_are_refused() -> None:
    relative = ["cat/1.jpg", "cat/2.jpg", "owl/1.jpg", "owl/2.jpg"]
    with pytest.raises(UsageError, match="t has the classes cat, owl, the model knows cat, dog"):
        truth_of(find_inputs(relative), "cat", "dog")
    with pytest.raises(UsageError, match=r"of the classes bee, fly in t, found none in 4 files, such as cat/1\.jpg"):
        truth_of(find_inputs(relative), "bee", "fly")


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_folders_tell_the_class_however_the_photos_are_cut(rows: int) -> None:
    relative = ["notes.txt", "train/Cat/1.jpg", "train/Cat/deep/2.jpg", "train/dog/3.jpg", "val/cat/4.jpg", "5.jpg"]
    assert truth_of(find_inputs(relative), "cat", "dog", rows=rows) == [-1, 0, 0, 1, 0, -1]
    assert truth_of(find_inputs(["x/Dog/1.jpg", "y/2.jpg", "y/dog/3.txt"]), "cat", "dog", rows=rows) == [1, -1, 1]
    assert truth_of(find_inputs(["a/cat.1.jpg", "a/dog.2.jpg", "a/3.jpg"]), "cat", "dog", rows=rows) == [0, 1, -1]


def test_names_that_seem_to_carry_thousands_of_classes_take_no_room() -> None:
    relative = [f"{folder}/shot{place}.1.jpg" for folder in ("cat", "dog") for place in range(3000)]
    (shard,) = cut_into_shards(find_inputs(relative))
    assert len(see_shard(shard, ("cat", "dog")).examples) == 1002
    assert truth_of(find_inputs(relative), "cat", "dog", rows=6000) == [0] * 3000 + [1] * 3000


def test_the_truth_may_be_a_column_of_a_table_or_beside_a_photo_in_a_shard(tmp_path: Path) -> None:
    table = pa.table({"image": [b"1", b"2", b"3"], "label": ["Dog", None, "cat"]})
    pq.write_table(table, tmp_path / "t.parquet")
    assert truth_of(list_inputs(str(tmp_path / "t.parquet")), "cat", "dog") == [1, -1, 0]
    with pytest.raises(UsageError, match="t has the classes cat, dog, the model knows cat, owl"):
        truth_of(list_inputs(str(tmp_path / "t.parquet")), "cat", "owl")
    pq.write_table(table.select(["image"]), tmp_path / "u.parquet")
    with pytest.raises(UsageError, match=r"a column of labels in each table, found none in .*/u\.parquet"):
        truth_of(list_inputs(str(tmp_path / "*.parquet")), "cat", "dog")
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, content in (("a.jpg", b"x"), ("a.cls", b"dog\n"), ("b.jpg", b"y")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    assert truth_of(list_inputs(str(tmp_path / "0.tar")), "cat", "dog") == [1, -1]


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("mapped", [itertools.starmap, functools.partial(map_in_order, num_cpus=0.5)])
def test_labels_stand_in_the_order_of_the_rows_whatever_that_of_the_listing(tmp_path: Path, mapped: Map) -> None:
    commit_rows(str(tmp_path), build_rows(["b", "c", "a"], ["", "", ""], [FIRST, SECOND], RULE), rows_per_file=2)
    truth = Truth(classes=RULE.labels, class_of_folder={"x": "cat", "y": "dog"})
    for listed in ({"b": "x/1", "c": "z/2", "a": "y/3"}, {"a": "y/3", "b": "x/1", "c": "z/2"}):
        inputs = pa.table({**find_inputs(list(listed)).to_pydict(), "relative": [*listed.values()]}, schema=INPUTS)
        shards = [shard.shared() for shard in shards_of(inputs, rows=2)]
        found = TrueLabels(str(tmp_path), rule=RULE, shards=shards, truth=truth, mapped=mapped)
        assert [labels.tolist() for labels in found] == [[0, -1], [1]]
