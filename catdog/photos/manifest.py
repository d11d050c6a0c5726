"""The manifest: every usable photo with its class and split, and every file that was rejected with the reason."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from catdog.errors import FailureError
from catdog.photos.sharded.manifest import INDEX_FILE, ShardedManifest, read_sharded
from catdog.photos.sharded.photo_rows import PhotoRows
from catdog.photos.sharded.summary import Rejected, empty_counts, summary_lines
from catdog.storage import files
from catdog.storage.files import join
from catdog.storage.schemas import MANIFEST, REJECTED, check_schema
from catdog.storage.tables import read_parquet, write_parquet


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The usable photos with label and split, and the rejected files; both tables are sorted by path.

    `table` has the schema schemas.MANIFEST, `rejected` schemas.REJECTED. Label i is `classes[i]`.
    """

    table: pa.Table
    rejected: pa.Table
    classes: tuple[str, ...]

    def select(self, split: str) -> pa.Table:
        """Return the rows of `split`, sorted by path."""
        return self.table.filter(pc.equal(self.table["split"], split))

    def photos(self, split: str) -> PhotoRows:
        """Return the photos of `split`, sorted by digest."""
        return PhotoRows.of(self.select(split).sort_by("digest"))

    @property
    def rejected_count(self) -> int:
        """The number of rejected files."""
        return int(self.rejected.num_rows)

    def sample(self, photos: int) -> pa.Table:
        """Return rows (schemas.MANIFEST) of all splits.

        This class returns all rows. ShardedManifest stops once it has at least `photos`.
        """
        return self.table

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of photos by split (including UNUSED) and class name."""
        counts = empty_counts(self.classes)
        grouped = self.table.group_by(["split", "class"]).aggregate([([], "count_all")])
        for row in grouped.to_pylist():
            counts[row["split"]][row["class"]] = row["count_all"]
        return counts

    def summary_lines(self) -> list[str]:
        """Return the console lines: photos by class and split, imbalance, and reasons, most frequent first."""
        return summary_lines(self.counts(), self._reasons())

    def _reasons(self) -> list[Rejected]:
        first: dict[str, tuple[str, str]] = {}
        counts: Counter[str] = Counter()
        for path, reason in zip(*(self.rejected[name].to_pylist() for name in ("path", "reason")), strict=True):
            code = reason.partition(": ")[0]
            counts[code] += 1
            first.setdefault(code, (path, reason))
        return [
            Rejected(count=count, path=first[code][0], reason=first[code][1]) for code, count in counts.most_common()
        ]


AnyManifest = Manifest | ShardedManifest


def write_manifest(manifest: Manifest, *, directory: str) -> None:
    """Write rejected.parquet, then manifest.parquet, into `directory`, a local path or URI; each atomically.

    Raises FailureError when `directory` cannot be written.
    """
    named = {b"catdog.classes": json.dumps(manifest.classes).encode()}
    tables = {"rejected": manifest.rejected, "manifest": manifest.table.replace_schema_metadata(named)}
    for name, table in tables.items():
        write_parquet(join(directory, f"{name}.parquet"), table, compression="zstd")


def read_manifest(directory: str) -> AnyManifest:
    """Read what `write_manifest` or `write_sharded` wrote.

    Raises FailureError when a file is missing, damaged or from another version.
    """
    if files.exists(join(directory, INDEX_FILE)):
        return read_sharded(directory)
    table, rejected = (
        _read_parquet(join(directory, f"{name}.parquet"), schema)
        for name, schema in (("manifest", MANIFEST), ("rejected", REJECTED))
    )
    named = (table.schema.metadata or {}).get(b"catdog.classes")
    if named is None:
        raise FailureError(f"{directory}/manifest.parquet names no classes: delete it and run the step again")
    return Manifest(table=table.replace_schema_metadata(None), rejected=rejected, classes=tuple(json.loads(named)))


def _read_parquet(path: str, schema: pa.Schema) -> pa.Table:
    try:
        table = read_parquet(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise FailureError(f"cannot read {path}: {error}; delete it and run the step again") from error
    if "look" in table.column_names:  # the column's name in an earlier version
        table = table.rename_columns({"look": "perceptual_hash"}).replace_schema_metadata(table.schema.metadata)
    if schema is MANIFEST and "perceptual_hash" not in table.column_names:  # from a version before that
        table = table.append_column("perceptual_hash", pa.nulls(table.num_rows, pa.uint64()))
    return check_schema(table, schema, where=path)
