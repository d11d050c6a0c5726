"""The files of the result, into which a commit joins the parts: written, counted, read back, proved complete.

A commit joins the parts into a few files of the format asked for under `OUT/predictions`, with a manifest that has the
checksum of each, and `_SUCCESS` last. What has no `_SUCCESS` beside it is not finished.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from catdog.cluster.failures import root_cause
from catdog.errors import FailureError
from catdog.prediction.results.parts import (
    Part,
    error_codes,
    finished_parts,
    has_passing_errors,
    parts_directory,
    read_prediction_part,
    write_prediction_part,
)
from catdog.prediction.results.rows import FORMATS, LabelRule, decode, encode
from catdog.storage import files
from catdog.storage.lease import Lease

MANIFEST_FILE = "_MANIFEST.json"
SUCCESS_FILE = "_SUCCESS"
# What is written beside its place first, in the output folder.
_HALF = re.compile(r"(predictions|\.?[a-z-]+(-[0-9a-f]{8})?\.(json|parquet|html))(\.[0-9a-f]{8})?\.part")
# What commits write into the folder of a result, whole or half.
_OURS = re.compile(
    r"(predictions-\d{5}(-[0-9a-f]{8})?\.(parquet|csv|jsonl)|_INPUTS-[0-9a-f]{8}|_MANIFEST\.json|_SUCCESS)"
    r"(\.[0-9a-f]{8}\.part)?"
)
_CELLS_PER_FILE = 1_500_000  # about 250,000 rows of two classes: a spreadsheet opens it, a task holds it in memory


def is_committed(out: str) -> bool:
    """Tell whether the predictions of `out` are finished."""
    return files.exists(files.join(out, "predictions", SUCCESS_FILE))


def plan_files(parts: Sequence[Part], *, columns: int) -> list[Sequence[Part]]:
    """Return for each file of the result the run of `parts` that it is made of."""
    limit, runs, start, rows = max(1, _CELLS_PER_FILE // columns), [], 0, 0
    for number, part in enumerate(parts):
        if rows and rows + part.rows > limit:
            runs.append(parts[start:number])
            start, rows = number, 0
        rows += part.rows
    return [*runs, parts[start:]]


def clean_staging(out: str) -> None:
    """Delete what commits that were killed have left; call it under the lease alone."""
    for name in files.list_directory(out):
        if _HALF.fullmatch(name):
            files.delete(files.join(out, name))
    directory, kept = files.join(out, "predictions"), set[str]()
    if is_committed(out):
        kept = {MANIFEST_FILE, SUCCESS_FILE, *(entry["name"] for entry in _entries(read_result_manifest(out)))}
    for name in files.list_directory(directory):
        if name not in kept and _OURS.fullmatch(name):
            files.delete(files.join(directory, name))


def staging_directory(out: str, *, owner: str) -> str:
    """Return where the commit of the job `owner` writes: beside the result, or in its place.

    In its place on an object store, which cannot rename, and where a result stands until the new one replaces it.
    """
    in_place = files.is_object_store(out) or is_committed(out)
    return files.join(out, "predictions" if in_place else f"predictions.{owner}.part")


def join_parts(
    out: str, parts: Sequence[Part], *, owner: str, rule: LabelRule, format: str, num_cpus: float
) -> dict[str, Any]:
    """Join `parts` into the files of the result, a Ray task each; return the manifest.

    The files are named after `owner`, the job. Raises FailureError when one cannot be written.
    """
    import ray

    staging = staging_directory(out, owner=owner)
    write = ray.remote(num_cpus=num_cpus)(write_file)
    tasks = [
        write.remote(out, staging, f"predictions-{number:05d}-{owner}", [part.name for part in run], format=format)
        for number, run in enumerate(plan_files(parts, columns=len(rule.schema)))
    ]
    try:
        entries = ray.get(tasks)
    except Exception as error:  # Ray wraps what a task raised in classes of its own
        raise FailureError(f"the predictions cannot be committed: {root_cause(error)}") from error
    return {
        "format": format,
        "rule": dataclasses.asdict(rule),
        "rows": sum(entry["rows"] for entry in entries),
        "files": entries,
    }


def write_file(out: str, staging: str, stem: str, parts: Sequence[str], *, format: str) -> dict[str, Any]:
    """Join `parts` into the file `stem` of the result below `staging`; return its entry in the manifest.

    Raises FailureError when a part cannot be read here.
    """
    found = [read_prediction_part(out, part) for part in parts]
    rows = pa.concat_tables([table for table, _ in found])
    content = encode(rows, format=format)
    name = f"{stem}.{FORMATS[format]}"
    files.write_bytes(files.join(staging, name), content, durable=True)
    return {
        "name": name,
        "rows": rows.num_rows,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "labels": dict(Counter(rows["label"].drop_null().to_pylist())),
        "errors": dict(Counter(error_codes(rows).to_pylist())),
        "retried": sum(retried for _, retried in found),
    }


def write_inputs(out: str, inputs: pa.Table, *, owner: str) -> dict[str, Any]:
    """Write beside the files of the result which photos they label, as they were; return the entry in the manifest."""
    sink = pa.BufferOutputStream()
    pq.write_table(inputs.select(["path", "version"]), sink, compression="zstd")
    content, name = bytes(sink.getvalue()), f"_INPUTS-{owner}"
    files.write_bytes(files.join(staging_directory(out, owner=owner), name), content, durable=True)
    return {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def read_inputs(out: str) -> pa.Table | None:
    """Return the paths and versions of the photos that the committed rows of `out` label, None where none are known."""
    entry = read_result_manifest(out).get("inputs")
    if entry is None:
        return None
    return pq.read_table(pa.BufferReader(files.read_bytes(files.join(out, "predictions", entry["name"]))))


def finish_commit(out: str, manifest: Mapping[str, Any], *, lease: Lease, replaces: bool) -> None:
    """Declare the files of `manifest` the result, `_SUCCESS` last, and drop the parts.

    `replaces`: a result stands, whose manifest is replaced in one write, and whose files go after that.
    Raises FailureError, and leaves all as it is, when another job took the folder over or has finished meanwhile, or
    a file is missing.
    """
    lease.check()
    if is_committed(out) != replaces:
        raise FailureError(f"another job has finished in {out} meanwhile; run the same command again")
    staging = staging_directory(out, owner=lease.owner)
    _check_sizes(staging, manifest)
    files.write_bytes(files.join(staging, MANIFEST_FILE), files.json_bytes(manifest), durable=True)
    files.write_bytes(files.join(staging, SUCCESS_FILE), b"", durable=True)
    result = files.join(out, "predictions")
    if staging != result:
        files.delete(result)  # has no _SUCCESS: of a commit that was killed
        files.rename(staging, result)
    clean_staging(out)
    files.delete(parts_directory(out))


def read_result_manifest(out: str) -> dict[str, Any]:
    """Return the manifest of committed predictions."""
    return files.read_json(files.join(out, "predictions", MANIFEST_FILE))


def read_rows(out: str, *, rule: LabelRule) -> Iterator[pa.Table]:
    """Yield the committed rows of `out`, a table for each file, in the order of the inputs."""
    manifest = read_result_manifest(out)
    for entry in manifest["files"]:
        content = files.read_bytes(files.join(out, "predictions", entry["name"]))
        yield decode(content, format=manifest["format"], schema=rule.schema, where=entry["name"])


def restore_parts(out: str, parts: Sequence[Part], *, rule: LabelRule, changed: Collection[str]) -> None:
    """Write the committed rows of `out` as `parts` again, but for those that are to be labelled again.

    These have an error that may be gone by now, or one of the `changed` paths.
    """
    standing, rest = finished_parts(out), list(parts)
    rows = rule.schema.empty_table()
    for table in read_rows(out, rule=rule):
        rows = pa.concat_tables([rows, table])
        while rest and rows.num_rows >= rest[0].rows:
            part = rest.pop(0)
            found, rows = rows.slice(0, part.rows), rows.slice(part.rows)
            outdated = has_passing_errors(found) or not set(changed).isdisjoint(found["path"].to_pylist())
            if part.name not in standing and not outdated:
                write_prediction_part(out, part.name, found, retried=0)


# Proof


def check_standing(out: str) -> None:
    """Raise FailureError unless each file of the committed manifest stands, with its size."""
    _check_sizes(files.join(out, "predictions"), read_result_manifest(out))


def _entries(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the entry of each file that `manifest` vouches for; earlier versions had none of the inputs."""
    return [*manifest["files"], *([manifest["inputs"]] if "inputs" in manifest else [])]


