"""The result files of a predict job: how they are staged, committed, read back and checked.

A commit joins the parts into a few files of the requested format in `OUT/predictions`. It writes a manifest with the
checksum of each file, and `_SUCCESS` last. Files without `_SUCCESS` next to them are not finished.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from catdog.errors import FailureError, one_line
from catdog.photos.sources.listing.shards import SetDigest
from catdog.prediction.results.parts import parts_directory
from catdog.prediction.results.rows import LabelRule, decode
from catdog.storage import files
from catdog.storage.lease import Lease
from catdog.storage.tables import read_parquet

MANIFEST_FILE = "_MANIFEST.json"
SUCCESS_FILE = "_SUCCESS"
# The names of temporary files and folders in the output folder.
_HALF = re.compile(r"(predictions|inputs|\.?[a-z-]+(-[0-9a-f]{8})?\.(json|parquet|html))(\.[0-9a-f]{8})?\.part")
# What commits write into the folder of a result, complete or not.
_OURS = re.compile(
    r"(predictions-\d{5,}(-[0-9a-f]{8})?\.(parquet|csv|jsonl)|_INPUTS(-\d{5,})?-[0-9a-f]{8}|_MANIFEST\.json|_SUCCESS)"
    r"(\.[0-9a-f]{8}\.part)?"
)


def is_committed(out: str) -> bool:
    """Return whether the predictions of `out` are finished."""
    return files.exists(files.join(out, "predictions", SUCCESS_FILE))


def inputs_directory(out: str, *, owner: str) -> str:
    """Return the folder where the job `owner` keeps the shards of its inputs while it runs."""
    return files.join(out, f"inputs.{owner}.part")


def clean_staging(out: str, *, owner: str = "") -> None:
    """Delete what killed jobs left behind, except the inputs of `owner`; call it only while holding the lease."""
    for name in files.list_directory(out):
        if _HALF.fullmatch(name) and name != f"inputs.{owner}.part":
            files.delete(files.join(out, name))
    directory, kept = files.join(out, "predictions"), set[str]()
    if is_committed(out):
        kept = {MANIFEST_FILE, SUCCESS_FILE, *(entry["name"] for entry in _entries(read_result_manifest(out)))}
    for name in files.list_directory(directory):
        if name not in kept and _OURS.fullmatch(name):
            files.delete(files.join(directory, name))


def staging_directory(out: str, *, owner: str) -> str:
    """Return the folder that the commit of the job `owner` writes to: next to the result, or in its place.

    It writes in place on an object store, which cannot rename, and if a result exists until the new one replaces it.
    """
    in_place = files.is_object_store(out) or is_committed(out)
    return files.join(out, "predictions" if in_place else f"predictions.{owner}.part")


def committed_digest(out: str) -> SetDigest | None:
    """Return the digest of the photos that the committed rows of `out` label, or None if their versions are unknown.

    Earlier releases wrote no digest, and the first of them no versions either.
    """
    entries = read_result_manifest(out)["files"]
    if all("digest" in entry for entry in entries):
        return SetDigest.total(SetDigest.from_json(entry["digest"]) for entry in entries)
    inputs = list(read_inputs(out))
    return SetDigest.total(map(SetDigest.of, inputs)) if inputs else None


def read_inputs(out: str) -> Iterator[pa.Table]:
    """Yield paths and versions of the photos that the committed rows of `out` label; nothing if they are unknown."""
    manifest = read_result_manifest(out)
    entries = [entry["inputs"] for entry in (*manifest["files"], manifest) if "inputs" in entry]
    for entry in entries:
        yield read_parquet(files.join(out, "predictions", entry["name"]))


def finish_commit(out: str, manifest: Mapping[str, Any], *, lease: Lease, replaces: bool) -> None:
    """Make the files of `manifest` the result, writing `_SUCCESS` last, and delete the parts.

    With `replaces`, a result exists. Its manifest is replaced in one write; the old files are deleted after that.
    Raises FailureError, and changes nothing, if another job has taken over the folder or finished meanwhile, or if a
    file is missing or has another size.
    """
    lease.check()
    if is_committed(out) != replaces:
        raise FailureError(f"another job finished in {out} in the meantime; run the same command again")
    staging = staging_directory(out, owner=lease.owner)
    _check_sizes(staging, manifest)
    files.write_bytes(files.join(staging, MANIFEST_FILE), files.json_bytes(manifest), durable=True)
    files.write_bytes(files.join(staging, SUCCESS_FILE), b"", durable=True)
    result = files.join(out, "predictions")
    if staging != result:
        files.delete(result)  # without _SUCCESS: left by a killed commit
        files.rename(staging, result)
    clean_staging(out, owner=lease.owner)
    files.delete(parts_directory(out))


def read_result_manifest(out: str) -> dict[str, Any]:
    """Return the manifest of committed predictions."""
    return files.read_json(files.join(out, "predictions", MANIFEST_FILE))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResultFile:
    """A file of committed rows, in a form for tasks; `first` is the number of its first row in the whole result."""

    directory: str
    name: str
    sha256: str
    format: str
    rule: LabelRule
    first: int
    rows: int

    def read(self) -> pa.Table:
        """Return its rows. Raises FailureError if it cannot be read on this node or has another schema."""
        try:
            content = files.read_bytes(files.join(self.directory, self.name))
        except OSError as error:
            raise FailureError(
                f"{files.join(self.directory, self.name)} cannot be read ({one_line(error)}): --out must be a folder "
                "that all machines share, or a URI"
            ) from error
        return decode(content, format=self.format, schema=self.rule.schema, where=self.name)


def result_files(out: str, *, rule: LabelRule) -> list[ResultFile]:
    """Return the files of the committed rows of `out`, in their order."""
    manifest = read_result_manifest(out)
    found: list[ResultFile] = []
    for entry in manifest["files"]:
        found.append(
            ResultFile(
                directory=files.join(out, "predictions"),
                name=entry["name"],
                sha256=entry["sha256"],
                format=manifest["format"],
                rule=rule,
                first=found[-1].first + found[-1].rows if found else 0,
                rows=entry["rows"],
            )
        )
    return found


def read_rows(out: str, *, rule: LabelRule) -> Iterator[pa.Table]:
    """Yield the committed rows of `out`, a table for each file, in the order of the inputs."""
    return (result.read() for result in result_files(out, rule=rule))


# Proof


def check_standing(out: str) -> None:
    """Raise FailureError unless each file of the committed manifest exists with its recorded size."""
    _check_sizes(files.join(out, "predictions"), read_result_manifest(out))


def _entries(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the entry of each file in `manifest`; earlier releases had a single one for the inputs, or none."""
    return [*manifest["files"], *(entry["inputs"] for entry in (*manifest["files"], manifest) if "inputs" in entry)]


