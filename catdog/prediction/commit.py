"""Parts and the files they are joined into: written, counted, read back, proved complete.

Under `OUT/parts` stand Parquet parts, each whole, in the order of the inputs; a killed job resumes from them.
A commit joins them into a few files of the format asked for under `OUT/predictions`, with a manifest that has the
checksum of each, and `_SUCCESS` last. What has no `_SUCCESS` beside it is not finished.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from catdog.cluster.failures import root_cause
from catdog.errors import FailureError, one_line
from catdog.prediction.rows import FORMATS, LabelRule, decode, encode
from catdog.storage import files

MANIFEST_FILE = "_MANIFEST.json"
SUCCESS_FILE = "_SUCCESS"
_CELLS_PER_FILE = 1_500_000  # about 250,000 rows of two classes: a spreadsheet opens it, a task holds it in memory


# Parts


def parts_directory(out: str) -> str:
    """Return where the parts of an unfinished job stand."""
    return files.join(out, "parts")


def part_path(out: str, part: int) -> str:
    """Return the place of part number `part`."""
    return files.join(parts_directory(out), f"part-{part:07d}.parquet")


def write_prediction_part(out: str, part: int, rows: pa.Table, *, retried: int) -> None:
    """Write one part, whole or not at all; `retried` photos of it were read at a second try or later."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows.replace_schema_metadata({"retried": str(retried)}), sink)
    files.write_bytes(part_path(out, part), sink.getvalue())


def finished_parts(out: str) -> set[int]:
    """Return the numbers of the parts that stand."""
    system, inside = files.open_filesystem(parts_directory(out))
    found = system.get_file_info(fs.FileSelector(inside, allow_not_found=True))
    names = (entry.base_name for entry in found)
    return {int(name[5:-8]) for name in names if name.startswith("part-") and name.endswith(".parquet")}


# Committing


def is_committed(out: str) -> bool:
    """Tell whether the predictions of `out` are finished."""
    return files.exists(files.join(out, "predictions", SUCCESS_FILE))


def plan_files(part_rows: Sequence[int], *, columns: int) -> list[range]:
    """Return for each file of the result the run of parts that it is made of."""
    limit, runs, start, rows = max(1, _CELLS_PER_FILE // columns), [], 0, 0
    for part, count in enumerate(part_rows):
        if rows and rows + count > limit:
            runs.append(range(start, part))
            start, rows = part, 0
        rows += count
    return [*runs, range(start, len(part_rows))]


def join_parts(out: str, part_rows: Sequence[int], *, rule: LabelRule, format: str, num_cpus: float) -> dict[str, Any]:
    """Join the parts, of `part_rows` rows each, into the files of the result, a Ray task each; return the manifest.

    Raises FailureError when a file cannot be written.
    """
    import ray

    staging = staging_directory(out)
    files.delete(staging)  # of a commit that was killed
    runs = plan_files(part_rows, columns=len(rule.schema))
    write = ray.remote(num_cpus=num_cpus)(write_file)
    try:
        entries = ray.get(
            [write.remote(out, staging, number, parts, format=format) for number, parts in enumerate(runs)]
        )
    except Exception as error:  # Ray wraps what a task raised in classes of its own
        raise FailureError(f"the predictions cannot be committed: {root_cause(error)}") from error
    return {
        "format": format,
        "rule": dataclasses.asdict(rule),
        "rows": sum(entry["rows"] for entry in entries),
        "files": entries,
    }


def write_file(out: str, staging: str, number: int, parts: range, *, format: str) -> dict[str, Any]:
    """Join `parts` into one file of the result below `staging`; return its entry in the manifest.

    Raises FailureError when a part cannot be read here.
    """
    tables, retried = [], 0
    for part in parts:
        try:
            table = pq.read_table(pa.BufferReader(files.read_bytes(part_path(out, part))))
        except (OSError, pa.ArrowException) as error:
            raise FailureError(
                f"{part_path(out, part)} cannot be read ({one_line(error)}): --out must be a folder that all "
                "machines share, or a URI; give one, or delete the part and run the command again"
            ) from error
        retried += int(table.schema.metadata[b"retried"])
        tables.append(table.replace_schema_metadata())
    rows = pa.concat_tables(tables)
    content = encode(rows, format=format)
    name = f"predictions-{number:05d}.{FORMATS[format]}"
    files.write_bytes(files.join(staging, name), content)
    codes = pc.list_element(pc.split_pattern(rows["error"].drop_null(), ":", max_splits=1), 0)
    return {
        "name": name,
        "rows": rows.num_rows,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "labels": dict(Counter(rows["label"].drop_null().to_pylist())),
        "errors": dict(Counter(codes.to_pylist())),
        "retried": retried,
    }


def staging_directory(out: str) -> str:
    """Return where a commit writes: beside the result, or, on an object store, which cannot rename, in its place."""
    return files.join(out, "predictions" if files.is_uri(out) else "predictions.part")


def finish_commit(out: str, manifest: Mapping[str, Any]) -> None:
    """Declare what stands in the staging directory to be the result, `_SUCCESS` last, and drop the parts."""
    staging = staging_directory(out)
    files.write_json(files.join(staging, MANIFEST_FILE), manifest)
    files.write_bytes(files.join(staging, SUCCESS_FILE), b"")
    if not files.is_uri(out):
        system, inside = files.open_filesystem(staging)
        system.move(inside, files.join(out, "predictions"))
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


# Proof


def check_files(out: str) -> dict[str, Any]:
    """Check that the files of `out` are those of the manifest, byte for byte; return the manifest.

    Raises FailureError for the first that is missing, additional or changed, and where nothing was committed.
    """
    directory = files.join(out, "predictions")
    if not is_committed(out):
        raise FailureError(f"{directory} has no {SUCCESS_FILE}: the job is not finished; run its command again")
    manifest = read_result_manifest(out)
    system, inside = files.open_filesystem(directory)
    found = {entry.base_name for entry in system.get_file_info(fs.FileSelector(inside))}
    wanted = {entry["name"] for entry in manifest["files"]}
    for name in sorted((found ^ wanted) - {MANIFEST_FILE, SUCCESS_FILE}):
        state = "is missing" if name in wanted else "does not belong there"
        raise FailureError(f"{files.join(directory, name)} {state}: label the photos again with --overwrite")
    for entry in manifest["files"]:
        path = files.join(directory, entry["name"])
        if hashlib.sha256(files.read_bytes(path)).hexdigest() != entry["sha256"]:
            raise FailureError(f"{path} was changed after it was written: label the photos again with --overwrite")
    return manifest
