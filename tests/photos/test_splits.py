from __future__ import annotations

import collections
import hashlib

import numpy as np
import pytest

from catdog.errors import UsageError
from catdog.photos.splits import split_photos


def split(
    sizes: dict[str, int], asked: tuple[int, int, int], *, hints: list[str | None] | None = None, seed: int = 1
) -> tuple[np.ndarray, dict[tuple[str, str], int]]:
    """Split classes of `sizes` photos; return each photo's split, and photos by (class, split)."""
    labels = np.repeat(np.arange(len(sizes)), list(sizes.values()))
    splits = split_photos(
        labels,
        digests=[hashlib.sha256(str(row).encode()).hexdigest() for row in range(len(labels))],
        hints=hints or [None] * len(labels),
        classes=list(sizes),
        per_class=dict(zip(("train", "validation", "test"), asked, strict=True)),
        seed=seed,
    )
    names = np.array(list(sizes))[labels].tolist()
    return splits, dict(collections.Counter(zip(names, splits.tolist(), strict=True)))


@pytest.mark.parametrize(
    ("sizes", "asked", "train", "validation", "test", "unused"),
    [
        ({"cat": 12_500, "dog": 12_500}, (1000, 500, 0), 1000, 500, 0, {"cat": 11_000, "dog": 11_000}),
        ({"cat": 12_500, "dog": 12_500}, (1000, 500, 500), 1000, 500, 500, {"cat": 10_500, "dog": 10_500}),
        ({"cat": 120, "dog": 250}, (1000, 500, 500), 60, 30, 30, {"cat": 0, "dog": 130}),
        ({"cat": 121, "dog": 250}, (1000, 500, 500), 60, 30, 30, {"cat": 1, "dog": 130}),
        ({"cat": 3, "dog": 4, "eel": 5}, (1000, 10, 10), 1, 1, 1, {"cat": 0, "dog": 1, "eel": 2}),
        ({"cat": 20, "dog": 20}, (1000, 10, 10), 18, 1, 1, {"cat": 0, "dog": 0}),
    ],
)
def test_every_class_gives_the_same_number(
    sizes: dict[str, int], asked: tuple[int, int, int], train: int, validation: int, test: int, unused: dict[str, int]
) -> None:
    counts = split(sizes, asked)[1]
    wanted = {}
    for name in sizes:
        wanted |= {(name, "train"): train, (name, "validation"): validation, (name, "test"): test}
        wanted[name, "unused"] = unused[name]
    assert counts == {key: count for key, count in wanted.items() if count}


def test_hinted_photos_stay_in_their_split_and_a_split_without_folder_is_drawn_from_train() -> None:
    hints = (["train"] * 8 + ["validation"] * 4) * 2
    splits, counts = split({"cat": 12, "dog": 12}, (100, 3, 100), hints=hints)
    assert counts == {
        (name, part): count
        for name in ("cat", "dog")
        for part, count in {"train": 4, "test": 4, "validation": 3, "unused": 1}.items()
    }
    assert {hint for hint, part in zip(hints, splits, strict=True) if part in ("train", "test")} == {"train"}
    assert {hint for hint, part in zip(hints, splits, strict=True) if part == "validation"} == {"validation"}


def test_a_split_depends_on_seed_and_content_alone() -> None:
    sizes, asked = {"cat": 100, "dog": 100}, (40, 20, 20)
    first, again, other = (split(sizes, asked, seed=seed)[0] for seed in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert (first != other).mean() > 0.3


def test_a_few_more_photos_move_few() -> None:
    before = split({"cat": 1000, "dog": 1000}, (600, 200, 200))[0][:1000]
    after = split({"cat": 1010, "dog": 1010}, (600, 200, 200))[0][:1000]
    assert (before != after).mean() < 0.03


@pytest.mark.parametrize(
    ("sizes", "hints", "message"),
    [
        ({"cat": 2, "dog": 9}, None, "3 usable photos or more of every class for train and validation and test, "),
        ({"cat": 2, "dog": 2}, ["test"] * 4, "2 usable photos or more of every class for train and validation, "),
    ],
)
def test_too_few_photos_are_the_users_mistake(
    sizes: dict[str, int], hints: list[str | None] | None, message: str
) -> None:
    found = "found 2 of cat, 9 of dog" if hints is None else "found 0 of cat, 0 of dog"
    with pytest.raises(UsageError) as raised:
        split(sizes, (1000, 500, 500), hints=hints)
    assert str(raised.value) == f"expected {message}{found}: add photos, or ask for fewer splits"
