"""Cached trunk features: what names them, how they are stored, how a train worker reads its share.

A cache is a directory of Parquet parts, one for each 64 photos and 4 views, with one row group for each view,
because an epoch reads one view. Parts have names that depend on their place alone, so a pass that was killed
goes on with the parts that are missing; the completion mark comes last.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from catdog.config import AugmentationConfig
from catdog.storage import artifacts, files

PLAIN_VIEW = 0
PHOTOS_A_PART = 64
VIEWS_A_PART = 4  # 64 photos in 4 views are 38 MB of uint8 images: one block of Ray Data
_CHUNK_BYTES = 512 * 2**20
MEMORY_BYTES = 4 * 2**30  # of features that one share keeps from epoch to epoch


class RowSource(Protocol):
    """Where a train worker's rows come from: `rows` of them every epoch, on every worker equally many."""

    rows: int

    def epoch(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield chunks of ((N, …) features, (N,) int32 labels) for epoch `number`, from 0 on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extraction:
    """All that decides the value of a feature; learning rate and dropout are not among it.

    `backbone`, `input_scale` and `input_offset` are those of model.ClassifierSpec; `pooling` is None where
    the cut lies before the pooling.
    """

    backbone: str
    image_size: int
    input_scale: tuple[float, float, float]
    input_offset: tuple[float, float, float]
    pooling: str | None
    weights_checksum: str
    cut: str
    dtype: str
    seed: int
    max_pixels: int
    augmentation: AugmentationConfig

    def fingerprint(self, photos: PhotoSet) -> str:
        """Return the name of the cache directory for the features of `photos`."""
        return artifacts.fingerprint({**dataclasses.asdict(self), "photos": photos.fingerprint(), "format": 1})


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoSet:
    """The photos of one split and the views they are taken in.

    `table` has the columns path, label, digest; its order is the order of the rows.
    """

    table: pa.Table
    views: tuple[int, ...]

    def fingerprint(self) -> str:
        """Return a name for the content: digests, labels and views; not the place of the files."""
        digests, labels = (self.table[name].to_pylist() for name in ("digest", "label"))
        rows = "\n".join(f"{digest} {label}" for digest, label in zip(digests, labels, strict=True))
        return artifacts.fingerprint({"rows": rows, "views": list(self.views)})

    @property
    def rows(self) -> int:
        """Photos times views."""
        return int(self.table.num_rows) * len(self.views)

    def parts(self) -> dict[str, tuple[pa.Table, tuple[int, ...]]]:
        """Return the work of the trunk pass by part name: (photos, views)."""
        found = {}
        for row in range(0, self.table.num_rows, PHOTOS_A_PART):
            for first in range(0, len(self.views), VIEWS_A_PART):
                views = self.views[first : first + VIEWS_A_PART]
                found[part_name(row // PHOTOS_A_PART, first)] = (self.table.slice(row, PHOTOS_A_PART), views)
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """A finished cache of one PhotoSet at one cut: what a train worker needs to read it.

    `row_counts` has the photos in each block of 64; a photo that vanished before the trunk pass is missing.
    """

    directory: str
    views: tuple[int, ...]
    row_counts: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one feature."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def read(self, view: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ((N, *shape) features, (N,) int32 labels) of one block of photos in `view`."""
        position = self.views.index(view)
        group = position % VIEWS_A_PART
        system, root = files.open_filesystem(self.directory)
        with system.open_input_file(f"{root}/{part_name(block, position - group)}") as file:
            table = pq.ParquetFile(file).read_row_group(group, columns=["label", "feature"])
        features = _from_binary(table["feature"], self.row_bytes).view(self.dtype).reshape(-1, *self.shape)
        return features, table["label"].to_numpy()

    def read_paths(self, *, blocks: int | None = None) -> list[str]:
        """Return the path of each photo, or of the first `blocks`, in the order of the rows.

        A path is as it was when the features were computed.
        """
        system, root = files.open_filesystem(self.directory)

        def read(block: int) -> list[str]:
            with system.open_input_file(f"{root}/{part_name(block, 0)}") as file:
                paths: list[str] = pq.ParquetFile(file).read_row_group(0, columns=["path"])["path"].to_pylist()
                return paths

        with ThreadPoolExecutor(8) as pool:
            found = pool.map(read, (block for block, count in enumerate(self.row_counts[:blocks]) if count))
            return [path for paths in found for path in paths]

    def read_first(self, rows: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return features, labels and paths of whole blocks in the first view, up to `rows` photos or a block more."""
        starts = np.cumsum(self.row_counts) - self.row_counts
        blocks = int(np.searchsorted(starts, rows))
        with ThreadPoolExecutor(8) as pool:
            filled = [block for block in range(blocks) if self.row_counts[block]]
            found = list(pool.map(lambda block: self.read(self.views[0], block), filled))
        features, labels = (np.concatenate([pair[column] for pair in found]) for column in (0, 1))
        return features, labels, self.read_paths(blocks=blocks)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachePlace:
    """Where a cache of `views` of the photos of fingerprint `photos` stands, or will stand once it is finished."""

    directory: str
    photos: str
    views: tuple[int, ...]

    def find(self) -> FeatureCache | None:
        """Return the finished cache, None while it is not."""
        summary = artifacts.completed(self.directory, inputs={"photos": self.photos})
        if summary is None:
            return None
        return FeatureCache(
            directory=self.directory,
            views=self.views,
            row_counts=tuple(summary["row_counts"]),
            shape=tuple(summary["shape"]),
            dtype=summary["dtype"],
        )


class CachedRows:
    """One worker's share of a cache: a run of photos, each epoch in the next view and another order.

    With `equal`, all workers get the same number of photos, so their steps match; at most workers - 1 photos
    are left out then. Without, the shares cover every photo. Of `total` photos the share has `rows` from `first` on.
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
        total = sum(cache.row_counts)
        share = total // workers if equal else math.ceil(total / workers)
        first = min(total, rank * share)
        self.rows = min(share, total - first)
        self.first, self.total = first, total
        self._cache, self._seed, self._memory_bytes = cache, seed, memory_bytes
        self._slices = _block_slices(cache.row_counts, first, first + self.rows)
        self._memory: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def epoch(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the share's rows in chunks of up to 512 MiB, shuffled when a seed was given."""
        view = self._cache.views[number % len(self._cache.views)]
        slices, random = list(self._slices), None
        if self._seed is not None:
            random = np.random.default_rng([self._seed, number])
            random.shuffle(slices)
        a_chunk = max(1, _CHUNK_BYTES // (self._cache.row_bytes * PHOTOS_A_PART))
        with ThreadPoolExecutor(8) as pool:
            for start in range(0, len(slices), a_chunk):
                chunk = slices[start : start + a_chunk]
                arrays = list(pool.map(lambda piece: self._read(view, *piece), chunk))
                labels = np.concatenate([pair[1] for pair in arrays])
                order = np.arange(len(labels)) if random is None else random.permutation(len(labels))
                places, row = np.argsort(order), 0
                features = np.empty((len(labels), *self._cache.shape), self._cache.dtype)
                for piece, _ in arrays:  # to its shuffled place at once: the features are copied once
                    features[places[row : row + len(piece)]] = piece
                    row += len(piece)
                yield features, labels[order]

    def _read(self, view: int, block: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        held = self._memory.get((view, block))
        if held is None:
            held = self._cache.read(view, block)
            if (len(self._memory) + 1) * self._cache.row_bytes * PHOTOS_A_PART <= self._memory_bytes:
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


def feature_bytes(photos: PhotoSet, *, shape: tuple[int, ...], dtype: str) -> int:
    """Return how many bytes the cache of `photos` takes."""
    return photos.rows * math.prod(shape) * np.dtype(dtype).itemsize


def cache_directory(extraction: Extraction, photos: PhotoSet, *, root: str) -> str:
    """Return where below `root` the cache of `photos` stands or will stand."""
    return files.join(root, extraction.fingerprint(photos))


def locate_cache(extraction: Extraction, photos: PhotoSet, *, root: str) -> CachePlace:
    """Return where below `root` the cache of `photos` stands or will stand, to be looked for without its photos."""
    directory = cache_directory(extraction, photos, root=root)
    return CachePlace(directory=directory, photos=photos.fingerprint(), views=photos.views)


def find_cache(extraction: Extraction, photos: PhotoSet, *, root: str) -> FeatureCache | None:
    """Return the finished cache of `photos` below `root`, or None."""
    return locate_cache(extraction, photos, root=root).find()


def present_parts(directory: str) -> set[str]:
    """Return the names of the parts that stand in `directory`, each of them whole."""
    files.make_directory(directory)
    system, inside = files.open_filesystem(directory)
    found = system.get_file_info(fs.FileSelector(inside, allow_not_found=True))
    return {entry.base_name for entry in found if entry.base_name.endswith(".parquet")}


def finish_cache(extraction: Extraction, photos: PhotoSet, *, root: str) -> list[str]:
    """Mark a cache complete whose parts all stand; return the photos that were lost, each with its reason."""
    directory = cache_directory(extraction, photos, root=root)
    system, inside = files.open_filesystem(directory)

    def describe(block: int) -> tuple[int, dict[bytes, bytes]]:
        with system.open_input_file(f"{inside}/{part_name(block, 0)}") as file:
            footer = pq.read_metadata(file)
        return (footer.row_group(0).num_rows if footer.num_row_groups else 0), footer.metadata

    with ThreadPoolExecutor(8) as pool:
        described = list(pool.map(describe, range(math.ceil(photos.table.num_rows / PHOTOS_A_PART))))
    lost = [text for _, metadata in described for text in metadata[b"lost"].decode().split("\n") if text]
    metadata = described[0][1]
    artifacts.mark_complete(
        directory,
        inputs={"photos": photos.fingerprint()},
        summary={
            "row_counts": [count for count, _ in described],
            "shape": [int(side) for side in metadata[b"shape"].decode().split(",")],
            "dtype": metadata[b"dtype"].decode(),
            "cut": extraction.cut,
            "lost": lost,
        },
    )
    return lost


def part_name(block: int, first_view: int) -> str:
    """Return the file name of block `block` for the views from position `first_view` on."""
    return f"part-{block:06d}-view-{first_view:04d}.parquet"


def write_part(path: str, rows: dict[str, np.ndarray], features: np.ndarray, *, lost: Sequence[str]) -> None:
    """Write one Parquet part, whole or not at all: a row group for each view.

    The feature is its bytes, little-endian, row-major; shape and dtype stand in the schema's metadata.
    """
    row_bytes = math.prod(features.shape[1:]) * features.itemsize
    schema = pa.schema(
        [
            ("path", pa.string()),
            ("label", pa.int32()),
            ("view", pa.int32()),
            ("feature", pa.binary(row_bytes)),
        ],
        metadata={
            "shape": ",".join(str(side) for side in features.shape[1:]),
            "dtype": features.dtype.name,
            "lost": "\n".join(lost),
        },
    )
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="none", use_dictionary=False, write_statistics=False) as writer:
        for view in dict.fromkeys(rows["view"].tolist()):
            chosen = np.flatnonzero(rows["view"] == view)
            writer.write_table(
                pa.table(
                    [
                        pa.array(rows["path"][chosen], pa.string()),
                        pa.array(rows["label"][chosen], pa.int32()),
                        pa.array(rows["view"][chosen], pa.int32()),
                        _to_binary(features[chosen], row_bytes),
                    ],
                    schema=schema,
                )
            )
    files.write_bytes(path, sink.getvalue())


def _to_binary(features: np.ndarray, row_bytes: int) -> pa.Array:
    content = pa.py_buffer(np.ascontiguousarray(features))
    return pa.Array.from_buffers(pa.binary(row_bytes), len(features), [None, content])


def _from_binary(column: pa.ChunkedArray, row_bytes: int) -> np.ndarray:
    chunks = [
        np.frombuffer(chunk.buffers()[1], np.uint8)[chunk.offset * row_bytes :][: len(chunk) * row_bytes]
        for chunk in column.chunks
    ]
    return (chunks[0] if len(chunks) == 1 else np.concatenate(chunks)).reshape(-1, row_bytes)
