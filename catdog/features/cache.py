"""Cached trunk features: how they are stored, found and read.

A cache is a directory of Parquet parts, one for each 64 photos and 4 views, with one row group for each view,
because an epoch reads one view. The name of a part depends only on its position, so a pass that was killed
resumes with the missing parts. The completion mark is written last.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from catdog.errors import FailureError
from catdog.features.spec import VIEWS_PER_PART, Extraction, PhotoSet, part_name
from catdog.storage import artifacts, files

_FOOTERS_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheContent:
    """The row counts, shape and dtype of a finished cache.

    `row_counts` has the number of photos in each block, without those that were unreadable in the trunk pass.
    """

    row_counts: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one feature."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """The cache of one PhotoSet at one cut, finished or not: what a train worker needs to find and read it.

    `photos` is the fingerprint of the PhotoSet.
    """

    directory: str
    photos: str
    views: tuple[int, ...]

    def is_finished(self) -> bool:
        """Return whether the cache is marked complete; raise FailureError or UsageError as artifacts.completed does."""
        return self._summary() is not None

    @functools.cached_property
    def content(self) -> CacheContent:
        """Row counts, shape and dtype, read once; raises FailureError when the cache is not finished."""
        summary = self._summary()
        if summary is None:
            raise FailureError(f"expected finished features in {self.directory}, found none; run the command again")
        return CacheContent(
            row_counts=tuple(summary["row_counts"]), shape=tuple(summary["shape"]), dtype=summary["dtype"]
        )

    def read(self, view: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ((N, *shape) features, (N,) int32 labels) of one block of photos in `view`."""
        position = self.views.index(view)
        group = position % VIEWS_PER_PART
        system, root = files.open_filesystem(self.directory)
        with system.open_input_file(f"{root}/{part_name(block, position - group)}") as file:
            table = pq.ParquetFile(file).read_row_group(group, columns=["label", "feature"])
        features = _from_binary(table["feature"], self.content.row_bytes)
        return features.view(self.content.dtype).reshape(-1, *self.content.shape), table["label"].to_numpy()

    def read_paths(self, *, blocks: int | None = None) -> list[str]:
        """Return the path of each photo, or of those in the first `blocks` blocks, in the order of the rows.

        The paths are those at the time when the features were computed.
        """
        system, root = files.open_filesystem(self.directory)

        def read(block: int) -> list[str]:
            with system.open_input_file(f"{root}/{part_name(block, 0)}") as file:
                paths: list[str] = pq.ParquetFile(file).read_row_group(0, columns=["path"])["path"].to_pylist()
                return paths

        with ThreadPoolExecutor(8) as pool:
            found = pool.map(read, (block for block, count in enumerate(self.content.row_counts[:blocks]) if count))
            return [path for paths in found for path in paths]

    def read_first(self, rows: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return features, labels and paths in the first view, of as many whole blocks as `rows` photos need."""
        counts = self.content.row_counts
        blocks = int(np.searchsorted(np.cumsum(counts) - counts, rows))
        with ThreadPoolExecutor(8) as pool:
            filled = [block for block in range(blocks) if counts[block]]
            found = list(pool.map(lambda block: self.read(self.views[0], block), filled))
        features, labels = (np.concatenate([pair[column] for pair in found]) for column in (0, 1))
        return features, labels, self.read_paths(blocks=blocks)

    def present_parts(self) -> set[str]:
        """Return the names of the parts that exist; each is complete."""
        files.make_directory(self.directory)
        system, inside = files.open_filesystem(self.directory)
        found = system.get_file_info(fs.FileSelector(inside, allow_not_found=True))
        return {entry.base_name for entry in found if entry.base_name.endswith(".parquet")}

    def finish(self, *, blocks: int, cut: str) -> list[str]:
        """Mark the cache complete once all `blocks` blocks exist; return the unreadable photos with their reasons."""
        system, inside = files.open_filesystem(self.directory)

        def describe(block: int) -> tuple[int, list[str], dict[bytes, bytes]]:
            with system.open_input_file(f"{inside}/{part_name(block, 0)}") as file:
                footer = pq.read_metadata(file)
            lost = [text for text in footer.metadata[b"lost"].decode().split("\n") if text]
            # Shape and dtype are the same in all footers. There are many, so only one is kept.
            return (footer.row_group(0).num_rows if footer.num_row_groups else 0), lost, footer.metadata

        row_counts, unreadable = list[int](), list[str]()
        metadata: dict[bytes, bytes] = {}
        with ThreadPoolExecutor(8) as pool:
            for start in range(0, blocks, _FOOTERS_AT_ONCE):
                for count, lost, described in pool.map(describe, range(start, min(start + _FOOTERS_AT_ONCE, blocks))):
                    row_counts.append(count)
                    unreadable += lost
                    metadata = metadata or described
        artifacts.mark_complete(
            self.directory,
            inputs={"photos": self.photos},
            summary={
                "row_counts": row_counts,
                "shape": [int(side) for side in metadata[b"shape"].decode().split(",")],
                "dtype": metadata[b"dtype"].decode(),
                "cut": cut,
                "lost": unreadable,
            },
        )
        return unreadable

    def _summary(self) -> dict[str, Any] | None:
        return artifacts.completed(self.directory, inputs={"photos": self.photos})


def locate_cache(extraction: Extraction, photos: PhotoSet, *, root: str) -> FeatureCache:
    """Return the cache of `photos` below `root`, whether or not its features have been computed."""
    directory = files.join(root, extraction.fingerprint(photos))
    return FeatureCache(directory=directory, photos=photos.fingerprint, views=photos.views)


def write_part(path: str, rows: dict[str, np.ndarray], features: np.ndarray, *, unreadable: Sequence[str]) -> None:
    """Write one Parquet part atomically, with a row group for each view.

    A feature is stored as its bytes, little-endian and row-major; shape and dtype are in the schema's metadata.
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
            "lost": "\n".join(unreadable),  # the key in the parts that exist on disks
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
