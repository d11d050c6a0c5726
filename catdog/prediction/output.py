"""The folder of a predict job's results: what was asked for, whether that is still the same, and its proof."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from catdog.config import PredictConfig
from catdog.console import counted, duration, say, table_text
from catdog.errors import BadPhotosError, FailureError, UsageError
from catdog.photos.sources.inputs import list_inputs
from catdog.photos.sources.tables import TableColumns
from catdog.prediction.results import commit
from catdog.prediction.results.rows import LabelRule
from catdog.report.page import PAGE_FILE
from catdog.storage import artifacts, files
from catdog.storage.ownership import check_folder
from catdog.storage.schemas import UNSURE

JOB_FILE = "predict.json"
SUMMARY_FILE = "summary.json"
EVALUATION_FILE = "evaluation.json"
SORTED_FILE = "sorted.json"
_CHUNK = 1 << 16  # of rows that are Python objects at a time
_MANY_LABELS = 12  # of more, those without photos are not listed


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputsDigest:
    """How many inputs there are, and 16 hex digits that name the set of their paths, whatever their order."""

    files: int
    digest: str

    @classmethod
    def of(cls, paths: pa.ChunkedArray) -> InputsDigest:
        """Return the digest of `paths`, strings that are sorted here as UTF-8 is."""
        state, ordered = hashlib.sha256(), paths.take(pc.sort_indices(paths))
        for start in range(0, len(ordered), _CHUNK):
            for path in ordered.slice(start, _CHUNK).to_pylist():
                state.update(path.encode() + b"\0")
        return cls(files=len(paths), digest=state.hexdigest()[:16])

    @classmethod
    def from_json(cls, stored: Any) -> InputsDigest:
        """Return what `to_json` gave; earlier versions stored the sentence "N files DIGEST"."""
        if isinstance(stored, str):
            count, _, digest = stored.split(" ")
            return cls(files=int(count), digest=digest)
        return cls(**stored)

    def to_json(self) -> dict[str, Any]:
        """Return the digest as predict.json holds it."""
        return dataclasses.asdict(self)


class Listing(Protocol):
    """The photos of a job, listed when they are first needed, once."""

    @property
    def table(self) -> pa.Table:
        """The photos, as list_inputs lists them."""

    @property
    def digest(self) -> InputsDigest:
        """What names the set of their paths."""


class State(enum.Enum):
    """What a job finds in its output folder, and does about it."""

    NEW = enum.auto()
    UNFINISHED = enum.auto()  # parts stand: the others are labelled
    FINISHED = enum.auto()
    OVERWRITTEN = enum.auto()  # --overwrite: all is labelled again
    RETRIED = enum.auto()  # --retry-errors: parts with errors that may pass are labelled again


def default_out(photos: str) -> str:
    """Return where the results go of a job that names no --out: the same command finds them again."""
    name = re.sub(r"[^\w.-]+", "-", Path(files.split_query(photos)[0].rstrip("/")).stem).strip("-.")
    return f"labels/{name or 'photos'}"


def read_job(out: str) -> dict[str, Any]:
    """Return what predict.json of `out` holds; an empty dictionary where no job began."""
    path = files.join(out, JOB_FILE)
    if not files.exists(path):
        return {}
    found = files.read_json(path)
    if "inputs" in found:
        found["inputs"] = InputsDigest.from_json(found["inputs"]).to_json()
    return found


def write_job(out: str, job: Mapping[str, Any]) -> None:
    """Write predict.json."""
    files.write_json(files.join(out, JOB_FILE), job)


def changed_photos(out: str, inputs: pa.Table) -> list[str]:
    """Return the paths of `inputs` whose version is another one than when the committed rows were made, sorted.

    A folder of an earlier version of catdog has no versions, and so no changes that could be known.
    """
    before = commit.read_inputs(out)
    if before is None:
        return []
    both = inputs.select(["path", "version"]).join(before.rename_columns(["path", "before"]), "path", join_type="inner")
    found: list[str] = both.filter(pc.not_equal(both["version"], both["before"]))["path"].sort().to_pylist()
    return found


def check_output(
    out: str, identity: Mapping[str, Any], *, inputs: Listing, overwrite: bool, retry_errors: bool
) -> State:
    """Compare what is asked for with what an earlier command left in `out`; nothing is written.

    `identity` is what decides the rows but for the photos, which `inputs` are; they are not listed where the photos
    were moved away after they were labelled. Raises UsageError for a folder that is not ours, with the differences
    when the job was another, and for photos that changed since, unless the flag for it is given; FailureError where
    files of a finished result are missing.
    """
    check_folder(out, kind="labels", flag="--out")
    found, wanted, committed = read_job(out), dict(identity), commit.is_committed(out)
    if committed and not found:
        found = {"photos": f"unknown: {JOB_FILE} is missing"}
    moved = committed and bool(found.get("moved"))
    if not moved:
        wanted["inputs"] = inputs.digest.to_json()
    if not found:
        return State.NEW
    same = all(found.get(key) == value for key, value in wanted.items())
    if overwrite and (committed or not same):
        return State.OVERWRITTEN
    artifacts.refuse_difference(out, found=found, wanted=wanted, remedy="another --out, or --overwrite to label again")
    if not committed:
        return State.UNFINISHED
    commit.check_standing(out)
    if retry_errors and moved:
        raise UsageError("--retry-errors: the photos were moved after they were labelled: leave it out")
    if retry_errors:
        return State.RETRIED
    changed = [] if moved else changed_photos(out, inputs.table)
    if changed:
        raise UsageError(
            f"{counted(len(changed), 'photo')} changed after labelling, such as {changed[0]}: --retry-errors labels "
            "changed and failed photos again, --overwrite all of them"
        )
    return State.FINISHED


def clear(out: str) -> None:
    """Delete the results of an earlier job, but for the folder's mark and whatever else stands there."""
    # The mark goes first: what is left after a kill must not look finished.
    names = [f"predictions/{commit.SUCCESS_FILE}", "predictions", "parts"]
    names += [EVALUATION_FILE, SORTED_FILE, PAGE_FILE, SUMMARY_FILE, JOB_FILE]
    for name in names:
        files.delete(files.join(out, name))


