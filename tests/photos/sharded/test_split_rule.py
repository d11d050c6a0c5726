"""The rule gives the same splits as splits.split_photos, which sees all photos at the same time."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from catdog.errors import UsageError
from catdog.photos.sharded.split_rule import add_places, asked_of, find_places, make_rule, pools_of, small_classes
from catdog.photos.splits import split_photos

HINTS = ["train", "validation", "test"]


def drawn(random: np.random.Generator, *, photos: int, classes: int, hinted: float) -> pa.Table:
    """Return photos of classes of all sizes, sorted by path; the fraction `hinted` of them has hints to some splits."""
    folders = HINTS[: int(random.integers(1, 4))] if random.random() < 0.5 else HINTS[int(random.integers(0, 3)) :]
    labels = np.concatenate([np.arange(classes), (random.random(photos) ** 3 * classes).astype(int)])
    hints = [str(random.choice(folders)) if random.random() < hinted else None for _ in labels]
    digests = [hashlib.sha256(random.bytes(8)).hexdigest() for _ in labels]
    paths = [f"{row:06d}" for row in range(len(labels))]
    return pa.table({"path": paths, "digest": digests, "hint": pa.array(hints, pa.string()), "label": labels})


def split_in_ranges(rows: pa.Table, per_class: dict[str, int], *, classes: list[str], seed: int) -> list[str]:
    """Return the split of each photo, by a rule that is made from what four digest ranges report."""
    starts = np.array([int(digest[0], 16) // 4 for digest in rows["digest"].to_pylist()])
    ranges = [rows.filter(pa.array(starts == number)) for number in range(4)]
    pools, labels = pools_of(rows).tolist(), rows["label"].to_pylist()
    asked = asked_of(dict.fromkeys(zip(pools, labels, strict=True), 1), per_class)
    places = add_places((find_places(one, asked, seed=seed) for one in ranges), asked)
    small = small_classes(places, asked, classes=len(classes))
    few = {
        pool: (chosen, rows.filter(pa.array((pools_of(rows) == pool) & np.isin(rows["label"].to_numpy(), chosen))))
        for pool, chosen in small.items()
    }
    rule = make_rule(places, asked, few, classes=classes, seed=seed)
    found = dict[str, str]()
    for one in ranges:
        found |= zip(one["path"].to_pylist(), rule.apply(one).tolist(), strict=True)
    return [found[path] for path in rows["path"].to_pylist()]


def split_at_once(rows: pa.Table, per_class: dict[str, int], *, classes: list[str], seed: int) -> list[str]:
    found = split_photos(
        rows["label"].to_numpy(), digests=rows["digest"].to_pylist(), hints=rows["hint"].to_pylist(), classes=classes,
        per_class=per_class, seed=seed,
    )  # fmt: skip
    return [str(split) for split in found]


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [(-1, -1, -1), (-1, -1, 0), (-1, 4, -1), (20, -1, 3), (30, 8, 8), (1, 1, 1), (5, 2, 0), (1000, 200, 100)],
)
def test_ranges_split_photos_as_one_process_does(train: int, validation: int, test: int) -> None:
    per_class = {"train": train, "validation": validation, "test": test}
    outcomes = set()
    for number in range(40):
        random = np.random.default_rng(number)
        classes = [f"class {label}" for label in range(2 + number % 5)]
        hinted = 0.0 if number % 2 else 0.6
        rows = drawn(random, photos=10 + 12 * number, classes=len(classes), hinted=hinted)
        try:
            expected: object = split_at_once(rows, per_class, classes=classes, seed=number)
        except UsageError as error:
            expected = str(error)
        try:
            found: object = split_in_ranges(rows, per_class, classes=classes, seed=number)
        except UsageError as error:
            found = str(error)
        assert found == expected
        outcomes.add(type(found))
    assert list in outcomes


def test_a_class_without_photos_beside_split_folders_is_named_as_it_is_in_one_process() -> None:
    rows = drawn(np.random.default_rng(0), photos=200, classes=2, hinted=0)
    rows = rows.set_column(2, "hint", pa.array(["train", "test"] * 101, pa.string())).slice(2)
    only = rows.filter(pa.array((rows["label"].to_numpy() == 0) | (pools_of(rows) == "train")))
    asked = dict.fromkeys(HINTS, -1)
    message = r"expected at least one usable photo of every class for test, found 0 of b: add photos"
    with pytest.raises(UsageError, match=message):
        split_at_once(only, asked, classes=["a", "b"], seed=0)
    with pytest.raises(UsageError, match=message):
        split_in_ranges(only, asked, classes=["a", "b"], seed=0)
