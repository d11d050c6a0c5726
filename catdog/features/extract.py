"""The cached trunk pass: run photos through the frozen layers once, on the cluster, and write Parquet parts.

A pool of actors runs the trunk and writes the parts itself, so the features, up to 113 KB per row, never pass through
the object store. On CPUs the actors also read, decode and augment; for GPUs, tasks do that (`views`).
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from catdog.cluster.actors import avoid_fusion, map_in_actors, share
from catdog.cluster.failures import log_directory, root_cause
from catdog.cluster.plan import Plan
from catdog.console import counted, duration, say
from catdog.errors import CatdogError, FailureError
from catdog.features.cache import FeatureCache, locate_cache, write_part
from catdog.features.spec import Extraction, Part, PhotoSet
from catdog.features.trunk import Trunk
from catdog.features.views import ViewMaker, load_views, photo_block
from catdog.model.backbone_specs import backbone_spec
from catdog.model.engines import has_avx512
from catdog.model.weights.pretrained import Pretrained
from catdog.storage.files import join

Progress = Callable[[int, int], None]

# Multiplications per second of one core in the network, and its seconds to read, decode, augment and write an image:
# with AVX-512 (measured on a Xeon and an EPYC), and without (an EPYC with AVX2). The actors take 3 to 9 s to start.
_SPEEDS = {True: (55e9, 0.004), False: (18e9, 0.011)}
_SECONDS_TO_START = 5
# Parts in a pipeline of Ray Data, which takes seconds to start: many minutes of work on one machine, and on many.
_PARTS_A_ROUND, _PARTS_AN_ACTOR = 4096, 64


def extract_features(
    wanted: Sequence[tuple[Extraction, PhotoSet]],
    *,
    pretrained: Pretrained | None,
    plan: Plan,
    root: str,
    progress: Progress,
) -> list[str]:
    """Compute the features of `wanted` that are not cached below `root` yet, in one pass; return unreadable photos.

    Extractions of one PhotoSet share each photo's decoding and forward pass; they may differ only in cut, pooling
    and dtype. `progress` is called with (rows done, rows in total). A photo that can no longer be read, or that
    changed since ingest, is left out and named in the result, with the reason.
    Raises FailureError when the pass fails for another reason.
    """
    missing = [pair for pair in wanted if not locate_cache(*pair, root=root).is_finished()]
    parts = MissingParts(missing, root=root)
    rows = sum(part.rows for part in parts)
    if rows:
        if not plan.actor_gpus:
            say(_expected_text(rows, missing[0][0], plan, avx512=has_avx512()))
        try:
            _run(parts, missing[0][0], rows=rows, pretrained=pretrained, plan=plan, progress=progress)
        except CatdogError:
            raise
        except Exception as error:  # Ray wraps exceptions of tasks in its own classes
            raise FailureError(f"the trunk pass failed: {root_cause(error)} (logs: {log_directory()})") from error
    unreadable: set[str] = set()
    for extraction, photos in missing:
        cache = locate_cache(extraction, photos, root=root)
        unreadable.update(cache.finish(blocks=photos.blocks, cut=extraction.cut))
    return sorted(unreadable)


def _expected_text(rows: int, extraction: Extraction, plan: Plan, *, avx512: bool) -> str:
    """Return one line that says what the pass computes and about how long it takes on CPUs like this machine's."""
    cores = plan.actors * plan.threads
    per_second, around = _SPEEDS[avx512]
    multiplications = backbone_spec(extraction.backbone).multiply_adds(extraction.image_size)
    seconds = _SECONDS_TO_START + rows * (multiplications / per_second + around) / cores
    return f"Trunk pass: {counted(rows, 'image')} on {counted(cores, 'core')}, about {duration(seconds)}."


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartJob:
    """One part of one PhotoSet, and the file that each cut's features go to."""

    part: Part
    targets: tuple[tuple[str, str, str], ...]  # (cut, dtype, path)

    @property
    def rows(self) -> int:
        """Photos times views."""
        return self.part.rows