def verify(out: str) -> None:
    """Prove that the committed rows below `out` are the files of their source, each once.

    Raises UsageError where no predict job left anything, FailureError with what is wrong.
    """
    if not out:
        raise UsageError("--verify: expected --out, the folder of a predict job's results")
    out = files.absolute(out)
    job = read_job(out)
    if not job:
        raise UsageError(f"expected the results of a predict job in {out}, found no {JOB_FILE}: check --out")
    manifest = commit.check_files(out)
    rule = LabelRule(**{**manifest["rule"], "classes": tuple(manifest["rule"]["classes"])})
    rows = pa.chunked_array([chunk for table in commit.read_rows(out, rule=rule) for chunk in table["path"].chunks])
    counts = rows.value_counts()
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(twice):
        raise FailureError(f"{counted(len(twice), 'file')} with more than one row, such as {twice[0]}")
    if InputsDigest.of(rows).to_json() != job["inputs"]:
        raise FailureError(
            f"the {len(rows)} rows are not those of the {job['inputs']['files']} files that were found when the job "
            "began: label the photos again with --overwrite"
        )
    checksums = counted(len(manifest["files"]), "file")
    say(f"Verified: {counted(len(rows), 'row')}, each of another photo; the checksums agree ({checksums}).")
    if job.get("moved"):
        say(f"The photos themselves were moved out of {job['photos']} afterwards.")
        return
    _compare_with_source(out, job, rows)


