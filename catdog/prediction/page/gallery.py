"""Chooses the prediction rows that a page shows: a seeded sample of bounded size, drawn in one pass."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catdog.storage.schemas import UNSURE

MAX_PHOTOS = 400  # each takes about 6 kB of the page
_PER_GROUP = 60  # photos of each kind for each label
_ERRORS_PER_CODE = 100
_NAMES = 5_000  # first rows, and as many more that are errors or unsure
_BINS = 50
_SEED = 0

# Why a photo is shown.
LEAST_CONFIDENT, AT_RANDOM, WRONG, DIFFERENT = "least confident", "at random", "wrong", "models differ"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """What a page shows of the rows.

    `photos` are rows with `kinds`, the reasons why they are shown, and `true`, the name of their true class or None.
    `histograms` has, for each label, the counts in equal bins of the probability from 0 to 1. `names` are the rows
    that can be searched.
    """

    rows: int
    photos: list[dict[str, Any]]
    labels: dict[str, int]
    histograms: dict[str, list[int]]
    errors: list[dict[str, Any]]
    error_counts: dict[str, int]
    names: list[dict[str, Any]]

    @property
    def searched_all(self) -> bool:
        """Whether every row is among `names`."""
        return len(self.names) == self.rows


def choose_rows(
    tables: Iterable[pa.Table], *, classes: Sequence[str], unsure: bool, true: Iterable[np.ndarray] | None = None
) -> Shown:
    """Choose what a page shows from `tables` of prediction rows, which are read once, in order, and not kept.

    `unsure` says whether UNSURE is one of the labels. `true` has, for each table, the true label of each row, of shape
    (rows,), -1 for none. The same rows give the same choice.
    """
    labels = [*classes, *([UNSURE] if unsure else [])]
    groups = min(_PER_GROUP, max(1, MAX_PHOTOS // (2 * len(labels) + 2)))
    sampler = _RowSampler(labels, classes=classes, most=groups)
    for table, known in zip(tables, itertools.repeat(None) if true is None else true, strict=False):
        sampler.add(table, np.full(table.num_rows, -1) if known is None else known)
    return sampler.shown()


class _SmallestK:
    """The places of the k smallest keys of a stream."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._keys, self.places = np.empty(0), np.empty(0, np.int64)

    def add(self, keys: np.ndarray, places: np.ndarray) -> None:
        if len(keys) > self._most:  # a cheap cut before the exact one, which breaks ties by place
            edge = np.partition(keys, self._most - 1)[self._most - 1]
            places, keys = places[keys <= edge], keys[keys <= edge]
        keys, places = np.concatenate([self._keys, keys]), np.concatenate([self.places, places])
        order = np.lexsort((places, keys))[: self._most]
        self._keys, self.places = keys[order], places[order]