def _check_sizes(directory: str, manifest: Mapping[str, Any]) -> None:
    found = files.list_directory(directory)
    for entry in _entries(manifest):
        if entry["name"] not in found or found[entry["name"]].size != entry["bytes"]:
            state = "was changed after it was written" if entry["name"] in found else "is missing"
            raise FailureError(
                f"{files.join(directory, entry['name'])} {state}: label the photos again with --overwrite"
            )


def check_files(out: str) -> dict[str, Any]:
    """Check that the files of `out` are those of the manifest, byte for byte; return the manifest.

    Raises FailureError for the first that is missing, additional or changed, and where nothing was committed.
    """
    directory = files.join(out, "predictions")
    if not is_committed(out):
        raise FailureError(f"{directory} has no {SUCCESS_FILE}: the job is not finished; run its command again")
    manifest = read_result_manifest(out)
    _check_sizes(directory, manifest)
    known = {MANIFEST_FILE, SUCCESS_FILE, *(entry["name"] for entry in _entries(manifest))}
    for name in sorted(files.list_directory(directory).keys() - known):
        if not name.endswith(".part"):  # of a write that was killed
            raise FailureError(
                f"{files.join(directory, name)} does not belong there: label the photos again with --overwrite"
            )
    for entry in _entries(manifest):
        content = files.read_bytes(files.join(directory, entry["name"]))
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise _damage(directory, entry["name"], "was changed after it was written")
    return manifest


def _damage(directory: str, name: str, state: str) -> FailureError:
    return FailureError(f"{files.join(directory, name)} {state}: label the photos again with --overwrite")
