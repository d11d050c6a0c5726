"""The steps of a sharded ingest, run by tasks: inspect and merge the photos of a shard, reduce and write a key range.

    shard of the listing --inspect--> results, kept next to the manifest
                         --merge----> usable photos in ranges of digests, and rejected photos
    range of digests     --reduce---> photos without copies, from which the split rule is made
                         --write----> a shard of the manifest

Copies have equal digests, so they are in the same range. The consecutive ranges are in the order of training.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catdog.photos.inspection import Inspector, reject_copies
from catdog.photos.sharded.labels import PhotoLabels, kept_labels
from catdog.photos.sharded.split_rule import Asked, Counts, Places, SplitRule, find_places, pools_of
from catdog.photos.sharded.tally import NO_CLASS, Tally, tally_rejected
from catdog.photos.sources.listing.shards import SetDigest, Shard
from catdog.storage import files
from catdog.storage.schemas import MANIFEST, REJECTED
from catdog.storage.tables import read_parquet, write_parquet

_READS_AT_ONCE = 16
_USABLE = pa.schema(
    [
        ("path", pa.string()), ("hint", pa.string()), ("label", pa.int32()), ("digest", pa.string()),
        ("width", pa.int32()), ("height", pa.int32()), ("perceptual_hash", pa.uint64()),
    ]
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stretch:
    """Photos [start, stop) of a shard of the listing: the work of one inspection task."""

    shard: Shard
    start: int
    stop: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class WrittenShard:
    """A shard of the manifest: its file, and the number of its photos in each split."""

    name: str
    rows: dict[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """The steps of an ingest into the manifest `directory`. Each step is a method that a task runs."""

    directory: str
    labels: PhotoLabels
    inspector: Inspector
    photos_per_task: int
    ranges: int
    seed: int

    def inspect(self, stretch: Stretch, tries: int) -> None:
        """Inspect the photos of `stretch` that have a class, unless this is already done; keep the results."""
        rows, _ = self._labelled(stretch)
        if rows.num_rows:
            self.inspector(rows, tries)

    def _labelled(self, stretch: Stretch) -> tuple[pa.Table, list[tuple[str, str]]]:
        shard, place = stretch.shard, slice(stretch.start, stretch.stop)
        recorded = kept_labels(recorded_folder(self.directory), shard.name) if self.labels.are_recorded else []
        return self.labels.apply(_read_listed(shard)[place], recorded[place])

    def stretches(self, shard: Shard) -> list[Stretch]:
        """Return the stretches of `shard`, one for each inspection task."""
        size = self.photos_per_task
        starts = range(0, shard.rows, size)
        return [Stretch(shard=shard, start=start, stop=min(start + size, shard.rows)) for start in starts]

    def merge(self, shard: Shard, tries: int) -> Tally:
        """Partition the photos of `shard` by range of digests; write and count the unusable ones."""
        found: list[pa.Table] = []
        rejected: list[tuple[str, str, int]] = []
        for stretch in self.stretches(shard):
            rows, without = self._labelled(stretch)
            rejected += [(path, reason, NO_CLASS) for path, reason in without]
            if rows.num_rows:
                inspected = self.inspector(rows, tries)  # the kept results
                for name in inspected.column_names:
                    rows = rows.append_column(name, inspected[name])
                found.append(rows)
        good = _USABLE.empty_table()
        if found:
            merged = pa.concat_tables(found)
            bad = merged.filter(pc.is_valid(merged["reason"]))
            rejected += list(zip(*(bad[name].to_pylist() for name in ("path", "reason", "label")), strict=True))
            good = merged.filter(pc.is_null(merged["reason"])).select(_USABLE.names)
        self._write_ranges(good, shard.name)
        return self._reject(rejected, f"listed-{shard.name}")

    def _write_ranges(self, rows: pa.Table, name: str) -> None:
        """Write `rows` as the file of a shard, with one batch for each range."""
        rows = rows.sort_by("digest").combine_chunks()
        starts = [int(digest[:8], 16) * self.ranges >> 32 for digest in rows["digest"].to_pylist()]
        bounds = np.searchsorted(starts, np.arange(self.ranges + 1))
        empty = pa.RecordBatch.from_pylist([], schema=rows.schema)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, rows.schema) as writer:
            for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
                batches = rows.slice(start, stop - start).combine_chunks().to_batches() if stop > start else []
                writer.write_batch(batches[0] if batches else empty)
        files.write_bytes(self._merged(name), sink.getvalue())

    def reduce(self, number: int, shards: Sequence[str]) -> tuple[Counts, Tally]:
        """Gather the photos of range `number` from all `shards` and reject copies; count kept and rejected photos."""
        with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
            batches = list(pool.map(lambda name: self._read_batch(name, number), shards))
        rows = pa.Table.from_batches(batches, schema=_USABLE).sort_by("path")
        paths, labels = rows["path"].to_pylist(), rows["label"].to_numpy()
        copies = reject_copies(paths, labels=labels, digests=rows["digest"], classes=self.labels.classes)
        kept = np.ones(len(paths), bool)
        kept[list(copies)] = False
        usable = rows.filter(pa.array(kept))
        write_parquet(self._usable(number), usable.sort_by("digest"), compression="zstd")
        counts = Counter(zip(pools_of(usable).tolist(), usable["label"].to_pylist(), strict=True))
        rejected = [(paths[row], reason, int(labels[row])) for row, reason in copies.items()]
        return dict(counts), self._reject(rejected, f"range-{number:05d}")

    def _read_batch(self, name: str, number: int) -> pa.RecordBatch:
        system, inside = files.open_filesystem(self._merged(name))
        with system.open_input_file(inside) as file:
            return pa.ipc.open_file(file).get_batch(number)

    def find_places(self, number: int, asked: Asked) -> Places:
        """Return the counts and first places of range `number` for the split rule."""
        return find_places(self._read_usable(number, ["digest", "hint", "label"]), asked, seed=self.seed)

    def select(self, number: int, wanted: dict[str, list[int]]) -> dict[str, pa.Table]:
        """Return path, digest and label of the photos of range `number` that are of the `wanted` classes, by pool."""
        rows = self._read_usable(number, ["path", "digest", "hint", "label"])
        pools, labels = pools_of(rows), rows["label"].to_numpy()
        return {
            pool: rows.filter(pa.array((pools == pool) & np.isin(labels, classes))).select(["path", "digest", "label"])
            for pool, classes in wanted.items()
        }

    def write(self, number: int, rule: SplitRule) -> tuple[WrittenShard, dict[tuple[str, str], int]]:
        """Write range `number` as a shard of the manifest by digest; return it with its counts by split and class."""
        rows = self._read_usable(number, _USABLE.names)
        names = np.array(self.labels.classes, dtype=object)[rows["label"].to_numpy()]
        splits = rule.apply(rows)
        rows = rows.append_column("class", pa.array(names, pa.string()))
        rows = rows.append_column("split", pa.array(splits, pa.string())).select(MANIFEST.names).cast(MANIFEST)
        name = f"{number:05d}.parquet"
        write_parquet(files.join(self.directory, "shards", name), rows, compression="zstd")
        counts = Counter(zip(splits.tolist(), names.tolist(), strict=True))
        return WrittenShard(name=name, rows=dict(Counter(splits.tolist()))), dict(counts)

    def _reject(self, photos: list[tuple[str, str, int]], name: str) -> Tally:
        rows = [{"path": path, "reason": reason} for path, reason, _ in sorted(photos)]
        if rows:
            table = pa.Table.from_pylist(rows, schema=REJECTED)
            write_parquet(files.join(self.directory, "rejected", f"{name}.parquet"), table, compression="zstd")
        return tally_rejected(photos)

    def _read_usable(self, number: int, columns: list[str]) -> pa.Table:
        return read_parquet(self._usable(number), columns=columns)

    def _merged(self, name: str) -> str:
        return files.join(self.directory, "merged", f"{name}.arrow")

    def _usable(self, number: int) -> str:
        return files.join(self.directory, "ranges", f"{number:05d}.parquet")


def recorded_folder(directory: str) -> str:
    """Return the folder of the recorded labels of an ingest into the manifest `directory`."""
    return files.join(directory, "recorded")


def _read_listed(shard: Shard) -> pa.Table:
    return _read_file(shard.first, shard.path) if shard.path else shard.read()


@functools.lru_cache(maxsize=1)  # stretches of one shard come one after the other
def _read_file(first: str, path: str) -> pa.Table:
    return Shard(first=first, digest=SetDigest(), path=path).read()
