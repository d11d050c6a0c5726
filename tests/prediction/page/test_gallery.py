from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from catdog.prediction.page import gallery
from catdog.prediction.page.gallery import (
    AT_RANDOM,
    DIFFERENT,
    LEAST_CONFIDENT,
    WRONG,
    choose_rows,
    common_prefix,
    summarize_kinds,
)
from catdog.prediction.results.rows import LabelRule, build_rows


def tables(count: int, *, size: int, threshold: float = 0.0, models: int = 1) -> Iterator[pa.Table]:
    """Yield `count` rows in tables of at most `size`: one in ten is an error, the others have seeded probabilities."""
    rule = LabelRule(classes=("cat", "dog"), threshold=threshold, top_k=1, models=models)
    random = np.random.default_rng(7)
    for start in range(0, count, size):
        paths = [f"/photos/{index:06d}.jpg" for index in range(start, min(count, start + size))]
        errors = ["truncated: <short>" if index % 10 == 3 else "" for index in range(start, start + len(paths))]
        dog = random.random((models, errors.count(""))).astype(np.float32)
        yield build_rows(paths, errors, [np.stack([1 - one, one], axis=1) for one in dog], rule)


def test_the_sample_has_the_least_sure_of_each_label_and_is_the_same_for_any_cut_into_files() -> None:
    whole = pa.concat_tables(tables(2000, size=2000))
    shown = choose_rows([whole], classes=("cat", "dog"), unsure=False)
    for label in ("cat", "dog"):
        rows = [row for row in whole.to_pylist() if row["label"] == label]
        least = sorted(rows, key=lambda row: (row["probability"], row["path"]))[: gallery._PER_GROUP]
        found = [row for row in shown.photos if row["label"] == label and LEAST_CONFIDENT in row["kinds"]]
        assert {row["path"] for row in found} == {row["path"] for row in least}
        assert shown.labels[label] == len(rows)
        assert shown.histograms[label] == np.histogram([row["probability"] for row in rows], 50, (0, 1))[0].tolist()
    parts = [whole.slice(start, 300) for start in range(0, 2000, 300)]
    assert choose_rows(parts, classes=("cat", "dog"), unsure=False) == shown


def test_what_is_shown_of_many_rows_is_bounded() -> None:
    rows = tables(40_000, size=9_000, threshold=0.6)
    true = (np.zeros(count, np.int32) for count in (9_000, 9_000, 9_000, 9_000, 4_000))
    shown = choose_rows(rows, classes=("cat", "dog"), unsure=True, true=true)
    assert shown.rows == 40_000
    assert sum(shown.labels.values()) + sum(shown.error_counts.values()) == 40_000
    assert 150 < len(shown.photos) <= gallery.MAX_PHOTOS
    assert (shown.error_counts, len(shown.errors)) == ({"truncated": 4000}, 100)
    assert len(shown.names) == 10_000
    assert len({row["path"] for row in shown.names}) == 10_000
    assert not shown.searched_all
    assert {row["label"] for row in shown.names[5000:]} == {"unsure", None}
    wrong = [row for row in shown.photos if WRONG in row["kinds"]]
    assert {(row["label"], row["true"]) for row in wrong} == {("dog", "cat")}
    assert min(row["probability"] for row in wrong) > 0.99


def test_two_models_that_differ_are_shown_the_surest_first() -> None:
    shown = choose_rows(tables(500, size=100, models=2), classes=("cat", "dog"), unsure=False)
    differ = [row for row in shown.photos if DIFFERENT in row["kinds"]]
    assert len(differ) == gallery._PER_GROUP
    assert all(row["label"] != row["second_label"] for row in differ)
    assert shown.searched_all
    assert list(summarize_kinds(shown.photos)) == [DIFFERENT, LEAST_CONFIDENT, AT_RANDOM]


def test_of_few_photos_all_are_shown() -> None:
    shown = choose_rows(tables(400, size=70), classes=("cat", "dog"), unsure=False)
    assert len(shown.photos) == sum(shown.labels.values()) == 360
    assert sum(not row["kinds"] for row in shown.photos) > 100


def test_many_classes_share_the_pictures() -> None:
    names = [f"class {index}" for index in range(1000)]
    rule = LabelRule(classes=tuple(names[:3]), threshold=0, top_k=1, models=1)
    rows = build_rows(["/a", "/b"], ["", ""], [np.eye(3, dtype=np.float32)[:2]], rule)
    assert len(choose_rows([rows], classes=names, unsure=False).photos) == 2


def test_no_rows_and_errors_alone_are_shown_too() -> None:
    rule = LabelRule(classes=("cat", "dog"), threshold=0, top_k=1, models=1)
    nothing = np.empty((0, 2), np.float32)
    rows = build_rows(["/a"], ["empty: no bytes"], [nothing], rule)
    shown = choose_rows([rows], classes=("cat", "dog"), unsure=False)
    assert (shown.photos, shown.error_counts) == ([], {"empty": 1})
    assert shown.errors == [{"path": "/a", "error": "empty: no bytes"}]
    assert shown.names == [{"path": "/a", "label": None, "probability": None}]


def test_the_common_folder_of_paths() -> None:
    assert common_prefix(["/photos/cat/1.jpg", "/photos/cats/1.jpg"]) == "/photos/"
    assert common_prefix(["/photos/1.jpg"]) == "/photos/"
    assert common_prefix(["s3://b/1.jpg", "/x/1.jpg"]) == ""
    assert common_prefix([]) == ""