def _check_sizes(directory: str, manifest: Mapping[str, Any]) -> None:
    found = files.list_directory(directory)
    for entry in _entries(manifest):
        if entry["name"] not in found or found[entry["name"]].size != entry["bytes"]:
            state = "was changed after it was written" if entry["name"] in found else "is missing"
            raise FailureError(
                f"{files.join(directory, entry['name'])} {state}: label the photos again with --overwrite"
            )


def check_folder(out: str) -> dict[str, Any]:
    """Check that the committed files of `out` exist with their sizes, and no others; return the manifest.

    Raises FailureError for the first file that is missing, additional or changed, and if nothing was committed.
    """
    directory = files.join(out, "predictions")
    if not is_committed(out):
        raise FailureError(f"{directory} has no {SUCCESS_FILE}: the job is not finished; run its command again")
    manifest = read_result_manifest(out)
    _check_sizes(directory, manifest)
    known = {MANIFEST_FILE, SUCCESS_FILE, *(entry["name"] for entry in _entries(manifest))}
    for name in sorted(files.list_directory(directory).keys() - known):
        if not name.endswith(".part"):  # left by a write that was killed
            raise FailureError(
                f"{files.join(directory, name)} does not belong there: label the photos again with --overwrite"
            )
    if "inputs" in manifest:
        _read_checked(directory, manifest["inputs"])
    return manifest


def check_file(out: str, entry: Mapping[str, Any], *, format: str, rule: LabelRule) -> SetDigest:
    """Check that a result file matches the checksum in its `entry`, and return the digest of its rows' paths.

    Raises FailureError if it does not, or if the file of its inputs does not match.
    """
    directory = files.join(out, "predictions")
    if "inputs" in entry:
        _read_checked(directory, entry["inputs"])
    content = _read_checked(directory, entry)
    rows = decode(content, format=format, schema=rule.schema, where=entry["name"])
    return SetDigest.of(rows.select(["path"]).append_column("version", pa.nulls(rows.num_rows, pa.string())))


def _read_checked(directory: str, entry: Mapping[str, Any]) -> bytes:
    content = files.read_bytes(files.join(directory, entry["name"]))
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise _damage(directory, entry["name"], "was changed after it was written")
    return content


def _damage(directory: str, name: str, state: str) -> FailureError:
    return FailureError(f"{files.join(directory, name)} {state}: label the photos again with --overwrite")
