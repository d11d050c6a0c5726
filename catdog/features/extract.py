"""The trunk pass: photos through the frozen layers, once over the cluster, cached or streamed.

A Ray Data pipeline: tasks read, decode and augment; a pool of actors runs the trunk. In a cached pass the actors
write the parts themselves, so 113 KB a row never cross the object store; in a stream the rows come back in order.
"""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from catdog.cluster.actors import avoid_fusion, count_tries, map_in_actors, share
from catdog.cluster.failures import log_directory, root_cause
from catdog.cluster.plan import Plan
from catdog.errors import CatdogError, FailureError, ImageError
from catdog.features.augmentation import augment
from catdog.features.cache import cache_directory, find_cache, finish_cache, present_parts, write_part
from catdog.features.spec import PHOTOS_PER_PART, Extraction, PhotoSet
from catdog.features.trunk import Trunk
from catdog.model.backbone_specs import INPUT_CUT
from catdog.model.weights.pretrained import Pretrained
from catdog.photos.decoding.decode import decode_image
from catdog.photos.sources.files import read_photo
from catdog.storage.files import join

Progress = Callable[[int, int], None]


def extract_features(
    wanted: Sequence[tuple[Extraction, PhotoSet]],
    *,
    pretrained: Pretrained | None,
    plan: Plan,
    root: str,
    progress: Progress,
) -> list[str]:
    """Compute what of `wanted` is not cached below `root` yet, in one pass; return the photos that were lost.

    Extractions of one PhotoSet share each photo's decoding and forward pass; they may differ in cut, pooling
    and dtype alone. `progress` is called with (rows done, rows in all). A photo that can no longer be read is
    left out and named in the result, with its reason.
    Raises FailureError when the pass breaks for another reason.
    """
    jobs = _missing_parts(wanted, root)
    if jobs:
        try:
            _run(jobs, wanted[0][0], pretrained=pretrained, plan=plan, progress=progress)
        except CatdogError:
            raise
        except Exception as error:  # Ray wraps what a task raised in classes of its own
            raise FailureError(f"the trunk pass failed: {root_cause(error)} (logs: {log_directory()})") from error
    lost: set[str] = set()
    for extraction, photos in wanted:
        if find_cache(extraction, photos, root=root) is None:
            lost.update(finish_cache(extraction, photos, root=root))
    return sorted(lost)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _PartJob:
    """One part of one PhotoSet: its photos, its views, and the file that each cut's features go to."""

    photos: pa.Table
    views: tuple[int, ...]
    targets: tuple[tuple[str, str, str], ...]  # (cut, dtype, path)

    @property
    def rows(self) -> int:
        return int(self.photos.num_rows) * len(self.views)


def _missing_parts(wanted: Sequence[tuple[Extraction, PhotoSet]], root: str) -> list[_PartJob]:
    """Return the parts that do not stand below `root`; those of an earlier, killed pass do."""
    targets: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    parts = {}
    for extraction, photos in wanted:
        if find_cache(extraction, photos, root=root):
            continue
        directory = cache_directory(extraction, photos, root=root)
        present = present_parts(directory)
        for name, part in photos.parts().items():
            if name not in present:
                key = (photos.fingerprint(), name)
                parts[key] = part
                targets.setdefault(key, []).append((extraction.cut, extraction.dtype, join(directory, name)))
    return [_PartJob(photos=photos, views=views, targets=tuple(targets[key])) for key, (photos, views) in parts.items()]


def _run(
    jobs: list[_PartJob], extraction: Extraction, *, pretrained: Pretrained | None, plan: Plan, progress: Progress
) -> None:
    import ray

    cuts = tuple(sorted({cut for job in jobs for cut, _, _ in job.targets}))
    blocks = [_photo_block(job.photos, job.views, block=index) for index, job in enumerate(jobs)]
    images = load_images(ray.data.from_arrow(blocks), extraction, task_cpus=plan.task_cpus)
    shared = share(pretrained)
    written = map_in_actors(
        images,
        TrunkWriter,
        {
            "extraction": extraction,
            "cuts": cuts,
            "pretrained": shared,
            "threads": plan.trunk_threads,
            "gpu": plan.trunk_gpus > 0,
            "targets": [job.targets for job in jobs],
        },
        actors=min(plan.trunk_actors, len(jobs)),
        num_cpus=avoid_fusion(plan.trunk_cpus, plan.task_cpus),
        num_gpus=plan.trunk_gpus,
    )
    done, total = 0, sum(job.rows for job in jobs)
    progress(done, total)
    for batch in written.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        done += int(batch["rows"].sum())
        progress(done, total)


