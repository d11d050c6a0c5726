"""From photos to a manifest: classes, checked and deduplicated photos, splits.

source --list_inputs--> paths --label--> classes and split hints
                          └--inspect_photos (Ray Data)--> digest, size, perceptual hash or reason
both --reject_copies, split_photos--> Manifest
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa

from catdog.config import IngestConfig
from catdog.console import ProgressLine, say
from catdog.errors import UsageError
from catdog.photos.annotations.labelling import Annotations, label_photos, read_annotations
from catdog.photos.decoding.limits import DEFAULT_LIMITS, DecodeLimits
from catdog.photos.inspection import Progress, inspect_photos, reject_copies, require_every_class
from catdog.photos.manifest import Manifest, read_manifest, write_manifest
from catdog.photos.sample import draw_sample
from catdog.photos.sources.files import source_exists
from catdog.photos.sources.inputs import is_glob, list_inputs
from catdog.photos.splits import ALL, split_photos
from catdog.storage import artifacts, files
from catdog.storage.run_directory import record_config
from catdog.storage.schemas import MANIFEST, REJECTED, SPLITS


def require_photos(config: IngestConfig, *, run_dir: str) -> None:
    """Raise UsageError where nothing is at --photos: before a cluster is started, which takes ten seconds.

    A run whose manifest is finished may go on without its photos, as far as their features are cached.
    """
    finished = files.exists(files.join(run_dir, "manifest", artifacts.COMPLETE))
    if config.photos and not finished and not is_glob(config.photos) and not source_exists(config.photos):
        raise UsageError(f"--photos {config.photos}: expected photos, found nothing there: check the path")


def ingest(config: IngestConfig, *, run_dir: str) -> Manifest:
    """Make the manifest of `config.photos` in `run_dir`, or read the one that is finished there.

    Without photos the sample is drawn first. Raises what build_manifest raises.
    """
    directory = files.join(run_dir, "manifest")
    annotations = read_annotations(config)
    per_class = {split: int(getattr(config, f"{split}_per_class")) for split in SPLITS}
    for split in ("train", "validation"):
        if not per_class[split]:
            raise UsageError(f"--{split}-per-class 0: expected 1 or more, or -1 for all: a training needs both splits")
    source = files.absolute(config.photos) if config.photos else _sample(run_dir, seed=0)
    names = ("train_per_class", "validation_per_class", "test_per_class", "seed", "max_pixels", "splits")
    inputs = {name: getattr(config, name) for name in names} | {"photos": source} | annotations.fingerprints()
    done = artifacts.completed(directory, inputs=inputs) is not None
    if done:
        manifest = read_manifest(directory)
    else:
        manifest = build_manifest(
            source,
            per_class=per_class,
            seed=config.seed,
            limits=DecodeLimits(max_pixels=config.max_pixels),
            annotations=annotations,
            progress=ProgressLine("Checking photos", "photos"),
        )
        write_manifest(manifest, directory=directory)
        artifacts.mark_complete(directory, inputs=inputs, summary={"counts": manifest.counts()})
    record_config(config, run_dir=run_dir, fingerprints=annotations.fingerprints())
    for line in manifest.summary_lines()[: 1 if done else None]:
        say(line)
    return manifest


def _sample(run_dir: str, *, seed: int) -> str:
    if files.is_uri(run_dir):
        raise UsageError("the drawn sample needs a local --run-dir; give --photos, or a local path")
    directory = Path(run_dir) / "sample"
    if not directory.exists():
        say("No --photos given: drawing a sample of cats and dogs.")
        draw_sample(directory, seed=seed)
    return str(directory)


def build_manifest(
    source: str,
    *,
    per_class: Mapping[str, int] | None = None,
    seed: int = 0,
    limits: DecodeLimits = DEFAULT_LIMITS,
    annotations: Annotations | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Find, check, deduplicate and split the photos of `source`, as list_inputs takes it.

    Every file found ends in one of the two tables. `per_class` is as in split_photos, by default all. `note` gets a
    line on each surprise, `progress` is called with (photos done, photos in all).
    Raises UsageError when there are no photos, fewer than two classes, too few photos for the splits, or annotations
    that do not fit them.
    """
    annotations = annotations or Annotations()
    inputs = list_inputs(source, columns=annotations.columns)
    labelled = label_photos(inputs, source=source, annotations=annotations)
    table, classes = labelled.table, labelled.classes
    paths, labels = table["path"].to_pylist(), table["label"].to_numpy()
    inspected = inspect_photos(paths, limits=limits, progress=progress)
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