def _compare_with_source(out: str, job: Mapping[str, Any], rows: pa.ChunkedArray) -> None:
    """Raise FailureError unless the photos are those that `rows` has, as they were."""
    columns = TableColumns(content=job.get("bytes_column", ""), name=job.get("name_column", ""))
    inputs = list_inputs(job["photos"], exclude=[out, *job["exclude"]], columns=columns)
    listed = inputs["path"]
    new = listed.filter(pc.invert(pc.is_in(listed, rows.combine_chunks())))
    gone = rows.filter(pc.invert(pc.is_in(rows, listed.combine_chunks())))
    changed = pa.chunked_array([changed_photos(out, inputs)], pa.string())
    differences = [("file", "without a row", new), ("row", "without a file", gone), ("photo", "changed", changed)]
    said = [
        f"{counted(len(found), noun)} {what}, such as {pc.min(found)}"
        for noun, what, found in differences
        if len(found)
    ]
    if said:
        raise FailureError(f"{job['photos']} has changed since: {', '.join(said)}; --overwrite labels all photos again")
    say(f"{job['photos']} holds the same photos today ({counted(len(listed), 'file')}).")


def summarize(manifest: Mapping[str, Any], *, labelled: int, steps: Mapping[str, float]) -> dict[str, Any]:
    """Return the counts and times of summary.json; `labelled` photos were labelled by this command."""
    rule, seconds = manifest["rule"], sum(steps.values())
    labels, errors = (
        sum((Counter(entry[name]) for entry in manifest["files"]), Counter[str]()) for name in ("labels", "errors")
    )
    faults = errors.pop("io", 0)
    return {
        "photos": manifest["rows"],
        "labels": {name: labels[name] for name in rule["classes"] if name != rule["rest"]},
        **({"unsure": labels[UNSURE]} if rule["threshold"] else {}),
        "errors": dict(errors.most_common()),
        "io": {"failed": faults, "recovered": sum(entry["retried"] for entry in manifest["files"])},
        "labelled_now": labelled,
        "seconds": round(seconds, 3),
        "steps": {step: round(took, 3) for step, took in steps.items()},
        "photos_per_second": round(labelled / seconds, 1),
    }


def say_summary(summary: Mapping[str, Any], *, where: str) -> None:
    """Print the counts by label and error, the rate, and where the predictions are."""
    photos = summary["photos"]
    bad = {**summary["errors"], **({"io": summary["io"]["failed"]} if summary["io"]["failed"] else {})}
    counts = {
        **summary["labels"],
        **({UNSURE: summary["unsure"]} if "unsure" in summary else {}),
        "errors": sum(bad.values()),
    }
    shown = {name: count for name, count in counts.items() if count or len(counts) <= _MANY_LABELS}
    rows = [
        ("label", "photos", "share"),
        *((name, str(count), f"{count / photos:.1%}") for name, count in shown.items()),
    ]
    rows += [(f"  {code}", str(count), "") for code, count in bad.items()]
    say("")
    say(table_text(rows))
    if len(shown) < len(counts):
        say(f"{counted(len(counts) - len(shown), 'label')} without photos not listed.")
    again, rate = summary["io"]["recovered"], summary["photos_per_second"]
    say(
        f"{counted(summary['labelled_now'], 'photo')} in {duration(summary['seconds'])}: {rate:.1f} photos/s"
        + (f", {again} of them read after a retry" if again else "")
    )
    say(f"Predictions: {where}")


def refuse_bad_photos(summary: Mapping[str, Any], config: PredictConfig) -> None:
    """Raise BadPhotosError where the share of error rows is over the limit; UsageError where nothing is a photo."""
    photos, errors = summary["photos"], summary["errors"]
    bad = sum(errors.values()) + summary["io"]["failed"]
    if errors.keys() <= {"empty", "not-an-image"} and bad == photos:
        raise UsageError(
            f"expected photos in {config.photos}, found {counted(photos, 'file')}, none an image: check --photos"
        )
    if bad > config.max_errors * photos:
        raise BadPhotosError(
            f"{bad} of {counted(photos, 'photo')} have errors, more than --max-errors {config.max_errors:g} allows; "
            "their rows say why, all results are written"
        )
