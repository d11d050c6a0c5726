"""The manifest: every usable photo with its class and split, and every file that was rejected with the reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catdog.errors import FailureError
from catdog.storage.files import join, read_bytes, write_bytes
from catdog.storage.schemas import MANIFEST, REJECTED, SPLITS, UNUSED, check_schema

UNEVEN_RATIO = 1.5  # between the photos of the largest and the smallest class
_SHOWN_CLASSES = 20


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The usable photos with label and split, and the files rejected, each table sorted by path.

    `table` has the schema rows.MANIFEST, `rejected` rows.REJECTED; label i is `classes[i]`.
    """

    table: pa.Table
    rejected: pa.Table
    classes: tuple[str, ...]

    def select(self, split: str) -> pa.Table:
        """Return the rows of `split`, by path."""
        return self.table.filter(pc.equal(self.table["split"], split))

    def counts(self) -> dict[str, dict[str, int]]:
        """Return photos by split (UNUSED too) and class name."""
        counts = {split: dict.fromkeys(self.classes, 0) for split in (*SPLITS, UNUSED)}
        grouped = self.table.group_by(["split", "class"]).aggregate([([], "count_all")])
        for row in grouped.to_pylist():
            counts[row["split"]][row["class"]] = row["count_all"]
        return counts

    def summary_lines(self) -> list[str]:
        """Return the console lines: photos by class and split, imbalance, and reasons, most frequent first."""
        counts = self.counts()
        used = {name: sum(counts[split][name] for split in SPLITS) for name in self.classes}
        total, unused = self.table.num_rows, sum(counts[UNUSED].values())
        lines = [
            f"Found {total} images belonging to {len(self.classes)} classes.",
            f"Classes: {_by_class({name: used[name] + counts[UNUSED][name] for name in self.classes})}.",
            f"Splits: {', '.join(f'{split} {sum(counts[split].values())}{_each(counts[split])}' for split in SPLITS)}.",
            f"{total + self.rejected.num_rows} files: {total - unused} used, {unused} unused, "
            f"{self.rejected.num_rows} rejected.",
        ]
        few, many = (pick(used, key=lambda name: used[name]) for pick in (min, max))
        if used[many] > UNEVEN_RATIO * used[few]:
            lines.append(
                f"Imbalanced classes: {used[many]} of {many}, {used[few]} of {few}; training uses class weights "
                "(--class-weights none turns them off)."
            )
        return lines + self._reason_lines()

    def _reason_lines(self) -> list[str]:
        examples: dict[str, tuple[str, str]] = {}
        reasons: Counter[str] = Counter()
        for path, reason in zip(*(self.rejected[name].to_pylist() for name in ("path", "reason")), strict=True):
            code, _, message = reason.partition(": ")
            reasons[code] += 1
            examples.setdefault(code, (path, message))
        return [
            f"  {count} {code}, such as {examples[code][0]}: {examples[code][1]}"
            for code, count in reasons.most_common()
        ]


def _by_class(counts: Mapping[str, int]) -> str:
    shown = [f"{name} {count}" for name, count in counts.items()]
    hidden = len(shown) - _SHOWN_CLASSES
    return ", ".join(shown if hidden <= 0 else [*shown[:_SHOWN_CLASSES], f"and {hidden} more"])


def _each(counts: Mapping[str, int]) -> str:
    """Return how the photos of one split are shared out among the classes, in brackets; nothing for no photos."""
    low, high = min(counts.values()), max(counts.values())
    if not high:
        return ""
    return f" ({low if low == high else f'{low} to {high}'} per class)"


def write_manifest(manifest: Manifest, *, directory: str) -> None:
    """Write rejected.parquet, then manifest.parquet, into `directory`, a local path or URI; each whole or not at all.

    Raises FailureError when the place cannot be written.
    """
    named = {b"catdog.classes": json.dumps(manifest.classes).encode()}
    tables = {"rejected": manifest.rejected, "manifest": manifest.table.replace_schema_metadata(named)}
    for name, table in tables.items():
        content = pa.BufferOutputStream()
        pq.write_table(table, content, compression="zstd")
        write_bytes(join(directory, f"{name}.parquet"), content.getvalue())


def read_manifest(directory: str) -> Manifest:
    """Read what `write_manifest` wrote.

    Raises FailureError when a file is missing, damaged or of another version.
    """
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
        table = pq.read_table(pa.BufferReader(read_bytes(path)))
    except (OSError, pa.ArrowInvalid) as error:
        raise FailureError(f"cannot read {path}: {error}; delete it and run the step again") from error
    if "look" in table.column_names:  # its name in an earlier version
        table = table.rename_columns({"look": "perceptual_hash"}).replace_schema_metadata(table.schema.metadata)
    if schema is MANIFEST and "perceptual_hash" not in table.column_names:  # of a version before that
        table = table.append_column("perceptual_hash", pa.nulls(table.num_rows, pa.uint64()))
    return check_schema(table, schema, where=path)
