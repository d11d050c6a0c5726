"""The streamed trunk pass: epochs of features, computed on the cluster while a train worker reads them.

It is for features that are too large to cache.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from catdog.cluster.actors import avoid_fusion, map_in_actors
from catdog.cluster.plan import Plan
from catdog.errors import FailureError
from catdog.features.spec import PHOTOS_PER_PART, Extraction
from catdog.features.trunk import Trunk
from catdog.features.views import ViewMaker, load_views, photo_block
from catdog.model.backbone_specs import INPUT_CUT
from catdog.photos.sharded.photo_rows import PhotoRows


def stream_features(
    photos: PhotoRows,
    passes: Sequence[tuple[int, np.ndarray]],
    *,
    extraction: Extraction,
    pretrained: Any,
    plan: Plan,
    workers: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (features, labels) blocks of up to 64 photos, pass after pass.

    `passes` has (view, rows of `photos` in order) for each pass; the rows of a pass lie close together in `photos`.
    `pretrained` is what Trunk takes. The stream runs ahead of its reader as far as Ray Data's memory limits allow.
    `workers` such streams share the plan's actors. An unreadable photo is replaced by another one of its block.
    Raises FailureError when no photo of a block can be read.
    """
    import ray

    blocks: list[pa.Table] = []
    for view, order in passes:
        low = int(order.min())
        rows = photos.read(low, int(order.max()) + 1)
        for start in range(0, len(order), PHOTOS_PER_PART):
            chosen = rows.take(pa.array(order[start : start + PHOTOS_PER_PART] - low))
            blocks.append(photo_block(chosen, (view,), block=len(blocks)))
    dataset, has_network = ray.data.from_arrow(blocks), extraction.cut != INPUT_CUT
    if not (has_network and plan.decoders):
        dataset = load_views(dataset, extraction, task_cpus=plan.task_cpus)
    if has_network:
        dataset = _run_trunk(dataset, extraction, pretrained, plan, workers)
    # A copy, for this stream only. The order decides which rows share a batch: a resumed epoch needs the same batches.
    dataset.context.execution_options = copy.copy(dataset.context.execution_options)
    dataset.context.execution_options.preserve_order = True
    for batch in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
        yield _replace_unreadable(batch)


def _run_trunk(dataset: Any, extraction: Extraction, pretrained: Any, plan: Plan, workers: int) -> Any:
    actors = max(1, plan.actors // workers)
    share = min(1.0, plan.actors / (actors * workers))  # with more workers than actors, the actors are smaller
    threads = max(1, round(plan.threads * share))
    return map_in_actors(
        dataset,
        TrunkStreamer,
        {
            "extraction": extraction,
            "pretrained": pretrained,
            "threads": threads,
            "decoders": threads if plan.decoders else 0,
            "gpu": plan.actor_gpus > 0,
        },
        name="trunk actor",
        actors=actors,
        num_cpus=avoid_fusion(max(0.01, int(100 * plan.actor_cpus * share) / 100), plan.task_cpus),
        num_gpus=int(100 * plan.actor_gpus * share) / 100,
        batch_format="pyarrow" if plan.decoders else "numpy",
    )


def _replace_unreadable(batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return (features, labels) of a block with good rows in place of unreadable ones: workers must stay in step."""
    kept = np.flatnonzero(batch["label"] >= 0)
    if not len(kept):
        raise FailureError(f"none of the photos of a block can be read any more: {batch['unreadable'][0]}")
    rows = np.resize(kept, len(batch["label"]))
    if len(kept) < len(rows):
        return batch["feature"][rows], batch["label"][rows]
    return batch["feature"], batch["label"]


class TrunkStreamer:
    """An actor of the stream: blocks of photos or images in, feature blocks out."""

    def __init__(self, *, extraction: Extraction, pretrained: Any, threads: int, decoders: int, gpu: bool) -> None:
        self._views = ViewMaker(extraction, threads=decoders)
        self._trunk = Trunk(extraction, [extraction.cut], pretrained, threads=threads, gpu=gpu)
        self._one_by_one = threading.Lock()
        self._extraction = extraction

    def __call__(self, block: pa.Table | dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the rows of a block with the features in place of the images."""
        block = self._views(block)
        with self._one_by_one:
            features = self._trunk(block["feature"])[self._extraction.cut]
        return {**block, "feature": features.astype(self._extraction.dtype, copy=False)}
