"""Names that several photos claim: the result is that of one pass over all photos, for any files and partitions."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest
import ray
from made_results import commit_rows

from catdog.prediction.results.commit import result_files
from catdog.prediction.results.rows import LabelRule, build_rows
from catdog.prediction.sorting import claims
from catdog.prediction.sorting.names import as_compared, name_of

RULE = LabelRule(classes=("cat", "dog"), threshold=0.0, top_k=1, models=1)
pytestmark = pytest.mark.usefixtures("ray_session")


def settled(out: Path, paths: list[str], folders: list[str], *, rows_per_file: int = 2) -> list[str]:
    """Return the places of `paths`, settled over files of `rows_per_file` rows; photos in "unreadable" are errors."""
    good = [folder for folder in folders if folder != "unreadable"]
    probabilities = np.eye(2, dtype=np.float32)[[RULE.classes.index(folder) for folder in good]]
    errors = ["empty: x" if folder == "unreadable" else "" for folder in folders]
    commit_rows(str(out), build_rows(paths, errors, [probabilities], RULE), rows_per_file=rows_per_file)
    results = result_files(str(out), rule=RULE)
    found = [ray.get(level) for level in claims.settle_names(results, num_cpus=0.5)]
    levels = [
        0 if level is None else int(level[row])
        for result, level in zip(results, found, strict=True)
        for row in range(result.rows)
    ]
    return [f"{folder}/{name_of(path, level)}" for folder, path, level in zip(folders, paths, levels, strict=True)]


def in_one_pass(paths: list[str], folders: list[str]) -> list[str]:
    """Return the places by definition: each photo in order takes the first of its names that is free."""
    taken: set[tuple[str, str]] = set()
    places = []
    for path, folder in zip(paths, folders, strict=True):
        level = 0
        while (folder, as_compared(name_of(path, level))) in taken:
            level += 1
        taken.add((folder, as_compared(name_of(path, level))))
        places.append(f"{folder}/{name_of(path, level)}")
    return places


def test_names_that_collide_are_kept_apart_also_where_case_or_accents_do_not_count(tmp_path: Path) -> None:
    paths = [
        "/p/a/x.jpg",
        "/p/b/X.JPG",
        "/p/c/x.jpg",
        "/p/d/\u00e9.jpg",
        "/p/e/e\u0301.jpg",
        "/p/f/x.jpg",
        "/p/g/x.jpg",
    ]
    digests = [hashlib.sha256(path.encode()).hexdigest()[:8] for path in paths]
    assert settled(tmp_path, paths, [*["cat"] * 5, "dog", "unreadable"]) == [
        "cat/x.jpg",
        f"cat/X-{digests[1]}.JPG",
        f"cat/x-{digests[2]}.jpg",
        "cat/\u00e9.jpg",
        f"cat/e\u0301-{digests[4]}.jpg",
        "dog/x.jpg",
        "unreadable/x.jpg",
    ]


def test_a_name_that_looks_like_a_kept_apart_one_is_kept_apart_too(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"/p/b/x.jpg").hexdigest()
    paths = [f"/p/a/x-{digest[:8]}.jpg", "/p/a/x.jpg", "/p/b/x.jpg"]
    assert settled(tmp_path, paths, ["cat"] * 3)[2] == f"cat/x-{digest[:16]}.jpg"


@pytest.mark.parametrize(("rows_per_file", "partitions"), [(7, 5), (200, 1)])
def test_files_and_partitions_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_per_file: int, partitions: int
) -> None:
    chance = random.Random(0)
    paths = [f"/p/{folder}/{chance.choice('aAbBc')}.jpg" for folder in range(60)]
    # Add photos whose own name is the second or third choice of others, before or after them in the order.
    for level in (1, 1, 2):
        paths += [f"/{chance.random()}/{name_of(chance.choice(paths), level)}" for _ in range(20)]
    chance.shuffle(paths)
    folders = [chance.choice(["cat", "dog", "unreadable"]) for _ in paths]
    monkeypatch.setattr(claims, "_CLAIMS_PER_PARTITION", -(-len(paths) // partitions))
    found = settled(tmp_path, paths, folders, rows_per_file=rows_per_file)
    assert found == in_one_pass(paths, folders)
    assert len({as_compared(place) for place in found}) == len(paths)
    assert sum(name_of(path) != place.partition("/")[2] for path, place in zip(paths, found, strict=True)) > 30
