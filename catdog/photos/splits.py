"""Assignment of photos to the training, validation and test splits.

A hash of a photo's content and the seed gives its place on a line from 0 to 1, which is cut at 0.70 and 0.85. So a
photo keeps its split when other photos are added or removed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from catdog.errors import UsageError
from catdog.storage.schemas import SPLITS, UNUSED

ALL = -1  # as the number of photos of a class: no limit
SHARES = {"train": 0.70, "validation": 0.15, "test": 0.15}


def split_photos(
    labels: np.ndarray,
    *,
    digests: Sequence[str],
    hints: Sequence[str | None],
    classes: Sequence[str],
    per_class: Mapping[str, int],
    seed: int,
    groups: Sequence[str | None] | None = None,
) -> np.ndarray:
    """Return the split of each photo, (n,) strings of SPLITS or UNUSED.

    `per_class` is the maximum number of photos of a class in each split: ALL for no limit, 0 for no such split. Photos
    beyond it are UNUSED. If every split has a number and there are no `groups`, each class is cut by rank instead of
    place, in proportion to these numbers, so that they are met exactly. A split that some photos are hinted to takes
    only those. The other splits are drawn from the remaining photos. Photos of a group share one place, and so one
    split. If a class would have no photo in a split, the nearest one moves there.
    Raises UsageError when a class has fewer photos (or groups) than there are splits to draw.
    """
    names = digests if groups is None else [group or digest for group, digest in zip(groups, digests, strict=True)]
    places = draw_places(names, seed=seed)
    pools = np.array([hint or "train" for hint in hints], dtype=object)
    splits = np.full(len(labels), UNUSED, dtype=object)
    hinted = set(pools.tolist()) | {"train"}
    for pool, asked in asked_splits(hinted, per_class).items():
        members = np.flatnonzero(pools == pool)
        counted = ALL not in asked.values() and groups is None
        cut = _cut_by_rank if counted else cut_by_place
        chosen = cut(places[members], labels[members], asked, classes)
        splits[members] = np.array(list(asked), dtype=object)[chosen]
        apply_caps(splits, members, places, labels, asked)
    return splits


def asked_splits(hinted: Iterable[str], per_class: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return the splits that each pool of photos serves, each with its number from `per_class`.

    `hinted` are the splits that photos are hinted to, and each is a pool. Photos without a hint are in the pool train.
    """
    found = {}
    hinted = {*hinted, "train"}
    for pool in sorted(hinted, key=SPLITS.index):
        served = [split for split in SPLITS if split == pool or (pool == "train" and split not in hinted)]
        found[pool] = {split: per_class[split] for split in served if per_class[split]}
    return {pool: asked for pool, asked in found.items() if asked}


def draw_places(names: Iterable[str], *, seed: int) -> np.ndarray:
    """Return the place of each name on the line, (n,) floats in [0, 1)."""
    drawn = b"".join(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8] for name in names)
    return (np.frombuffer(drawn, dtype=">u8") >> 11) * 2.0**-53 if drawn else np.zeros(0)


def cut_by_place(
    places: np.ndarray, labels: np.ndarray, asked: Mapping[str, int], classes: Sequence[str]
) -> np.ndarray:
    """Return the index in `asked` of each photo's split, with the line cut in proportion to SHARES."""
    starts, ends = split_bounds(asked)
    chosen = np.minimum(np.searchsorted(ends, places, side="right"), len(asked) - 1)
    # Moving a group to fill one class's split may empty another split of another class in the group.
    for _ in range(len(asked)):
        sizes = _sizes(labels, chosen, shape=(len(classes), len(asked)))
        for label, empty in np.argwhere(sizes == 0).tolist():
            own = labels == label
            givers = own & (chosen == np.bincount(chosen[own], minlength=len(asked)).argmax())
            if len(np.unique(places[givers])) < 2:
                continue
            apart = np.maximum(starts[empty] - places, places - ends[empty])
            nearest = places[givers][apart[givers].argmin()]
            chosen[places == nearest] = empty
    if not (_sizes(labels, chosen, shape=(len(classes), len(asked)))).all():
        distinct = [len(np.unique(places[labels == label])) for label in range(len(classes))]
        raise too_few(distinct, asked, classes)
    return chosen


def split_bounds(asked: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return where each split of `asked` starts and ends on the line."""
    shares = np.array([SHARES[split] for split in asked])
    ends = np.cumsum(shares) / shares.sum()
    return ends - shares / shares.sum(), ends


def _cut_by_rank(
    places: np.ndarray, labels: np.ndarray, asked: Mapping[str, int], classes: Sequence[str]
) -> np.ndarray:
    """Return the index in `asked` of each photo's split, by its rank within the class.

    Splits get their numbers in `asked`, or a proportional share of a smaller class.
    """
    sizes = np.bincount(labels, minlength=len(classes))
    if sizes.min() < len(asked):
        raise too_few(sizes.tolist(), asked, classes)
    chosen = np.zeros(len(labels), np.int64)
    for label, size in enumerate(sizes.tolist()):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(places[members], kind="stable")]
        chosen[members] = np.repeat(np.arange(len(asked)), share_out(size, asked))
    return chosen


def share_out(size: int, asked: Mapping[str, int]) -> np.ndarray:
    """Return how many of the `size` photos of a class each split takes: its number, or a proportional share."""
    wanted = np.array(list(asked.values()), np.int64)
    counts: np.ndarray = np.maximum(1, wanted * min(size, wanted.sum()) // wanted.sum())
    while counts.sum() > size:  # the minimum of 1 for a small split is taken from the largest
        counts[counts.argmax()] -= 1
    counts[-1] += size - counts.sum()  # what exceeds the cap of the last split becomes UNUSED
    return counts


def apply_caps(
    splits: np.ndarray, members: np.ndarray, places: np.ndarray, labels: np.ndarray, asked: Mapping[str, int]
) -> None:
    """Mark as UNUSED the photos of a class beyond its number in a split, those with the last places first."""
    for split, most in asked.items():
        inside = members[splits[members] == split]
        inside = inside[np.lexsort((places[inside], labels[inside]))]
        sizes = np.bincount(labels[inside])
        rank = np.arange(len(inside)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # within the class
        if most != ALL:
            splits[inside[rank >= most]] = UNUSED


def _sizes(labels: np.ndarray, chosen: np.ndarray, *, shape: tuple[int, int]) -> np.ndarray:
    """Return the number of photos by (class, split)."""
    return np.bincount(labels * shape[1] + chosen, minlength=shape[0] * shape[1]).reshape(shape)


def too_few(sizes: Sequence[int], asked: Mapping[str, int], classes: Sequence[str]) -> UsageError:
    """Return the error for classes with fewer photos than there are splits to draw; `sizes` are by class."""
    found = ", ".join(f"{size} of {name}" for name, size in zip(classes, sizes, strict=True) if size < len(asked))
    remedy = "add photos, or draw no test photos by --test-per-class 0" if "test" in asked else "add photos"
    photos = "one usable photo" if len(asked) == 1 else f"{len(asked)} usable photos"
    return UsageError(f"expected at least {photos} of every class for {' and '.join(asked)}, found {found}: {remedy}")
