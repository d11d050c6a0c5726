"""A manifest in shards: totals over all its photos. Their rows stay in files until they are used."""

from __future__ import annotations

import dataclasses

import pyarrow as pa

from catdog.errors import FailureError
from catdog.photos.sharded.photo_rows import PhotoRows, RowShard
from catdog.photos.sharded.ranges import WrittenShard
from catdog.photos.sharded.summary import Rejected, summary_lines
from catdog.storage import files
from catdog.storage.schemas import MANIFEST, SPLITS
from catdog.storage.tables import read_parquet

INDEX_FILE = "manifest.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardedManifest:
    """The usable photos in the shards of `directory`, consecutive ranges of digests; label i is `classes[i]`.

    `totals` counts photos by split (including UNUSED) and class name. `reasons` counts the rejected photos, most
    frequent reason first.
    """

    directory: str
    classes: tuple[str, ...]
    totals: dict[str, dict[str, int]]
    shards: tuple[WrittenShard, ...]
    reasons: tuple[Rejected, ...]

    @property
    def rejected_count(self) -> int:
        """The number of rejected files."""
        return sum(one.count for one in self.reasons)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of photos by split (including UNUSED) and class name."""
        return self.totals

    def photos(self, split: str) -> PhotoRows:
        """Return the photos of `split` sorted by digest; they are read where they are used."""
        return PhotoRows(
            tuple(
                RowShard(rows=shard.rows[split], path=self._path(shard), split=split)
                for shard in self.shards
                if shard.rows.get(split)
            )
        )

    def sample(self, photos: int) -> pa.Table:
        """Return rows (schemas.MANIFEST) of the first shards by digest, until they have `photos` photos in splits."""
        found, rows = [MANIFEST.empty_table()], 0
        for shard in self.shards:
            if rows < photos:
                found.append(read_parquet(self._path(shard), schema=MANIFEST))
                rows += sum(shard.rows.get(split, 0) for split in SPLITS)
        return pa.concat_tables(found)

    def summary_lines(self) -> list[str]:
        """Return the console lines, as `Manifest.summary_lines` does."""
        return summary_lines(self.totals, self.reasons)

    def _path(self, shard: WrittenShard) -> str:
        return files.join(self.directory, "shards", shard.name)


def write_sharded(manifest: ShardedManifest) -> None:
    """Write the index file (classes, counts, shards, reasons) next to the shards."""
    files.write_json(
        files.join(manifest.directory, INDEX_FILE),
        {
            "classes": list(manifest.classes),
            "counts": manifest.totals,
            "shards": [dataclasses.asdict(shard) for shard in manifest.shards],
            "rejected": [dataclasses.asdict(one) for one in manifest.reasons],
        },
    )


def read_sharded(directory: str) -> ShardedManifest:
    """Read what `write_sharded` wrote. Raises FailureError if it is damaged."""
    path = files.join(directory, INDEX_FILE)
    found = files.read_json(path)
    try:
        return ShardedManifest(
            directory=directory,
            classes=tuple(found["classes"]),
            totals=found["counts"],
            shards=tuple(WrittenShard(**shard) for shard in found["shards"]),
            reasons=tuple(Rejected(**one) for one in found["rejected"]),
        )
    except (KeyError, TypeError) as error:
        raise FailureError(f"{path} is damaged: delete it and run the step again") from error
