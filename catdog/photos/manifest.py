"""From photos to the manifest: classes from folders or names, checked and deduplicated photos, balanced splits.

    source --list--> paths --assign_classes--> labels and split hints
                       └--inspect_photos (Ray Data: read, sha256, decode)--> digest, width, height, look or reason
    both --reject duplicates, split_photos--> Manifest

Photo bytes never leave the task that read them: the driver sees one small row a photo.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data
import ray.exceptions
from ray.util.annotations import RayDeprecationWarning

from catdog.errors import FailureError, ImageError, UsageError
from catdog.evaluation.near_duplicates import hash_pictures
from catdog.photos.class_layout import assign_classes
from catdog.photos.corrections import LEFT_OUT, Corrections, apply_corrections
from catdog.photos.decode import inspect_image
from catdog.photos.files import Photo, list_photos, read_photo
from catdog.storage.files import join, read_bytes, write_bytes
from catdog.storage.schemas import MANIFEST, REJECTED, SPLITS, UNUSED, check_schema

Progress = Callable[[int, int], None]

PHOTOS_PER_BLOCK = 256  # about a second of reading and decoding on one core, so that progress is live
MAX_BLOCKS = 4096  # more would cost the driver more than they bring
PROGRESS_SECONDS = 0.5
MAX_RETRIES = 3

_INSPECTED = pa.schema(
    [
        pa.field("position", pa.int64()),  # in the list of paths
        pa.field("digest", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("look", pa.uint64()),
        pa.field("reason", pa.string()),  # null for a usable photo
    ]
)


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
        files = self.table.num_rows + self.rejected.num_rows
        lines = [
            f"Found {totals['train']} images belonging to {len(self.classes)} classes.",
            f"Classes: {', '.join(self.classes)}.",
            f"Splits: {splits}.",
            f"Of {files} files {totals[UNUSED]} are left over and {self.rejected.num_rows} rejected.",
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
    max_pixels: int,
    corrections: Corrections | None = None,
    note: Callable[[str], None] = lambda line: None,
    progress: Progress | None = None,
) -> Manifest:
    """Find, check, deduplicate and split the photos of `source`, a folder, URI or zip archive.

    Every file found ends in one of the two tables. `note` gets a line on what the corrections did, `progress` is called
    with (photos done, photos in all).
    Raises UsageError when there are no photos, fewer than two classes, too few photos for the splits, or corrections
    that do not fit them.
    """
    photos = list_photos(source)
    layout, assigned = assign_classes([photo.relative for photo in photos], source=source)
    left_out: list[tuple[str, str | None]] = []
    if corrections is not None:
        corrected = apply_corrections(corrections, [photo.path for photo in photos], assigned, classes=layout.classes)
        note(corrected.line)
        left_out = [(photos[place].path, LEFT_OUT) for place in corrected.left_out]
        kept = [place for place in range(len(photos)) if place not in corrected.left_out]
        photos, assigned = [photos[place] for place in kept], [corrected.assigned[place] for place in kept]
    table = _label_photos(photos, assigned, classes=layout.classes)
    paths, labels = table["path"].to_pylist(), table["label"].to_numpy()
    inspected = inspect_photos(paths, max_pixels=max_pixels, progress=progress)
    copies = reject_copies(paths, labels=labels, digests=inspected["digest"], classes=layout.classes)
    reasons = [copies.get(row, reason) for row, reason in enumerate(inspected["reason"].to_pylist())]
    _require_every_class(layout.classes, labels=labels, reasons=reasons, source=source)
    for name in ("digest", "width", "height", "look"):
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
    if schema is MANIFEST and "look" not in table.column_names:  # of an earlier version
        table = table.append_column("look", pa.nulls(table.num_rows, pa.uint64()))
    return check_schema(table, schema, where=path)


# Inspection


def inspect_photos(paths: Sequence[str], *, max_pixels: int, progress: Progress | None = None) -> pa.Table:
    """Read and decode every photo over the cluster; return one row each, in the order of `paths`.

    Columns: position, digest (sha256, hex), width and height in pixels, look (perceptual hash), reason (null for a
    usable photo).
    """
    found, done, reported = [_INSPECTED.empty_table()], 0, time.monotonic()
    if progress:
        progress(0, len(paths))
    try:
        for batch in _inspections(paths, max_pixels=max_pixels):
            found.append(batch)
            done += batch.num_rows
            if progress and (done == len(paths) or time.monotonic() - reported >= PROGRESS_SECONDS):
                progress(done, len(paths))
                reported = time.monotonic()
    except ray.exceptions.WorkerCrashedError as error:
        raise FailureError(
            f"a process checking photos died {MAX_RETRIES + 1} times on the same few ({done} of {len(paths)} done); "
            "it ran out of memory, or a photo breaks the decoder; lower --max-pixels or add memory"
        ) from error
    result = pa.concat_tables(found).sort_by("position")
    if not np.array_equal(result["position"].to_numpy(), np.arange(len(paths))):
        raise FailureError(f"expected a row for each of {len(paths)} photos, got {done}: run the step again")
    return result


def _inspections(paths: Sequence[str], *, max_pixels: int) -> Iterator[pa.Table]:
    """Yield the inspected rows of each block as it is done, in any order."""
    table = pa.table({"position": np.arange(len(paths)), "path": pa.array(paths, pa.string())})
    rows = _rows_per_block(len(paths), cpus=ray.cluster_resources().get("CPU", 1.0))
    blocks = ray.data.from_arrow([table.slice(start, rows) for start in range(0, len(paths), rows)])
    with warnings.catch_warnings():
        # Ray Data 2.60 would start for ever a task whose photo kills its process, and bounds that in this way only,
        # which it will take away in 2.64.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        inspected = blocks.map_batches(
            _inspect_block,
            fn_kwargs={"max_pixels": max_pixels},
            batch_size=None,  # one task a block
            batch_format="pyarrow",
            num_cpus=1,
            ray_remote_args_fn=lambda: {"max_retries": MAX_RETRIES},
        )
    yield from inspected.iter_batches(batch_size=None, batch_format="pyarrow")


def _rows_per_block(photos: int, *, cpus: float) -> int:
    """Return photos a task: enough to outweigh its start, few enough that every CPU has one."""
    share = math.ceil(photos / max(cpus, 1.0))
    return max(min(share, PHOTOS_PER_BLOCK), 16, math.ceil(photos / MAX_BLOCKS))


def _inspect_block(block: pa.Table, *, max_pixels: int) -> pa.Table:
    rows = [_inspect_photo(path, max_pixels=max_pixels) for path in block["path"].to_pylist()]
    # All at once: one by one the arithmetic would take twice as long as a photo's whole hash.
    usable = [row for row in rows if "gray" in row]
    for row, look in zip(usable, hash_pictures([row.pop("gray") for row in usable]).to_pylist(), strict=True):
        row["look"] = look
    positions = block["position"].to_pylist()
    return pa.Table.from_pylist([{"position": at} | row for at, row in zip(positions, rows, strict=True)], _INSPECTED)


def _inspect_photo(path: str, *, max_pixels: int) -> dict[str, Any]:
    try:
        content = read_photo(path)
        width, height, gray = inspect_image(content, max_pixels=max_pixels)
    except ImageError as error:
        return {"reason": str(error)}
    return {"digest": hashlib.sha256(content).hexdigest(), "width": width, "height": height, "gray": gray}


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
    lost = set(range(len(classes))) - set(labels[[reason is None for reason in reasons]].tolist())
    for label in sorted(lost):
        codes = Counter(str(reasons[row]).partition(":")[0] for row in np.flatnonzero(labels == label).tolist())
        counted = ", ".join(f"{count} {code}" for code, count in codes.most_common())
        raise UsageError(
            f"expected usable photos of every class in {source}, found none of {classes[label]} "
            f"({counted}): add photos of it or take its folder away"
        )


# Splits


def split_photos(
    labels: np.ndarray,
    *,
    digests: Sequence[str],
    hints: Sequence[str | None],
    classes: Sequence[str],
    per_class: Mapping[str, int],
    seed: int,
) -> np.ndarray:
    """Return the split of each photo, (n,) strings: the same number of photos of every class in a split.

    Photos are drawn in the order of sha256(seed, digest) within their class, so the split depends on the photos'
    content and `seed` alone, and a few more photos move few. A split that some photos are hinted to takes those only;
    the others are drawn, train first, from the rest. `per_class` are ceilings: where the smallest class holds fewer
    than the splits drawn from it ask for together, all shrink in proportion, rounded down, to 1 at least.
    What no split takes is UNUSED. Raises UsageError when a split that is asked for would be empty.
    """
    pool_of_hint = {hint: SPLITS.index(hint or "train") for hint in {*hints, None}}
    pools = np.array([pool_of_hint[hint] for hint in hints], dtype=np.int8)
    drawn = b"".join(hashlib.sha256(f"{seed}:{digest}".encode()).digest()[:8] for digest in digests)
    keys = np.frombuffer(drawn, dtype=">u8")
    splits = np.full(len(labels), UNUSED, dtype=object)
    for pool, name in enumerate(SPLITS):
        served = [split for split in SPLITS if split == name or (name == "train" and split not in hints)]
        asked = {split: per_class[split] for split in served if per_class[split] > 0}
        if not asked or (pool > 0 and name not in hints):
            continue
        members = np.flatnonzero(pools == pool)
        sizes = np.bincount(labels[members], minlength=len(classes))
        shares = _shares(asked, sizes=sizes, classes=classes)
        members = members[np.lexsort((keys[members], labels[members]))]
        rank = np.arange(len(members)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # within the class
        start = 0
        for split, count in shares.items():
            splits[members[(rank >= start) & (rank < start + count)]] = split
            start += count
    return splits


def _shares(asked: Mapping[str, int], *, sizes: np.ndarray, classes: Sequence[str]) -> dict[str, int]:
    """Return photos a class for each split of `asked`, no more together than the smallest class holds."""
    smallest, total = int(sizes.min()), sum(asked.values())
    if smallest < len(asked):
        found = ", ".join(f"{size} of {name}" for name, size in zip(classes, sizes.tolist(), strict=True))
        raise UsageError(
            f"expected {len(asked)} usable photos or more of every class for {' and '.join(asked)}, found {found}: "
            "add photos, or ask for fewer splits"
        )
    shares = {split: max(1, count * min(smallest, total) // total) for split, count in asked.items()}
    while sum(shares.values()) > smallest:  # the 1 at least of a small split comes out of the largest
        shares[max(shares, key=lambda split: shares[split])] -= 1
    return shares
