"""Finished results of a predict job, made without Ray and without a model."""

from __future__ import annotations

import dataclasses

import pyarrow as pa

from catdog.photos.sources.inputs import find_inputs
from catdog.photos.sources.listing.shards import cut_into_shards
from catdog.prediction.results import commit
from catdog.prediction.results.joining import Run, write_file
from catdog.prediction.results.parts import plan_parts, write_prediction_part
from catdog.storage.lease import hold_lease


def write_rows(
    out: str, rows: pa.Table, *, photos_per_part: int = 256, retried: int = 0, inputs: pa.Table | None = None
) -> list[Run]:
    """Write `rows` to `out` as the parts of a job, and return the runs to join.

    Each part records that `retried` of its photos were retried. `inputs` are the photos of these rows, by default
    photos without a version.
    """
    runs: list[Run] = []
    done = 0
    for shard in cut_into_shards(find_inputs(rows["path"].to_pylist()) if inputs is None else inputs):
        for part in plan_parts(shard.read(), shard=shard.name, photos_per_part=photos_per_part):
            write_prediction_part(out, part.name, rows.slice(done + part.start, part.rows), retried=retried)
        done += shard.rows
        runs.append(Run(shard=shard, start=0, stop=shard.rows))
    return runs


def commit_rows(
    out: str, rows: pa.Table, *, format: str = "parquet", rows_per_file: int = 0, inputs: pa.Table | None = None
) -> None:
    """Write `rows` to `out` as a committed result: one file, or files of `rows_per_file` rows."""
    length = rows_per_file or 256
    runs = write_rows(out, rows, photos_per_part=length, inputs=inputs)
    planned = [runs]
    if rows_per_file:
        starts = [(run, start) for run in runs for start in range(0, run.stop, length)]
        planned = [[dataclasses.replace(run, start=start, stop=start + length)] for run, start in starts]
    with hold_lease(out, flag="--out") as lease:
        staging = commit.staging_directory(out, owner=lease.owner)
        entries = [
            write_file(out, staging, f"{number:05d}", some, format=format, photos_per_part=length)
            for number, some in enumerate(planned)
        ]
        commit.finish_commit(out, {"format": format, "files": entries}, lease=lease, replaces=False)
