"""From photos to a manifest: classes, checked and deduplicated photos, splits.

source --list_inputs--> paths --label--> classes and split hints
                          └--inspect_photos (Ray tasks)--> digest, size, perceptual hash or reason
both --reject_copies, split_photos--> Manifest

More photos than one process should hold go through `sharded`, with the same result in shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from catdog.config import IngestConfig
from catdog.console import ProgressLine, say
from catdog.errors import UsageError
from catdog.photos.annotations.labelling import Annotations, LabelledPhotos, label_photos, read_annotations
from catdog.photos.decoding.limits import DEFAULT_LIMITS, DecodeLimits
from catdog.photos.inspection import Inspector, Progress, inspect_photos, reject_copies, require_every_class
from catdog.photos.manifest import AnyManifest, Manifest, read_manifest, write_manifest
from catdog.photos.sample import draw_sample
from catdog.photos.sharded.driver import ingest_many
from catdog.photos.sharded.manifest import write_sharded
from catdog.photos.sources.containers.packed import MorePhotosError
from catdog.photos.sources.inputs import list_inputs
from catdog.photos.sources.listing.shards import MAX_IN_ONE_PROCESS
from catdog.photos.splits import ALL, split_photos
from catdog.storage import artifacts, files
from catdog.storage.run_directory import record_config
from catdog.storage.schemas import MANIFEST, REJECTED, SPLITS

# Settings that determine the manifest, in addition to the content of the annotation files.
_INPUTS = (
    *(f"{split}_per_class" for split in SPLITS), "seed", "max_pixels", "splits", "bytes_column", "name_column",
    "label_column",
)  # fmt: skip

_LEFTOVERS = ("inspected", "inputs", "recorded", "merged", "ranges")  # folders that a finished manifest does not need


def find_photos(config: IngestConfig, *, run_dir: str) -> LabelledPhotos | None:
    """Return the photos of `config.photos` with their classes for `ingest`, or None if it does not need them.

    It does not need them without `config.photos`, with a finished manifest, or if there are so many photos that Ray
    tasks list them. No cluster is needed, so errors in the photos are reported before one is started, which takes ten
    seconds. A run whose manifest is finished resumes without its photos, provided that their features are cached.
    Raises UsageError as list_inputs and label_photos do, if no photos are asked for in training or validation, and
    if the sample cannot be drawn because the run directory is not local.
    """
    for split in ("train", "validation"):
        if not getattr(config, f"{split}_per_class"):
            raise UsageError(f"--{split}-per-class 0: expected 1 or more, or -1 for all: training needs both splits")
    if not config.photos and files.is_uri(run_dir):
        raise UsageError("the drawn sample needs a local --run-dir; give --photos, or a local path")
    if not config.photos or files.exists(files.join(run_dir, "manifest", artifacts.COMPLETE)):
        return None
    try:
        return label_source(files.absolute(config.photos), read_annotations(config))
    except MorePhotosError:
        return None


def ingest(config: IngestConfig, *, run_dir: str, found: LabelledPhotos | None = None) -> AnyManifest:
    """Make the manifest of `config.photos` in `run_dir`, or read the finished one.

    `found` is the result of `find_photos`, if it was called before. Without `config.photos`, the sample is drawn first.
    Raises what build_manifest raises.
    """
    directory = files.join(run_dir, "manifest")
    annotations = read_annotations(config)
    source = files.absolute(config.photos) if config.photos else str(_sample_folder(run_dir))
    draw_missing_sample(config, run_dir=run_dir)
    inputs = {name: getattr(config, name) for name in _INPUTS} | {"photos": source} | annotations.fingerprints()
    done = artifacts.completed(directory, inputs=inputs) is not None
    if done:
        manifest = read_manifest(directory)
    else:
        manifest = _make_manifest(config, source, annotations, directory=directory, found=found)
        artifacts.mark_complete(directory, inputs=inputs, summary={"counts": manifest.counts()})
        for name in _LEFTOVERS:
            files.delete(files.join(directory, name))
    record_config(config, run_dir=run_dir, fingerprints=annotations.fingerprints())
    for line in manifest.summary_lines()[: 1 if done else None]:
        say(line)
    return manifest


def _make_manifest(
    config: IngestConfig, source: str, annotations: Annotations, *, directory: str, found: LabelledPhotos | None
) -> AnyManifest:
    """Make and write the manifest of `source`, in one table or, for many photos, in shards."""
    settings: dict[str, Any] = {
        "per_class": {split: int(getattr(config, f"{split}_per_class")) for split in SPLITS},
        "seed": config.seed,
        "annotations": annotations,
        "progress": ProgressLine("Checking photos", "photos"),
    }
    limits, keep = DecodeLimits(max_pixels=config.max_pixels), files.join(directory, "inspected")
    try:
        found = found or label_source(source, annotations)
    except MorePhotosError as error:
        inspector = Inspector(limits=limits, keep=keep)
        sharded = ingest_many(error, directory=directory, inspector=inspector, **settings)
        write_sharded(sharded)
        return sharded
    manifest = build_manifest(source, found=found, limits=limits, keep=keep, **settings)
    write_manifest(manifest, directory=directory)
    return manifest


def draw_missing_sample(config: IngestConfig, *, run_dir: str) -> None:
    """Draw the sample in `run_dir`, if `config` names no photos and it is not there yet."""
    directory = _sample_folder(run_dir)
    if not config.photos and not directory.exists():
        say("No --photos given: drawing a sample of cats and dogs.")
        draw_sample(directory, seed=0)


def _sample_folder(run_dir: str) -> Path:
    return Path(run_dir, "sample")


def label_source(source: str, annotations: Annotations, *, all_here: bool = False) -> LabelledPhotos:
    """List the photos of `source` and give each its class.

    Raises UsageError as list_inputs and label_photos do, and MorePhotosError for more photos than this process should
    hold. `all_here` lifts this limit, and so does a table of labels or groups, which this process holds anyway.
    """
    at_most = None if all_here or annotations.labels or annotations.groups else MAX_IN_ONE_PROCESS
    inputs = list_inputs(source, columns=annotations.columns, at_most=at_most)
    return label_photos(inputs, source=source, annotations=annotations)


def build_manifest(
    source: str,
    *,
    found: LabelledPhotos | None = None,
    per_class: Mapping[str, int] | None = None,
    seed: int = 0,
    limits: DecodeLimits = DEFAULT_LIMITS,
    annotations: Annotations | None = None,
    progress: Progress | None = None,
    keep: str = "",
) -> Manifest:
    """Find, check, deduplicate and split the photos of `source`, as list_inputs takes it.

    Every file found ends up in one of the manifest's two tables. With `found`, the photos are not listed again.
    `per_class` is as in split_photos, by default all. `progress` is called with (photos done, photos in total).
    Inspection results are kept in the folder `keep` for another attempt, or nowhere if it is "".
    Raises UsageError when there are no photos, fewer than two classes, too few photos for the splits, or annotations
    that do not fit the photos.
    """
    annotations = annotations or Annotations()
    labelled = found or label_source(source, annotations, all_here=True)
    table, classes = labelled.table, labelled.classes
    paths, labels = table["path"].to_pylist(), table["label"].to_numpy()
    inspected = inspect_photos(table, Inspector(limits=limits, keep=keep), progress=progress)
    copies = reject_copies(paths, labels=labels, digests=inspected["digest"], classes=classes)
    reasons = [copies.get(row, reason) for row, reason in enumerate(inspected["reason"].to_pylist())]
    require_every_class(classes, labels=labels, reasons=reasons, source=source)
    for name in ("digest", "width", "height", "perceptual_hash"):
        table = table.append_column(name, inspected[name])
    table = table.filter(pa.array([reason is None for reason in reasons]))
    splits = split_photos(
        table["label"].to_numpy(),
        digests=table["digest"].to_pylist(),
        hints=table["hint"].to_pylist(),
        classes=classes,
        per_class=per_class or dict.fromkeys(SPLITS, ALL),
        seed=seed,
        groups=table["group"].to_pylist() if annotations.groups else None,
    )
    unusable = [pair for pair in zip(paths, reasons, strict=True) if pair[1]]
    return Manifest(
        table=table.append_column("split", pa.array(splits)).select(MANIFEST.names).cast(MANIFEST),
        rejected=_rejected_table([*labelled.rejected, *unusable]),
        classes=classes,
    )


def _rejected_table(pairs: Iterable[tuple[str, str | None]]) -> pa.Table:
    rows = [{"path": path, "reason": reason} for path, reason in sorted(pairs)]
    return pa.Table.from_pylist(rows, schema=REJECTED)