class MissingParts:
    """The parts of `wanted` that are missing below `root`; an earlier, killed pass may have written some.

    They are created lazily, because all the parts of millions of photos would fill the driver's memory.
    """

    def __init__(self, wanted: Sequence[tuple[Extraction, PhotoSet]], *, root: str) -> None:
        self._sets: dict[str, tuple[PhotoSet, list[tuple[Extraction, FeatureCache, set[str]]]]] = {}
        for extraction, photos in wanted:
            cache = locate_cache(extraction, photos, root=root)
            caches = self._sets.setdefault(cache.photos, (photos, []))[1]
            caches.append((extraction, cache, cache.present_parts()))

    def __iter__(self) -> Iterator[PartJob]:
        for photos, caches in self._sets.values():
            for part in photos.parts():
                targets = tuple(
                    (extraction.cut, extraction.dtype, join(cache.directory, part.name))
                    for extraction, cache, present in caches
                    if part.name not in present
                )
                if targets:
                    yield PartJob(part=part, targets=targets)

    @property
    def cuts(self) -> tuple[str, ...]:
        """The cuts of all missing parts."""
        return tuple(sorted({extraction.cut for _, caches in self._sets.values() for extraction, _, _ in caches}))


def _run(
    parts: MissingParts,
    extraction: Extraction,
    *,
    rows: int,
    pretrained: Pretrained | None,
    plan: Plan,
    progress: Progress,
) -> None:
    shared, waiting = share(pretrained), iter(parts)
    done = 0
    progress(done, rows)
    # A pipeline of Ray Data holds about 20 kB per block in this process.
    a_round = max(_PARTS_A_ROUND, _PARTS_AN_ACTOR * plan.actors)
    while jobs := list(itertools.islice(waiting, a_round)):
        for count in _compute(jobs, extraction, cuts=parts.cuts, pretrained=shared, plan=plan):
            done += count
            progress(done, rows)


def _compute(
    jobs: Sequence[PartJob], extraction: Extraction, *, cuts: Sequence[str], pretrained: Any, plan: Plan
) -> Iterator[int]:
    """Compute and write `jobs`; yield the rows of each as it is done."""
    import ray

    blocks = [photo_block(job.part.read(), job.part.views, block=index) for index, job in enumerate(jobs)]
    photos = ray.data.from_arrow(blocks)
    written = map_in_actors(
        photos if plan.decoders else load_views(photos, extraction, task_cpus=plan.task_cpus),
        TrunkWriter,
        {
            "extraction": extraction,
            "cuts": cuts,
            "pretrained": pretrained,
            "threads": plan.threads,
            "decoders": plan.decoders,
            "gpu": plan.actor_gpus > 0,
            "targets": [job.targets for job in jobs],
        },
        name="trunk actor",
        actors=min(plan.actors, len(jobs)),
        num_cpus=avoid_fusion(plan.actor_cpus, plan.task_cpus),
        num_gpus=plan.actor_gpus,
        batch_format="pyarrow" if plan.decoders else "numpy",
    )
    for batch in written.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        yield int(batch["rows"].sum())


class TrunkWriter:
    """An actor of the cached pass: blocks of photos or images in, one Parquet part for each cut out."""

    def __init__(
        self,
        *,
        extraction: Extraction,
        cuts: Sequence[str],
        pretrained: Any,
        threads: int,
        decoders: int,
        gpu: bool,
        targets: Sequence[Sequence[tuple[str, str, str]]],
    ) -> None:
        self._views = ViewMaker(extraction, threads=decoders)
        self._trunk = Trunk(extraction, cuts, pretrained, threads=threads, gpu=gpu)
        self._one_by_one = threading.Lock()
        self._targets = targets

    def __call__(self, block: pa.Table | dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Write the features of one part; return its number of rows for the progress line."""
        block = self._views(block)
        kept = block["label"] >= 0
        whole = bool(kept.all())
        with self._one_by_one:
            features = self._trunk(block["feature"] if whole else block["feature"][kept])
        rows = {name: block[name] if whole else block[name][kept] for name in ("path", "label", "view")}
        for cut, dtype, path in self._targets[int(block["block"][0])]:
            found = features[cut].astype(dtype, copy=False)
            write_part(path, rows, found, unreadable=[text for text in block["unreadable"] if text])
        return {"rows": np.array([len(kept)])}
