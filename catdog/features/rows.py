"""The sources of a train worker's rows: its share of a cache, or of a stream that is recomputed each epoch."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from catdog.cluster.plan import Plan
from catdog.features.cache import FeatureCache
from catdog.features.spec import PHOTOS_PER_PART, Extraction
from catdog.features.stream import stream_features
from catdog.photos.sharded.photo_rows import PhotoRows

_CHUNK_BYTES = 512 * 2**20
_BLOCKS_PER_PIPELINE, _BLOCKS_PER_ACTOR = 1024, 64
_WINDOW = _BLOCKS_PER_PIPELINE * PHOTOS_PER_PART  # photos of a long epoch that are shuffled together
MEMORY_BYTES = 4 * 2**30  # of features that one share keeps from epoch to epoch


class RowSource(Protocol):
    """The source of a train worker's rows: `rows` per epoch, the same number on every worker."""

    rows: int

    @property
    def every_view_rows(self) -> int:
        """Rows of the share in all its views together."""

    def read_every_view(self, *, limit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the share in all its views, up to the block that reaches `limit` rows.

        The result is (N, …) features, (N,) int32 labels, and (N,) indices of their photos among those of all shares.
        """

    def epoch(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield chunks of ((N, …) features, (N,) int32 labels) for epoch `number`, counted from 0."""


class CachedRows:
    """One worker's share of a cache: consecutive photos, in each epoch in the next view and, with a seed, a new order.

    With `equal`, all workers get the same number of photos, so that their steps match; at most workers - 1 photos
    are left out. Without it, the shares cover every photo. The share has `rows` of `total` photos, starting at `first`.
    """

    def __init__(
        self,
        cache: FeatureCache,
        *,
        rank: int = 0,
        workers: int = 1,
        seed: int | None = None,
        equal: bool = False,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        content = cache.content
        total = sum(content.row_counts)
        share = total // workers if equal else math.ceil(total / workers)
        first = min(total, rank * share)
        self.rows = min(share, total - first)
        self.first, self.total = first, total
        self._cache, self._seed, self._memory_bytes = cache, seed, memory_bytes
        self._slices = _block_slices(content.row_counts, first, first + self.rows)
        self._memory: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def epoch(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the share's rows in chunks of up to 512 MiB, shuffled when a seed was given."""
        view = self._cache.views[number % len(self._cache.views)]
        slices, random = list(self._slices), None
        if self._seed is not None:
            random = np.random.default_rng([self._seed, number])
            random.shuffle(slices)
        a_chunk = max(1, _CHUNK_BYTES // (self._cache.content.row_bytes * PHOTOS_PER_PART))
        with ThreadPoolExecutor(8) as pool:
            for start in range(0, len(slices), a_chunk):
                chunk = slices[start : start + a_chunk]
                arrays = list(pool.map(lambda piece: self._read(view, *piece), chunk))
                labels = np.concatenate([pair[1] for pair in arrays])
                order = np.arange(len(labels)) if random is None else random.permutation(len(labels))
                places, row = np.argsort(order), 0
                features = np.empty((len(labels), *self._cache.content.shape), self._cache.content.dtype)
                for piece, _ in arrays:  # straight to its shuffled place, so that the features are copied only once
                    features[places[row : row + len(piece)]] = piece
                    row += len(piece)
                yield features, labels[order]

    @property
    def every_view_rows(self) -> int:
        """Rows of the share in all its views together."""
        return self.rows * len(self._cache.views)

    def read_every_view(self, *, limit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the share in all its views, up to the block that reaches `limit` rows; as RowSource has it."""
        wanted, rows = [], 0
        for piece in self._slices:
            if rows >= limit:
                break
            wanted += [(view, *piece) for view in self._cache.views]
            rows += (piece[2] - piece[1]) * len(self._cache.views)
        starts = np.cumsum(self._cache.content.row_counts) - self._cache.content.row_counts
        with ThreadPoolExecutor(8) as pool:
            arrays = list(pool.map(lambda piece: self._read(*piece), wanted))
        features, labels = (np.concatenate([pair[column] for pair in arrays]) for column in (0, 1))
        photos = [starts[block] + np.arange(start, stop) for _, block, start, stop in wanted]
        return features, labels, np.concatenate(photos)

    def _read(self, view: int, block: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        held = self._memory.get((view, block))
        if held is None:
            held = self._cache.read(view, block)
            if (len(self._memory) + 1) * self._cache.content.row_bytes * PHOTOS_PER_PART <= self._memory_bytes:
                self._memory[view, block] = held
        return held[0][start:stop], held[1][start:stop]


def _block_slices(row_counts: Sequence[int], first: int, last: int) -> list[tuple[int, int, int]]:
    """Return (block, start, stop) of each block that holds rows from `first` up to `last`."""
    found, row = [], 0
    for block, count in enumerate(row_counts):
        start, stop = max(first - row, 0), min(last - row, count)
        if start < stop:
            found.append((block, start, stop))
        row += count
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamSource:
    """Photos whose features do not fit the cache, and the views that the epochs take in turn."""

    photos: PhotoRows
    views: tuple[int, ...]
    extraction: Extraction


class StreamedRows:
    """One worker's share of photos whose features are recomputed each epoch, in the next view.

    A pipeline of Ray Data covers several short epochs, because starting a pipeline takes seconds. It covers only a part
    of a long epoch, because its list of blocks is made in advance. A long epoch is shuffled within windows of 1024
    blocks. These windows are random samples, because the photos are in the order of their digests.
    """

    def __init__(
        self, source: StreamSource, *, rank: int, workers: int, seed: int, epochs: int, pretrained: Any, plan: Plan
    ) -> None:
        self.rows = source.photos.count // workers
        self._first = rank * self.rows
        self._source, self._seed = source, seed
        self._epochs = max(epochs, len(source.views))
        self._pretrained, self._plan, self._workers = pretrained, plan, workers
        # Windows of a long epoch per pipeline: enough work for all its actors.
        self._together = max(1, _BLOCKS_PER_ACTOR * plan.actors // workers // _BLOCKS_PER_PIPELINE)
        self._stream: Iterator[tuple[np.ndarray, np.ndarray]] = iter(())
        self._ready = range(0)  # epochs that the stream still holds

    @property
    def every_view_rows(self) -> int:
        """Rows of the share in all its views together."""
        return int(self.rows) * len(self._source.views)

    def read_every_view(self, *, limit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the share in all its views, up to the block that reaches `limit` rows; as RowSource has it."""
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        rows = 0
        for number in range(len(self._source.views)):
            for (features, labels), photos in zip(self.epoch(number), self._blocks(number), strict=True):
                if rows < limit:
                    found.append((features, labels, photos))
                rows += len(labels)
            if rows >= limit:
                break
        features, labels, photos = (np.concatenate([part[column] for part in found]) for column in range(3))
        return features, labels, photos

    def _blocks(self, number: int) -> Iterator[np.ndarray]:
        """Yield the photos of each block of epoch `number`, as indices into those of all workers."""
        for order in self._orders(number):
            yield from (order[start : start + PHOTOS_PER_PART] for start in range(0, len(order), PHOTOS_PER_PART))

    def epoch(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the blocks of epoch `number`; read them to the end before you ask for another epoch."""
        if self.rows > _WINDOW:
            orders = self._orders(number)
            while some := list(itertools.islice(orders, self._together)):
                yield from self._open([(self._view(number), order) for order in some])
            return
        if not self._ready or self._ready[0] != number:
            self._start(number)
        left = self.rows
        while left > 0:
            features, labels = next(self._stream)
            left -= len(labels)
            yield features, labels
        self._ready = self._ready[1:]
        if not self._ready:
            for _ in self._stream:  # at its end the pipeline frees its actors, which the next one needs
                pass

    def _start(self, number: int) -> None:
        for _ in self._stream:
            pass
        blocks = math.ceil(self.rows / PHOTOS_PER_PART)
        count = max(1, _BLOCKS_PER_PIPELINE // max(1, blocks))
        self._ready = range(number, max(number + 1, min(number + count, self._epochs)))
        self._stream = self._open([(self._view(epoch), next(self._orders(epoch))) for epoch in self._ready])

    def _open(self, passes: list[tuple[int, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return stream_features(
            self._source.photos,
            passes,
            extraction=self._source.extraction,
            pretrained=self._pretrained,
            plan=self._plan,
            workers=self._workers,
        )

    def _view(self, number: int) -> int:
        return self._source.views[number % len(self._source.views)]

    def _orders(self, number: int) -> Iterator[np.ndarray]:
        """Yield the photos of the share for epoch `number`, one window at a time, each in random order."""
        random = np.random.default_rng([self._seed, number])
        if self.rows <= _WINDOW:
            yield self._first + random.permutation(self.rows)
            return
        for window in random.permutation(math.ceil(self.rows / _WINDOW)).tolist():
            start = window * _WINDOW
            inside = np.random.default_rng([self._seed, number, window])
            yield self._first + start + inside.permutation(min(_WINDOW, self.rows - start))