class _RowSampler:
    def __init__(self, labels: Sequence[str], *, classes: Sequence[str], most: int) -> None:
        self._labels, self._classes = list(labels), list(classes)
        self._kept = {(kind, label): _SmallestK(most) for kind in (LEAST_CONFIDENT, AT_RANDOM) for label in labels}
        self._kept |= {(kind, ""): _SmallestK(most) for kind in (WRONG, DIFFERENT)}
        self._first = _SmallestK(MAX_PHOTOS)  # the first rows with a label; if there are no more, all are shown
        self._rows: dict[int, dict[str, Any]] = {}
        self._histograms = {label: np.zeros(_BINS, np.int64) for label in labels}
        self._errors: list[dict[str, Any]] = []
        self._names: list[dict[str, Any]] = []
        self._open_names = 0
        self._counts: Counter[str] = Counter()
        self._error_counts: Counter[str] = Counter()
        self._start = 0

    def add(self, table: pa.Table, true: np.ndarray) -> None:
        """Sample the rows of `table`, which follow those of the table before; `true` are their true labels, or -1."""
        places = np.arange(self._start, self._start + table.num_rows)
        label_ids = pc.index_in(table["label"], value_set=pa.array(self._labels, pa.string()))
        found = label_ids.fill_null(-1).to_numpy().astype(np.int64)
        probability = table["probability"].fill_null(0.0).to_numpy().astype(np.float64)
        # The chance of a row depends only on its place, not on how the rows are cut into files.
        chance = np.random.Generator(np.random.PCG64(_SEED).advance(self._start)).random(table.num_rows)
        for label_id, label in enumerate(self._labels):
            these = np.flatnonzero(found == label_id)
            self._counts[label] += len(these)
            self._histograms[label] += np.histogram(probability[these], bins=_BINS, range=(0, 1))[0]
            self._kept[LEAST_CONFIDENT, label].add(probability[these], places[these])
            self._kept[AT_RANDOM, label].add(chance[these], places[these])
        these = np.flatnonzero(found >= 0)
        self._first.add(places[these].astype(np.float64), places[these])
        sure = (found >= 0) & (found < len(self._classes))
        these = np.flatnonzero(sure & (true >= 0) & (true != found))
        self._kept[WRONG, ""].add(-probability[these], places[these])
        if "second_label" in table.column_names:
            differ = pc.not_equal(table["label"], table["second_label"]).fill_null(False).to_numpy()
            both = np.minimum(probability, table["second_probability"].fill_null(0.0).to_numpy())
            these = np.flatnonzero(differ)
            self._kept[DIFFERENT, ""].add(-both[these], places[these])
        self._keep_rows(table, true)
        self._note_errors(table, found)
        self._note_names(table, found)
        self._start += table.num_rows

    def _keep_rows(self, table: pa.Table, true: np.ndarray) -> None:
        kept = {int(place) for smallest in (self._first, *self._kept.values()) for place in smallest.places}
        self._rows = {place: row for place, row in self._rows.items() if place in kept}
        wanted = sorted(place for place in kept if place >= self._start)
        chosen = np.array(wanted, np.int64) - self._start
        for place, row, label in zip(wanted, table.take(pa.array(chosen)).to_pylist(), true[chosen], strict=True):
            self._rows[place] = {**row, "true": None if label < 0 else self._classes[int(label)]}

    def _note_errors(self, table: pa.Table, found: np.ndarray) -> None:
        errors = table.take(pa.array(np.flatnonzero(found < 0))).filter(pc.field("error").is_valid())
        for row in errors.select(["path", "error"]).to_pylist():
            code = row["error"].partition(":")[0]
            self._error_counts[code] += 1
            if self._error_counts[code] <= _ERRORS_PER_CODE:
                self._errors.append(row)

    def _note_names(self, table: pa.Table, found: np.ndarray) -> None:
        columns = ["path", "label", "probability"]
        first = max(0, min(table.num_rows, _NAMES - self._start))
        self._names += table.select(columns).slice(0, first).to_pylist()
        # The classes come first among the labels, so a row of any other number is unsure or has an error.
        still_open = np.flatnonzero((found < 0) | (found >= len(self._classes)))
        still_open = still_open[still_open >= first][: _NAMES - self._open_names]
        self._open_names += len(still_open)
        self._names += table.select(columns).take(pa.array(still_open)).to_pylist()

    def shown(self) -> Shown:
        """Return what was chosen, in the order of the rows."""
        kinds: dict[int, list[str]] = {}
        for (kind, _), smallest in self._kept.items():
            for place in smallest.places.tolist():
                kinds.setdefault(place, []).append(kind)
        if sum(self._counts.values()) <= MAX_PHOTOS:
            for place in self._first.places.tolist():
                kinds.setdefault(place, [])
        photos = [{**self._rows[place], "kinds": kinds[place]} for place in sorted(kinds)]
        return Shown(
            rows=self._start,
            photos=photos,
            labels={label: self._counts[label] for label in self._labels},
            histograms={label: counts.tolist() for label, counts in self._histograms.items()},
            errors=self._errors,
            error_counts=dict(self._error_counts.most_common()),
            names=self._names,
        )


def common_prefix(paths: Sequence[str]) -> str:
    """Return the folder that contains all `paths`, with a slash at its end, or ""."""
    if not paths:
        return ""
    first, last = min(paths), max(paths)
    same = next(
        (index for index, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(map(len, (first, last)))
    )
    return first[: first.rfind("/", 0, same) + 1]


def summarize_kinds(photos: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many of `photos` are shown for each reason, in a fixed order."""
    counts = Counter(kind for photo in photos for kind in photo["kinds"])
    return {kind: counts[kind] for kind in (WRONG, DIFFERENT, LEAST_CONFIDENT, AT_RANDOM) if counts[kind]}
