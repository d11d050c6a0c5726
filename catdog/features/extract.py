"""The cached trunk pass: photos through the frozen layers, once over the cluster, into Parquet parts.

Tasks read, decode and augment (`views`); a pool of actors runs the trunk and writes the parts itself, so 113 KB a row
never cross the object store.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from catdog.cluster.actors import avoid_fusion, count_tries, map_in_actors, share
from catdog.cluster.failures import log_directory, root_cause
from catdog.cluster.plan import Plan
from catdog.console import counted, duration, say
from catdog.errors import CatdogError, FailureError
from catdog.features.cache import locate_cache, write_part
from catdog.features.spec import Extraction, PhotoSet
from catdog.features.trunk import Trunk
from catdog.features.views import load_views, photo_block
from catdog.model.backbone_specs import backbone_spec
from catdog.model.weights.pretrained import Pretrained
from catdog.storage.files import join

Progress = Callable[[int, int], None]

# Of one core, with reading, decoding and writing: measured for Lite0 at 224 and Lite2 at 260 pixels on a Xeon.
_MULTIPLICATIONS_PER_SECOND = 22e9


def extract_features(
    wanted: Sequence[tuple[Extraction, PhotoSet]],
    *,
    pretrained: Pretrained | None,
    plan: Plan,
    root: str,
    progress: Progress,
) -> list[str]:
    """Compute what of `wanted` is not cached below `root` yet, in one pass; return the unreadable photos.

    Extractions of one PhotoSet share each photo's decoding and forward pass; they may differ in cut, pooling
    and dtype alone. `progress` is called with (rows done, rows in all). A photo that can no longer be read, or that
    changed since ingest, is left out and named in the result, with its reason.
    Raises FailureError when the pass breaks for another reason.
    """
    missing = [pair for pair in wanted if not locate_cache(*pair, root=root).is_finished()]
    parts = missing_parts(missing, root=root)
    if parts:
        if not plan.actor_gpus:
            say(_expected_text(parts, missing[0][0], plan))
        try:
            _run(parts, missing[0][0], pretrained=pretrained, plan=plan, progress=progress)
        except CatdogError:
            raise
        except Exception as error:  # Ray wraps what a task raised in classes of its own
            raise FailureError(f"the trunk pass failed: {root_cause(error)} (logs: {log_directory()})") from error
    unreadable: set[str] = set()
    for extraction, photos in missing:
        cache = locate_cache(extraction, photos, root=root)
        unreadable.update(cache.finish(blocks=photos.blocks, cut=extraction.cut))
    return sorted(unreadable)


def _expected_text(parts: Sequence[PartJob], extraction: Extraction, plan: Plan) -> str:
    """Return in a line what the pass computes and about how long it takes."""
    rows, cores = sum(part.rows for part in parts), plan.actors * plan.threads
    cost = backbone_spec(extraction.backbone).multiply_adds(extraction.image_size)
    seconds = rows * cost / (_MULTIPLICATIONS_PER_SECOND * cores)
    return f"Trunk pass: {counted(rows, 'image')} on {counted(cores, 'core')}, about {duration(max(1.0, seconds))}."


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartJob:
    """One part of one PhotoSet: its photos, its views, and the file that each cut's features go to."""

    photos: pa.Table
    views: tuple[int, ...]
    targets: tuple[tuple[str, str, str], ...]  # (cut, dtype, path)

    @property
    def rows(self) -> int:
        """Photos times views."""
        return int(self.photos.num_rows) * len(self.views)


def missing_parts(wanted: Sequence[tuple[Extraction, PhotoSet]], *, root: str) -> list[PartJob]:
    """Return the parts that are missing below `root`; an earlier, killed pass may have written some."""
    targets: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    parts = {}
    for extraction, photos in wanted:
        cache = locate_cache(extraction, photos, root=root)
        present = cache.present_parts()
        for name, part in photos.parts().items():
            if name not in present:
                key = (cache.photos, name)
                parts[key] = part
                targets.setdefault(key, []).append((extraction.cut, extraction.dtype, join(cache.directory, name)))
    return [PartJob(photos=photos, views=views, targets=tuple(targets[key])) for key, (photos, views) in parts.items()]


def _run(
    parts: list[PartJob], extraction: Extraction, *, pretrained: Pretrained | None, plan: Plan, progress: Progress
) -> None:
    import ray

    cuts = tuple(sorted({cut for part in parts for cut, _, _ in part.targets}))
    blocks = [photo_block(part.photos, part.views, block=index) for index, part in enumerate(parts)]
    images = load_views(ray.data.from_arrow(blocks), extraction, task_cpus=plan.task_cpus)
    shared = share(pretrained)
    written = map_in_actors(
        images,
        TrunkWriter,
        {
            "extraction": extraction,
            "cuts": cuts,
            "pretrained": shared,
            "threads": plan.threads,
            "gpu": plan.actor_gpus > 0,
            "targets": [part.targets for part in parts],
        },
        name="trunk actor",
        actors=min(plan.actors, len(parts)),
        num_cpus=avoid_fusion(plan.actor_cpus, plan.task_cpus),
        num_gpus=plan.actor_gpus,
    )
    done, total = 0, sum(part.rows for part in parts)
    progress(done, total)
    for batch in written.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        done += int(batch["rows"].sum())
        progress(done, total)


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
        count_tries(int(block["block"][0]))
        kept = block["label"] >= 0
        whole = bool(kept.all())
        with self._one_by_one:
            features = self._trunk(block["feature"] if whole else block["feature"][kept])
        rows = {name: block[name] if whole else block[name][kept] for name in ("path", "label", "view")}
        for cut, dtype, path in self._targets[int(block["block"][0])]:
            found = features[cut].astype(dtype, copy=False)
            write_part(path, rows, found, unreadable=[text for text in block["unreadable"] if text])
        return {"rows": np.array([len(kept)])}
