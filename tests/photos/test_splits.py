from __future__ import annotations

import collections
import hashlib

import numpy as np
import pytest

from catdog.errors import UsageError
from catdog.photos.splits import ALL, split_photos

EVERYTHING = (ALL, ALL, ALL)


def digest(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def split(
    sizes: dict[str, int],
    asked: tuple[int, int, int] = EVERYTHING,
    *,
    hints: list[str | None] | None = None,
    groups: list[str | None] | None = None,
    seed: int = 1,
) -> tuple[dict[tuple[str, int], str], dict[tuple[str, str], int]]:
    """Split classes of `sizes` photos; return each photo's split, and the number of photos by (class, split)."""
    photos = [(name, number) for name, size in sizes.items() for number in range(size)]
    splits = split_photos(
        np.repeat(np.arange(len(sizes)), list(sizes.values())),
        digests=[digest(photo) for photo in photos],
        hints=hints or [None] * len(photos),
        classes=list(sizes),
        per_class=dict(zip(("train", "validation", "test"), asked, strict=True)),
        seed=seed,
        groups=groups,
    ).tolist()
    counts = collections.Counter((name, part) for (name, _), part in zip(photos, splits, strict=True))
    return dict(zip(photos, splits, strict=True)), dict(counts)


def test_all_photos_are_used_70_to_15_to_15_in_every_class() -> None:
    counts = split({"cat": 20_000, "dog": 2_000})[1]
    for name, size in {"cat": 20_000, "dog": 2_000}.items():
        assert counts[name, "train"] / size == pytest.approx(0.70, abs=0.03)
        assert counts[name, "validation"] / size == pytest.approx(0.15, abs=0.02)
        assert counts[name, "test"] / size == pytest.approx(0.15, abs=0.02)
        assert (name, "unused") not in counts


def test_a_photo_keeps_its_split_when_others_come_and_go() -> None:
    before = split({"cat": 300, "dog": 300})[0]
    after = split({"ant": 100, "cat": 1_300, "dog": 250})[0]
    kept = before.keys() & after.keys()
    assert len(kept) == 550
    assert {photo: before[photo] for photo in kept} == {photo: after[photo] for photo in kept}


def test_a_cap_makes_photos_unused_and_moves_none_to_another_split() -> None:
    free, (capped, counts) = split({"cat": 300, "dog": 300})[0], split({"cat": 300, "dog": 300}, (100, ALL, ALL))
    assert counts["cat", "train"] == counts["dog", "train"] == 100
    assert all(capped[photo] in (free[photo], "unused") for photo in free)


@pytest.mark.parametrize(
    ("sizes", "asked", "cats", "dogs"),
    [
        ({"cat": 12_500, "dog": 1_500}, (1000, 500, 0), (1000, 500, 0, 11_000), (1000, 500, 0, 0)),
        ({"cat": 12_500, "dog": 2_000}, (1000, 500, 500), (1000, 500, 500, 10_500), (1000, 500, 500, 0)),
        ({"cat": 120, "dog": 250}, (1000, 500, 500), (60, 30, 30, 0), (125, 62, 63, 0)),
        ({"cat": 3, "dog": 20}, (1000, 10, 10), (1, 1, 1, 0), (18, 1, 1, 0)),
    ],
)
def test_numbers_for_every_split_are_met_exactly_or_in_proportion(
    sizes: dict[str, int], asked: tuple[int, int, int], cats: tuple[int, ...], dogs: tuple[int, ...]
) -> None:
    counts = split(sizes, asked)[1]
    for name, wanted in (("cat", cats), ("dog", dogs)):
        assert tuple(counts.get((name, part), 0) for part in ("train", "validation", "test", "unused")) == wanted


def test_small_classes_have_a_photo_in_every_split() -> None:
    for seed in range(50):
        assert len(split({"cat": 3, "dog": 4, "eel": 5}, seed=seed)[1]) == 9


def test_hinted_photos_stay_in_their_split_and_a_split_without_folder_is_drawn_from_train() -> None:
    hints: list[str | None] = ([*["train"] * 80, *["validation"] * 40]) * 2
    found, counts = split({"cat": 120, "dog": 120}, hints=hints)
    assert counts["cat", "validation"] == counts["dog", "validation"] == 40
    assert counts["cat", "train"] + counts["cat", "test"] == 80
    assert counts["cat", "train"] / 80 == pytest.approx(0.70 / 0.85, abs=0.1)
    assert {hint for hint, part in zip(hints, found.values(), strict=True) if part == "validation"} == {"validation"}


def test_another_seed_draws_another_split() -> None:
    first, again, other = (split({"cat": 100, "dog": 100}, seed=seed)[0] for seed in (1, 1, 2))
    assert first == again
    assert sum(first[photo] != other[photo] for photo in first) > 40


@pytest.mark.parametrize("asked", [EVERYTHING, (20, 10, 10)])
def test_photos_of_a_group_are_in_one_split(asked: tuple[int, int, int]) -> None:
    groups: list[str | None] = [f"shoot {number // 5}" for number in range(60)] * 2  # each has cats and dogs
    found, counts = split({"cat": 60, "dog": 60}, asked, groups=groups)
    parts = collections.defaultdict(set)
    for group, part in zip(groups, found.values(), strict=True):
        parts[group].add(part)
    assert all(len(part - {"unused"}) <= 1 for part in parts.values())
    assert {part for _, part in counts} >= {"train", "validation", "test"}


def test_photos_without_a_group_are_drawn_one_by_one() -> None:
    free = split({"cat": 100, "dog": 100})[0]
    assert split({"cat": 100, "dog": 100}, groups=[None] * 200)[0] == free


@pytest.mark.parametrize("asked", [EVERYTHING, (1000, 500, 500)])
def test_too_few_photos_are_the_users_mistake(asked: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError) as raised:
        split({"cat": 2, "dog": 9}, asked)
    assert str(raised.value) == (
        "expected at least 3 usable photos of every class for train and validation and test, found 2 of cat: "
        "add photos, or draw no test photos by --test-per-class 0"
    )
    with pytest.raises(UsageError, match="at least 2 usable photos of every class for train and validation, found 0"):
        split({"cat": 2, "dog": 2}, asked, hints=["test"] * 4)


def test_too_few_groups_are_the_users_mistake() -> None:
    with pytest.raises(UsageError, match="found 2 of cat, 2 of dog"):
        split({"cat": 60, "dog": 60}, groups=["a" if number < 40 else "b" for number in range(60)] * 2)


def test_a_class_that_a_split_folder_lacks_is_named() -> None:
    hints: list[str | None] = [*["train"] * 6, *["test"] * 4, *["train"] * 10]
    with pytest.raises(UsageError) as raised:
        split({"cat": 10, "dog": 10}, hints=hints)
    assert str(raised.value) == (
        "expected at least one usable photo of every class for test, found 0 of dog: "
        "add photos, or draw no test photos by --test-per-class 0"
    )
