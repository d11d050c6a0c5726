"""The ingest program of the measure `scale`: ingest photos that cost nothing, then plan their trunk pass.

`python -m catdog.benchmark.scaling.free_ingest PHOTOS RUN_DIR` prints its figures as a line of JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence

import pyarrow as pa

from catdog.benchmark.scaling.free_job import Meter
from catdog.cluster.connection import connected
from catdog.config import AugmentationConfig
from catdog.features.extract import MissingParts
from catdog.features.spec import Extraction, PhotoSet
from catdog.model.backbone_specs import UNIT_SCALING
from catdog.photos.annotations.labelling import Annotations
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.inspection import INSPECTED, Inspector
from catdog.photos.sharded.driver import ingest_many
from catdog.photos.sharded.manifest import ShardedManifest, write_sharded
from catdog.photos.sources.files import MoreFilesError
from catdog.photos.splits import ALL
from catdog.storage import files
from catdog.storage.schemas import SPLITS

_VIEWS = tuple(range(1, 11))
_EXTRACTION = Extraction(
    backbone="efficientnet-lite0",
    image_size=224,
    scaling=UNIT_SCALING,
    pooling="avg",
    weights_checksum="none",
    cut="head",
    dtype="float16",
    seed=0,
    limits=DecodeLimits(),
    augmentation=AugmentationConfig(),
)


class FreeInspector(Inspector):
    """An inspector that reads no file; a photo's digest is that of its path, so that no two photos are duplicates."""

    def look(self, paths: Sequence[str], tries: int) -> pa.Table:
        """Return the row of a usable photo for each of `paths`."""
        count = len(paths)
        sizes = pa.array([8] * count, pa.int32())
        digests = pa.array([hashlib.sha256(path.encode()).hexdigest() for path in paths])
        return pa.table(
            [digests, sizes, sizes, pa.nulls(count, pa.uint64()), pa.nulls(count, pa.string())], schema=INSPECTED
        )


def main(photos: str, run_dir: str) -> None:
    """Ingest the folder `photos` into the new folder `run_dir`, and print the figures."""
    meter, directory = Meter(), files.join(run_dir, "manifest")
    with contextlib.ExitStack() as stack:
        meter.take("start", lambda: stack.enter_context(connected()))
        stack.enter_context(meter.counting())

        def ingest() -> ShardedManifest:
            manifest = ingest_many(
                MoreFilesError(photos),
                directory=directory,
                inspector=FreeInspector(limits=DecodeLimits(), keep=files.join(directory, "inspected")),
                per_class=dict.fromkeys(SPLITS, ALL),
                seed=0,
                annotations=Annotations(),
                progress=None,
            )
            write_sharded(manifest)
            return manifest

        manifest = meter.take("ingest", ingest)

        def plan() -> int:
            photos = PhotoSet(photos=manifest.photos("train"), views=_VIEWS)
            return sum(job.rows for job in MissingParts([(_EXTRACTION, photos)], root=files.join(run_dir, "features")))

        rows = meter.take("trunk pass, planned", plan)
    steps = [dataclasses.asdict(step) for step in meter.steps]
    print(json.dumps({"steps": steps, "shards": len(manifest.shards), "rows": rows}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
