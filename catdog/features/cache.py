"""Cached trunk features: how they are stored, found and read.

A cache is a directory of Parquet parts, one for each 64 photos and 4 views, with one row group for each view,
because an epoch reads one view. Parts have names that depend on their place alone, so a pass that was killed
goes on with the parts that are missing; the completion mark comes last.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from catdog.features.spec import PHOTOS_PER_PART, VIEWS_PER_PART, Extraction, PhotoSet, part_name
from catdog.storage import artifacts, files


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
        group = position % VIEWS_PER_PART
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
        described = list(pool.map(describe, range(math.ceil(photos.table.num_rows / PHOTOS_PER_PART))))
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
