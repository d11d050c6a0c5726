"""From photos to the manifest: classes from folders or names, checked and deduplicated photos, balanced splits.

    source --list--> paths --assign_classes--> labels and split hints
                       └--inspect_photos (Ray Data: read, sha256, decode)--> digest, size, perceptual_hash or reason
    both --reject duplicates, split_photos--> Manifest

Photo bytes never leave the task that read them: the driver sees one small row a photo.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catdog.console import say
from catdog.errors import FailureError, UsageError
from catdog.photos.annotations.class_layout import assign_classes
from catdog.photos.annotations.corrections import LEFT_OUT, Corrections, apply_corrections
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.inspection import Progress, inspect_photos
from catdog.photos.sources.files import Photo, list_photos
from catdog.photos.splits import split_photos
from catdog.storage.files import join, read_bytes, write_bytes
from catdog.storage.schemas import MANIFEST, REJECTED, SPLITS, UNUSED, check_schema


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
        """Return what was found, for people: the train split's line, then counts, then reasons, most frequent first."""
        counts = self.counts()
        totals = {split: sum(of_class.values()) for split, of_class in counts.items()}
        # Splits are balanced, so the first class speaks for all.
        splits = ", ".join(f"{split} {totals[split]} ({counts[split][self.classes[0]]} a class)" for split in SPLITS)
        files, used = self.table.num_rows + self.rejected.num_rows, self.table.num_rows - totals[UNUSED]
        lines = [
            f"Found {totals['train']} images belonging to {len(self.classes)} classes.",
            f"Classes: {', '.join(self.classes)}.",
            f"Splits: {splits}.",
            f"{files} files: {used} used, {totals[UNUSED]} unused, {self.rejected.num_rows} rejected.",
        ]
        examples: dict[str, tuple[str, str]] = {}
        reasons: Counter[str] = Counter()
        for path, reason in zip(*(self.rejected[name].to_pylist() for name in ("path", "reason")), strict=True):
            code, _, message = reason.partition(": ")
            reasons[code] += 1
            examples.setdefault(code, (path, message))
        lines += [
            f"  {count} {code}, such as {examples[code][0]}: {examples[code][1]}"
            for code, count in reasons.most_common()
        ]
        return lines


def build_manifest(
    source: str,
    *,
    train_per_class: int,
    validation_per_class: int,
    test_per_class: int,
    seed: int,
    limits: DecodeLimits,
    corrections: Corrections | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Find, check, deduplicate and split the photos of `source`, a folder, URI or zip archive.

    Every file found ends in one of the two tables. `progress` is called with (photos done, photos in
    all).
    Raises UsageError when there are no photos, fewer than two classes, too few photos for the splits, or corrections
    that do not fit them.
    """
    photos = list_photos(source)
    layout, assigned = assign_classes([photo.relative for photo in photos], source=source)
    left_out: list[tuple[str, str | None]] = []
    if corrections is not None:
        corrected = apply_corrections(corrections, [photo.path for photo in photos], assigned, classes=layout.classes)
        say(corrected.line)
        left_out = [(photos[place].path, LEFT_OUT) for place in corrected.left_out]
        kept = [place for place in range(len(photos)) if place not in corrected.left_out]
        photos, assigned = [photos[place] for place in kept], [corrected.assigned[place] for place in kept]
    table = _label_photos(photos, assigned, classes=layout.classes)
    paths, labels = table["path"].to_pylist(), table["label"].to_numpy()
    inspected = inspect_photos(paths, limits=limits, progress=progress)
    copies = reject_copies(paths, labels=labels, digests=inspected["digest"], classes=layout.classes)
    reasons = [copies.get(row, reason) for row, reason in enumerate(inspected["reason"].to_pylist())]
    _require_every_class(layout.classes, labels=labels, reasons=reasons, source=source)
    for name in ("digest", "width", "height", "perceptual_hash"):
        table = table.append_column(name, inspected[name])
    table = table.filter(pa.array([reason is None for reason in reasons]))
    splits = split_photos(
        table["label"].to_numpy(),
        digests=table["digest"].to_pylist(),
        hints=table["hint"].to_pylist(),
        classes=layout.classes,
        per_class=dict(zip(SPLITS, (train_per_class, validation_per_class, test_per_class), strict=True)),
        seed=seed,
    )
    unclassed = [(photo.path, layout.no_class) for photo, found in zip(photos, assigned, strict=True) if not found]
    unusable = [pair for pair in zip(paths, reasons, strict=True) if pair[1]]
    return Manifest(
        table=table.append_column("split", pa.array(splits)).select(MANIFEST.names).cast(MANIFEST),
        rejected=_rejected_table([*left_out, *unclassed, *unusable]),
        classes=layout.classes,
    )


def _rejected_table(pairs: Iterable[tuple[str, str | None]]) -> pa.Table:
    rows = [{"path": path, "reason": reason} for path, reason in sorted(pairs)]
    return pa.Table.from_pylist(rows, schema=REJECTED)


def _label_photos(
    photos: Sequence[Photo], assigned: Sequence[tuple[str | None, str] | None], *, classes: Sequence[str]
) -> pa.Table:
    """Return path, hint, class and label of the photos that have a class."""
    rows = [(photo.path, *found) for photo, found in zip(photos, assigned, strict=True) if found]
    paths, hints, names = (pa.array(column, pa.string()) for column in zip(*rows, strict=True))
    return pa.table({"path": paths, "hint": hints, "class": names, "label": pc.index_in(names, pa.array(classes))})


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
        table = table.rename_columns({"look": "perceptual_hash"})
    if schema is MANIFEST and "perceptual_hash" not in table.column_names:  # of a version before that
        table = table.append_column("perceptual_hash", pa.nulls(table.num_rows, pa.uint64()))
    return check_schema(table, schema, where=path)


def reject_copies(
    paths: Sequence[str], *, labels: np.ndarray, digests: pa.ChunkedArray, classes: Sequence[str]
) -> dict[int, str]:
    """Return the reason to reject each photo whose bytes were seen before, by position in `paths` (sorted).

    The first of equal photos in one class stays; equal photos in two classes contradict each other, and none stays.
    """
    indices = digests.combine_chunks().dictionary_encode().indices  # null for a photo already rejected
    codes = pc.fill_null(indices, -1).to_numpy(zero_copy_only=False)
    repeated = np.bincount(codes[codes >= 0], minlength=1) > 1
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for position in np.flatnonzero((codes >= 0) & repeated[codes]).tolist():
        groups[codes[position]].append(position)
    reasons: dict[int, str] = {}
    for first, *others in groups.values():
        rival = next((position for position in others if labels[position] != labels[first]), None)
        if rival is None:
            reasons |= dict.fromkeys(others, f"duplicate: same bytes as {paths[first]}")
            continue
        for position in (first, *others):
            against = rival if labels[position] == labels[first] else first
            reasons[position] = f"conflict: same bytes as {paths[against]} of class {classes[labels[against]]}"
    return reasons


def _require_every_class(
    classes: Sequence[str], *, labels: np.ndarray, reasons: Sequence[str | None], source: str
) -> None:
    """Raise UsageError, with the reasons counted, when a class has no usable photo."""
    missing = set(range(len(classes))) - set(labels[[reason is None for reason in reasons]].tolist())
    for label in sorted(missing):
        codes = Counter(str(reasons[row]).partition(":")[0] for row in np.flatnonzero(labels == label).tolist())
        counted = ", ".join(f"{count} {code}" for code, count in codes.most_common())
        raise UsageError(
            f"expected usable photos of every class in {source}, found none of {classes[label]} "
            f"({counted}): add photos of it or take its folder away"
        )
