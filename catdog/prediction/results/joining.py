"""Joins parts into the result files: a few large ones of the requested format."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from catdog.cluster.failures import root_cause
from catdog.errors import FailureError
from catdog.photos.sources.listing.shards import SetDigest, Shard
from catdog.prediction.results.commit import staging_directory
from catdog.prediction.results.parts import error_codes, plan_parts, read_prediction_part
from catdog.prediction.results.rows import FORMATS, LabelRule, encode
from catdog.storage import files
from catdog.storage.tables import parquet_bytes

_READS_AT_ONCE = 16  # parts; each read from an object store takes a while
_CELLS_PER_FILE = 1_500_000  # about 250,000 rows of two classes: a spreadsheet opens it, a task holds it in memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """The parts of `shard` that begin in rows [start, stop)."""

    shard: Shard
    start: int
    stop: int


def plan_files(shards: Sequence[Shard], *, columns: int, photos_per_part: int) -> list[list[Run]]:
    """Return the runs of parts for each result file: whole shards, or ranges of a shard too large for one file."""
    limit = max(1, _CELLS_PER_FILE // columns // photos_per_part) * photos_per_part
    found: list[list[Run]] = []
    rows = limit
    for shard in shards:
        for start in range(0, shard.rows, limit):
            run = Run(shard=shard, start=start, stop=min(start + limit, shard.rows))
            if rows + run.stop - run.start > limit:
                found.append([])
                rows = 0
            found[-1].append(run)
            rows += run.stop - run.start
    return found


def join_parts(
    out: str,
    shards: Sequence[Shard],
    *,
    owner: str,
    rule: LabelRule,
    format: str,
    photos_per_part: int,
    num_cpus: float,
) -> dict[str, Any]:
    """Join the parts of `shards` into the result files, and return the manifest.

    If there are several files, a Ray task writes each. The files are named after `owner`, the job. Raises FailureError
    if one cannot be written.
    """
    staging = staging_directory(out, owner=owner)
    planned = plan_files(shards, columns=len(rule.schema), photos_per_part=photos_per_part)
    settings: dict[str, Any] = {"format": format, "photos_per_part": photos_per_part}
    if len(planned) == 1:  # faster than starting a process
        entries = [write_file(out, staging, f"00000-{owner}", planned[0], **settings)]
    else:
        entries = _write_by_tasks(out, staging, planned, owner=owner, num_cpus=num_cpus, settings=settings)
    return {
        "format": format,
        "rule": dataclasses.asdict(rule),
        "rows": sum(entry["rows"] for entry in entries),
        "files": entries,
    }


def _write_by_tasks(
    out: str, staging: str, planned: Sequence[Sequence[Run]], *, owner: str, num_cpus: float, settings: dict[str, Any]
) -> list[dict[str, Any]]:
    import ray

    write = ray.remote(num_cpus=num_cpus)(write_file)
    shared = {run.shard.name: run.shard for runs in planned for run in runs}
    shared = {name: shard.shared() for name, shard in shared.items()}
    tasks = []
    for number, runs in enumerate(planned):
        given = [dataclasses.replace(run, shard=shared[run.shard.name]) for run in runs]
        tasks.append(write.remote(out, staging, f"{number:05d}-{owner}", given, **settings))
    try:
        entries: list[dict[str, Any]] = ray.get(tasks)
    except Exception as error:  # Ray wraps what a task raised in its own classes
        raise FailureError(f"the predictions cannot be committed: {root_cause(error)}") from error
    return entries


def write_file(
    out: str, staging: str, name: str, runs: Sequence[Run], *, format: str, photos_per_part: int
) -> dict[str, Any]:
    """Join the parts of `runs` into a result file below `staging`, and return its entry in the manifest.

    A second file next to it records the paths and versions of its photos. Raises FailureError if a part cannot be read
    on this node, or if the parts do not match the photos.
    """
    names, inputs = [], []
    for run in runs:
        rows = run.shard.read()
        for part in plan_parts(rows, shard=run.shard.name, photos_per_part=photos_per_part):
            if run.start <= part.start < run.stop:
                names.append(part.name)
                inputs.append(rows.slice(part.start, part.rows).select(["path", "version"]))
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        found = list(pool.map(lambda part: read_prediction_part(out, part), names))
    rows, labelled = pa.concat_tables([table for table, _ in found]), pa.concat_tables(inputs)
    if not rows["path"].equals(labelled["path"]):
        raise FailureError(f"the parts in {out} do not match the photos: label them again with --overwrite")
    return {
        **_write_staged(staging, f"predictions-{name}.{FORMATS[format]}", encode(rows, format=format)),
        "rows": rows.num_rows,
        "inputs": _write_staged(staging, f"_INPUTS-{name}", bytes(parquet_bytes(labelled, compression="zstd"))),
        "digest": SetDigest.of(labelled).to_json(),
        "labels": dict(Counter(rows["label"].drop_null().to_pylist())),
        "errors": dict(Counter(error_codes(rows).to_pylist())),
        "retried": sum(retried for _, retried in found),
    }


def _write_staged(staging: str, name: str, content: bytes) -> dict[str, Any]:
    files.write_bytes(files.join(staging, name), content, durable=True)
    return {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
