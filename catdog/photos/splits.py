"""Which photo is for training, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from catdog.errors import UsageError
from catdog.storage.schemas import SPLITS, UNUSED


def split_photos(
    labels: np.ndarray,
    *,
    digests: Sequence[str],
    hints: Sequence[str | None],
    classes: Sequence[str],
    per_class: Mapping[str, int],
    seed: int,
) -> np.ndarray:
    """Return the split of each photo, (n,) strings: the same number of photos of every class in a split.

    Photos are drawn in the order of sha256(seed, digest) within their class, so the split depends on the photos'
    content and `seed` alone, and a few more photos move few. A split that some photos are hinted to takes those only;
    the others are drawn, train first, from the rest. `per_class` are ceilings: where the smallest class holds fewer
    than the splits drawn from it ask for together, all shrink in proportion, rounded down, to 1 at least.
    What no split takes is UNUSED. Raises UsageError when a split that is asked for would be empty.
    """
    pool_of_hint = {hint: SPLITS.index(hint or "train") for hint in {*hints, None}}
    pools = np.array([pool_of_hint[hint] for hint in hints], dtype=np.int8)
    drawn = b"".join(hashlib.sha256(f"{seed}:{digest}".encode()).digest()[:8] for digest in digests)
    keys = np.frombuffer(drawn, dtype=">u8")
    splits = np.full(len(labels), UNUSED, dtype=object)
    for pool, name in enumerate(SPLITS):
        served = [split for split in SPLITS if split == name or (name == "train" and split not in hints)]
        asked = {split: per_class[split] for split in served if per_class[split] > 0}
        if not asked or (pool > 0 and name not in hints):
            continue
        members = np.flatnonzero(pools == pool)
        sizes = np.bincount(labels[members], minlength=len(classes))
        shares = _shares(asked, sizes=sizes, classes=classes)
        members = members[np.lexsort((keys[members], labels[members]))]
        rank = np.arange(len(members)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # within the class
        start = 0
        for split, count in shares.items():
            splits[members[(rank >= start) & (rank < start + count)]] = split
            start += count
    return splits


def _shares(asked: Mapping[str, int], *, sizes: np.ndarray, classes: Sequence[str]) -> dict[str, int]:
    """Return photos a class for each split of `asked`, no more together than the smallest class holds."""
    smallest, total = int(sizes.min()), sum(asked.values())
    if smallest < len(asked):
        found = ", ".join(f"{size} of {name}" for name, size in zip(classes, sizes.tolist(), strict=True))
        raise UsageError(
            f"expected {len(asked)} usable photos or more of every class for {' and '.join(asked)}, found {found}: "
            "add photos, or ask for fewer splits"
        )
    shares = {split: max(1, count * min(smallest, total) // total) for split, count in asked.items()}
    while sum(shares.values()) > smallest:  # the 1 at least of a small split comes out of the largest
        shares[max(shares, key=lambda split: shares[split])] -= 1
    return shares
