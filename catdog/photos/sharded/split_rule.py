"""The rule that gives each photo its split, and the counts from which it is made.

Each range of digests counts its photos and applies the rule on its own. The rule gives the same splits as
splits.split_photos for photos without groups.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from catdog.photos.splits import (
    ALL,
    apply_caps,
    asked_splits,
    cut_by_place,
    draw_places,
    share_out,
    split_bounds,
    too_few,
)
from catdog.storage.schemas import UNUSED

Counts = dict[tuple[str, int], int]  # photos by pool and label
Asked = dict[str, dict[str, int]]  # by pool: as asked_splits returns it
_Key = tuple[str, int, int]  # pool, label, number of the split


@dataclasses.dataclass(frozen=True, kw_only=True)
class Places:
    """What ranges report about the places of their photos: the count in each split, and the first places of each.

    `first` has at most as many places as `_limits` returns, sorted. It is empty if a split takes all photos. If all
    splits of a pool have numbers, the pool is not cut yet, and all its photos count for the first split.
    """

    counts: dict[_Key, int]
    first: dict[_Key, np.ndarray]


def pools_of(rows: pa.Table) -> np.ndarray:
    """Return the pool of each of `rows`: its split hint, or train."""
    return np.array([hint or "train" for hint in rows["hint"].to_pylist()], dtype=object)


def is_counted(asked: Mapping[str, int]) -> bool:
    """Return whether every split has a number, so that the line is cut at ranks."""
    return ALL not in asked.values()


def _limits(asked: Mapping[str, int]) -> list[int]:
    """Return how many of the first places of each split the rule needs, 0 if none."""
    if is_counted(asked):
        return [sum(asked.values()) + 1]
    return [0 if most == ALL else most + 1 for most in asked.values()]


def find_places(rows: pa.Table, asked: Asked, *, seed: int) -> Places:
    """Return the counts and first places of one range, whose `rows` have digest, hint and label."""
    pools, labels = pools_of(rows), rows["label"].to_numpy()
    places = draw_places(rows["digest"].to_pylist(), seed=seed)
    counts: dict[_Key, int] = {}
    first: dict[_Key, np.ndarray] = {}
    for pool, wanted in asked.items():
        limits = _limits(wanted)
        chosen = np.zeros(len(labels), np.int64)
        if not is_counted(wanted):
            _, ends = split_bounds(wanted)
            chosen = np.minimum(np.searchsorted(ends, places, side="right"), len(wanted) - 1)
        inside = np.flatnonzero(pools == pool)
        inside = inside[np.lexsort((places[inside], chosen[inside], labels[inside]))]
        keys, starts = np.unique(labels[inside] * len(wanted) + chosen[inside], return_index=True)
        stops = np.append(starts, len(inside))[1:] if len(starts) else starts
        for key, start, stop in zip(keys.tolist(), starts.tolist(), stops.tolist(), strict=True):
            label, split = divmod(key, len(wanted))
            counts[pool, label, split] = stop - start
            first[pool, label, split] = places[inside[start : min(stop, start + limits[split])]]
    return Places(counts=counts, first=first)


def add_places(found: Iterable[Places], asked: Asked) -> Places:
    """Return the sum of what ranges report, keeping no more places in memory than the sum needs."""
    counts: dict[_Key, int] = {}
    first: dict[_Key, np.ndarray] = {}
    for one in found:
        for key, count in one.counts.items():
            pool, _, split = key
            counts[key] = counts.get(key, 0) + count
            both = np.concatenate([first.get(key, np.zeros(0)), one.first[key]])
            first[key] = np.sort(both)[: _limits(asked[pool])[split]]
    return Places(counts=counts, first=first)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolRule:
    """How the photos of a pool are split among the S `splits`, for each of K classes.

    `ends` (K, S - 1) has the place on the line where each split except the last ends. `caps` (K, S) has the place from
    which on a split takes no more photos.
    """

    splits: tuple[str, ...]
    ends: np.ndarray
    caps: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitRule:
    """The rule of each pool. `moved` has the split of each digest of the classes that are too small for the rule."""

    seed: int
    pools: dict[str, PoolRule]
    moved: dict[str, str]

    def apply(self, rows: pa.Table) -> np.ndarray:
        """Return the split of each of `rows`, which have digest, hint and label."""
        pools, labels, digests = pools_of(rows), rows["label"].to_numpy(), rows["digest"].to_pylist()
        places = draw_places(digests, seed=self.seed)
        splits = np.full(len(labels), UNUSED, dtype=object)
        for pool, rule in self.pools.items():
            members = np.flatnonzero(pools == pool)
            chosen = (places[members, np.newaxis] >= rule.ends[labels[members]]).sum(axis=1)
            used = places[members] < rule.caps[labels[members], chosen]
            splits[members[used]] = np.array(rule.splits, dtype=object)[chosen[used]]
        if self.moved:
            for row, digest in enumerate(digests):
                splits[row] = self.moved.get(digest, splits[row])
        return splits


def small_classes(found: Places, asked: Asked, *, classes: int) -> dict[str, list[int]]:
    """Return by pool the classes that would have no photo in some split: their photos are split separately."""
    small = {}
    for pool, wanted in asked.items():
        if not is_counted(wanted):
            splits = range(len(wanted))
            small[pool] = [
                label for label in range(classes) if not all((pool, label, split) in found.counts for split in splits)
            ]
    return {pool: labels for pool, labels in small.items() if labels}


def make_rule(
    found: Places,
    asked: Asked,
    few: Mapping[str, tuple[Sequence[int], pa.Table]],
    *,
    classes: Sequence[str],
    seed: int,
) -> SplitRule:
    """Return the rule for what all ranges found.

    `few` has by pool the `small_classes` and their photos, sorted by path. Raises UsageError if a class has fewer
    photos than there are splits to draw.
    """
    pools, moved = {}, dict[str, str]()
    for pool, wanted in asked.items():
        if is_counted(wanted):
            pools[pool] = _rule_by_rank(found, pool, wanted, classes)
            continue
        if pool in few:
            moved |= _split_few(*few[pool], wanted, classes, seed=seed)
        _, ends = split_bounds(wanted)
        caps = np.full((len(classes), len(wanted)), np.inf)
        for split, most in enumerate(wanted.values()):
            for label in range(len(classes)) if most != ALL else ():
                places = found.first.get((pool, label, split), np.zeros(0))
                caps[label, split] = places[most] if len(places) > most else np.inf
        pools[pool] = PoolRule(splits=tuple(wanted), ends=np.tile(ends[:-1], (len(classes), 1)), caps=caps)
    return SplitRule(seed=seed, pools=pools, moved=moved)


def _rule_by_rank(found: Places, pool: str, asked: Mapping[str, int], classes: Sequence[str]) -> PoolRule:
    sizes = [found.counts.get((pool, label, 0), 0) for label in range(len(classes))]
    if min(sizes) < len(asked):
        raise too_few(sizes, asked, classes)
    ends, caps = np.full((len(classes), len(asked) - 1), np.inf), np.full((len(classes), len(asked)), np.inf)
    for label, size in enumerate(sizes):
        places = found.first[pool, label, 0]
        stops = np.cumsum(share_out(size, asked))
        starts = np.concatenate([[0], stops[:-1]])
        ends[label] = [places[rank] if rank < len(places) else np.inf for rank in stops[:-1].tolist()]
        full = [start + most for start, most in zip(starts.tolist(), asked.values(), strict=True)]
        for split, rank in enumerate(full):
            if rank < stops[split]:
                caps[label, split] = places[rank]
    return PoolRule(splits=tuple(asked), ends=ends, caps=caps)


def _split_few(
    small: Sequence[int], rows: pa.Table, asked: Mapping[str, int], classes: Sequence[str], *, seed: int
) -> dict[str, str]:
    """Return the split of each digest of `rows`, all photos of a pool in the `small` classes."""
    digests = rows["digest"].to_pylist()
    places = draw_places(digests, seed=seed)
    labels = np.searchsorted(small, rows["label"].to_numpy())
    chosen = cut_by_place(places, labels, asked, [classes[number] for number in small])
    splits = np.array(list(asked), dtype=object)[chosen]
    apply_caps(splits, np.arange(len(digests)), places, labels, asked)
    return dict(zip(digests, splits.tolist(), strict=True))


def asked_of(counts: Counts, per_class: Mapping[str, int]) -> Asked:
    """Return what `asked_splits` returns for the pools that have photos in `counts`."""
    return asked_splits({pool for (pool, _), count in counts.items() if count}, per_class)
