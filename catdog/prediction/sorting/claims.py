"""Decides, by Ray tasks, which photo gets a file name that several photos of a folder claim.

    result files --the name that each photo claims--> partitions of the names: the first photo in order keeps a name
         ^------- photos that lost their name, and claim their next one -------'

No process holds all photos. The rounds repeat until no photo loses a name. All names prefer the same photo, the earlier
one. So the result is that of one pass over all photos in order, in which each takes its first free name (Gale and
Shapley 1962, College admissions and the stability of marriage). Names travel as 64 bits of a hash. With 100 million
names, two share a hash by chance in one of 3,700 jobs. They are then kept apart as if they were the same name.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from catdog.cluster.actors import task_errors
from catdog.prediction.results.commit import ResultFile
from catdog.prediction.sorting.names import UNREADABLE, as_compared, name_of

_CLAIMS_PER_PARTITION = 4_000_000  # 64 MB, and as much again for sorting them

# For each photo, how many of its names others have: the `level` of `names.name_of`. None if it is 0 for all.
Levels = np.ndarray | None


def settle_names(results: Sequence[ResultFile], *, num_cpus: float) -> list[Any]:
    """Return, for each of `results`, an object reference to the Levels of its rows; each task reserves `num_cpus`.

    The driver holds a few hundred bytes for each file and partition. Raises FailureError if a file cannot be read.
    """
    import ray

    partitions = max(1, -(-sum(result.rows for result in results) // _CLAIMS_PER_PARTITION))
    claim = ray.remote(num_cpus=num_cpus, num_returns=1 + partitions)(claim_names)
    settle = ray.remote(num_cpus=num_cpus, num_returns=3)(settle_claims)
    levels: list[Any] = [None] * len(results)
    held: list[Any] = [None] * partitions
    lost: list[Any] = []
    with task_errors():
        while True:
            claimed = [
                claim.remote(result, partitions, level, *lost) for result, level in zip(results, levels, strict=True)
            ]
            levels = [references[0] for references in claimed]
            settled = [
                settle.remote(holders, *(references[1 + place] for references in claimed))
                for place, holders in enumerate(held)
            ]
            held, lost, counts = ([references[place] for references in settled] for place in range(3))
            if not sum(ray.get(counts)):
                return levels


def claim_names(result: ResultFile, partitions: int, levels: Levels, *lost: np.ndarray) -> list[Any]:
    """Return the new Levels of the rows of `result`, and their claims in each partition of the names.

    A claim is (name, row), both uint64. Without `lost`, in the first round, all rows claim. Later only the rows that
    lost their name do.
    """
    if lost:
        found = [rows[slice(*np.searchsorted(rows, (result.first, result.first + result.rows)))] for rows in lost]
        places = np.sort(np.concatenate(found)).astype(np.int64) - result.first
        if not len(places):
            return [levels, *[np.empty((0, 2), np.uint64)] * partitions]
        levels = np.zeros(result.rows, np.uint8) if levels is None else levels.copy()
        levels[places] += 1
    else:
        places = np.arange(result.rows)
    rows = read_places(result).take(pa.array(places))
    wanted = zip(rows["path"].to_pylist(), rows["label"].to_pylist(), _of(levels, places), strict=True)
    names = np.fromiter((_hashed(label, name_of(path, level)) for path, label, level in wanted), np.uint64, len(places))
    claims = np.stack([names, places.astype(np.uint64) + np.uint64(result.first)], axis=1)
    parts = names % np.uint64(partitions)
    return [levels, *(claims[parts == part] for part in range(partitions))]


def _of(levels: Levels, places: np.ndarray) -> Sequence[int]:
    chosen: list[int] = [0] * len(places) if levels is None else levels[places].tolist()
    return chosen


def _hashed(label: str | None, name: str) -> int:
    text = f"{label or UNREADABLE}/{as_compared(name)}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def settle_claims(held: np.ndarray | None, *claims: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Give each name to the first row that claims or holds it.

    Returns the new holders in the form of `held`, the sorted rows that lost their claim or their name, and the number
    of these rows.
    """
    known = np.empty((0, 2), np.uint64) if held is None else held
    if held is not None and not any(len(some) for some in claims):
        return known, np.empty(0, np.uint64), 0
    both = np.concatenate([known, *claims])
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    first = np.ones(len(both), bool)
    first[1:] = both[1:, 0] != both[:-1, 0]
    lost = np.sort(both[~first, 1])
    return both[first], lost, len(lost)


@functools.lru_cache(maxsize=1)
def read_places(result: ResultFile) -> pa.Table:
    """Return path and label of each row of `result`; the last table is cached for calls on other rows of it."""
    return result.read().select(["path", "label"])