def stream_features(
    photos: pa.Table,
    epochs: Sequence[tuple[int, np.ndarray]],
    *,
    extraction: Extraction,
    pretrained: Any,
    plan: Plan,
    workers: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (features, labels) blocks of up to 64 photos, epoch after epoch, each photo once an epoch.

    `epochs` has for each epoch its view and the order of the photos. `pretrained` is what Trunk takes.
    The stream runs ahead of its reader as far as Ray Data's memory limits let it. `workers` such streams
    share the plan's actors. A photo that can no longer be read is replaced by another of its block.
    """
    import ray

    blocks: list[pa.Table] = []
    for view, order in epochs:
        for start in range(0, len(order), PHOTOS_PER_PART):
            chosen = photos.take(pa.array(order[start : start + PHOTOS_PER_PART]))
            blocks.append(_photo_block(chosen, (view,), block=len(blocks)))
    dataset = load_images(ray.data.from_arrow(blocks), extraction, task_cpus=plan.task_cpus)
    if extraction.cut != INPUT_CUT:
        actors = max(1, plan.trunk_actors // workers)
        part = min(1.0, plan.trunk_actors / (actors * workers))  # more workers than actors: smaller ones
        dataset = map_in_actors(
            dataset,
            TrunkStreamer,
            {
                "extraction": extraction,
                "pretrained": pretrained,
                "threads": max(1, round(plan.trunk_threads * part)),
                "gpu": plan.trunk_gpus > 0,
            },
            actors=actors,
            num_cpus=avoid_fusion(max(0.01, int(100 * plan.trunk_cpus * part) / 100), plan.task_cpus),
            num_gpus=int(100 * plan.trunk_gpus * part) / 100,
        )
    # A stream of its own settings: order tells which epoch a block belongs to.
    dataset.context.execution_options = copy.copy(dataset.context.execution_options)
    dataset.context.execution_options.preserve_order = True
    for batch in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
        yield _refilled(batch)


def _refilled(batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return (features, labels) of a block whose lost rows repeat good ones: workers must keep step."""
    kept = np.flatnonzero(batch["label"] >= 0)
    if not len(kept):
        raise FailureError(f"no photo of a whole block can be read any more: {batch['lost'][0]}")
    rows = np.resize(kept, len(batch["label"]))
    if len(kept) < len(rows):
        return batch["feature"][rows], batch["label"][rows]
    return batch["feature"], batch["label"]


def _photo_block(photos: pa.Table, views: Sequence[int], *, block: int) -> pa.Table:
    """Return one block of Ray Data's input: path, label, digest, and which views of them."""
    table = photos.select(["path", "label", "digest"])
    count = table.num_rows
    table = table.append_column("block", pa.array(np.full(count, block, np.int32)))
    return table.append_column("views", pa.array([list(views)] * count, pa.list_(pa.int32())))


def load_images(photos: Any, extraction: Extraction, *, task_cpus: float) -> Any:
    """Turn a Ray dataset of photo blocks into image rows, one for each photo and view.

    Columns: path, label, view, block, lost, feature (S, S, 3) uint8. A photo that cannot be read is a row of
    label -1 with the reason in `lost`.
    """

    def load_block(block: pa.Table) -> dict[str, np.ndarray]:
        return _load_block(block, extraction)

    return photos.map_batches(load_block, batch_size=None, batch_format="pyarrow", num_cpus=task_cpus)


def _load_block(block: pa.Table, extraction: Extraction) -> dict[str, np.ndarray]:
    """Read and decode each photo of `block` once, whatever the number of its views."""
    import cv2

    count_tries()
    cv2.setNumThreads(1)  # Ray runs a task on each core already
    size, rows = extraction.image_size, block.to_pylist()
    views = rows[0]["views"]
    count = len(rows) * len(views)
    images = np.zeros((count, size, size, 3), np.uint8)
    labels, lost = np.full(count, -1, np.int32), np.full(count, "", object)
    for index, row in enumerate(rows):
        try:
            image = decode_image(read_photo(row["path"]), size=size, limits=extraction.limits)
        except ImageError as error:
            lost[index] = f"{row['path']}: {error}"
            continue
        for turn, view in enumerate(views):
            # Rows of one view stand together, as the parts store them.
            place = turn * len(rows) + index
            labels[place] = row["label"]
            images[place] = augment(
                image, seed=extraction.seed, digest=row["digest"], view=view, ranges=extraction.augmentation
            )
    return {
        "path": np.array([row["path"] for row in rows] * len(views), object),
        "label": labels,
        "view": np.repeat(np.array(views, np.int32), len(rows)),
        "block": np.full(count, rows[0]["block"], np.int32),
        "lost": lost,
        "feature": images,
    }


class TrunkWriter:
    """An actor of the cached pass: image blocks in, one Parquet part for each cut out."""

    def __init__(
        self,
        *,
        extraction: Extraction,
        cuts: Sequence[str],
        pretrained: Any,
        threads: int,
        gpu: bool,
        targets: Sequence[Sequence[tuple[str, str, str]]],
    ) -> None:
        self._trunk = Trunk(extraction, cuts, pretrained, threads=threads, gpu=gpu)
        self._one_by_one = threading.Lock()
        self._targets = targets

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Write the features of one part; return how many rows it was for the progress line."""
        count_tries()
        kept = block["label"] >= 0
        whole = bool(kept.all())
        with self._one_by_one:
            features = self._trunk(block["feature"] if whole else block["feature"][kept])
        rows = {name: block[name] if whole else block[name][kept] for name in ("path", "label", "view")}
        for cut, dtype, path in self._targets[int(block["block"][0])]:
            found = features[cut].astype(dtype, copy=False)
            write_part(path, rows, found, lost=[text for text in block["lost"] if text])
        return {"rows": np.array([len(kept)])}


class TrunkStreamer:
    """An actor of the stream: image blocks in, feature blocks out."""

    def __init__(self, *, extraction: Extraction, pretrained: Any, threads: int, gpu: bool) -> None:
        self._trunk = Trunk(extraction, [extraction.cut], pretrained, threads=threads, gpu=gpu)
        self._one_by_one = threading.Lock()
        self._extraction = extraction

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Replace the images of a block by their features."""
        count_tries()
        with self._one_by_one:
            features = self._trunk(block["feature"])[self._extraction.cut]
        return {**block, "feature": features.astype(self._extraction.dtype, copy=False)}
