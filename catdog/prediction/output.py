"""The output folder of a predict job: what the job was asked for, whether it still matches, and its summary."""

from __future__ import annotations

import enum
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from catdog.cluster.actors import Map
from catdog.config import PredictConfig
from catdog.console import counted, duration, say, table_text
from catdog.errors import BadPhotosError, UsageError
from catdog.photos.sources.listing.shards import SetDigest, Shard
from catdog.prediction.results import commit
from catdog.prediction.results.matching import Changes, find_changes
from catdog.report.page import PAGE_FILE
from catdog.storage import artifacts, files
from catdog.storage.ownership import check_folder
from catdog.storage.schemas import UNSURE

JOB_FILE = "predict.json"
SUMMARY_FILE = "summary.json"
EVALUATION_FILE = "evaluation.json"
SORTED_FILE = "sorted.json"
UNSORTED_FOLDER = "not-sorted"  # lists of the photos that could not be placed
SORTED_FILES = (SORTED_FILE, UNSORTED_FOLDER)
_CHUNK = 1 << 16  # paths that are converted to Python objects at a time
_MANY_LABELS = 12  # with more labels than this, those without photos are not listed


class Listing(Protocol):
    """The photos of a job, listed once, when they are first needed."""

    @property
    def shards(self) -> Sequence[Shard]:
        """The photos, in shards."""

    @property
    def digest(self) -> SetDigest:
        """The digest that identifies the set of photos."""


def set_name(digest: SetDigest) -> dict[str, Any]:
    """Return the entry that identifies a set of paths in predict.json."""
    found = digest.to_json()
    return {"files": found["files"], "paths": found["paths"]}


def is_set(stored: Any, digest: SetDigest, read_paths: Callable[[], Iterable[pa.ChunkedArray]]) -> bool:
    """Return whether `stored`, from predict.json, identifies the set of paths whose digest is `digest`.

    Earlier versions stored 16 hex digits of a hash over all paths in sorted order. The first of these versions wrote
    them as the text "N files DIGEST". For both, `read_paths` returns the paths.
    """
    if isinstance(stored, str):
        count, _, name = stored.split(" ")
        stored = {"files": int(count), "digest": name}
    if "digest" not in stored:
        return bool(stored == set_name(digest))
    if stored["files"] != digest.files:
        return False
    paths = pa.chunked_array([chunk for found in read_paths() for chunk in found.chunks], pa.string())
    return bool(stored["digest"] == earlier_digest(paths))


def earlier_digest(paths: pa.ChunkedArray) -> str:
    """Return the 16 hex digits by which earlier versions identified a set of `paths`; all are sorted in memory."""
    state, ordered = hashlib.sha256(), paths.take(pc.sort_indices(paths))
    for start in range(0, len(ordered), _CHUNK):
        for path in ordered.slice(start, _CHUNK).to_pylist():
            state.update(path.encode() + b"\0")
    return state.hexdigest()[:16]


class State(enum.Enum):
    """What a job finds in its output folder, and what it does about it."""

    NEW = enum.auto()
    UNFINISHED = enum.auto()  # some parts may exist; the missing ones are labelled
    FINISHED = enum.auto()
    OVERWRITTEN = enum.auto()  # --overwrite: all photos are labelled again
    RETRIED = enum.auto()  # --retry-errors: parts with changed photos or passing errors are labelled again


def default_out(photos: str) -> str:
    """Return the results folder of a job without --out, such that the same command finds it again."""
    name = re.sub(r"[^\w.-]+", "-", Path(files.split_query(photos)[0].rstrip("/")).stem).strip("-.")
    return f"labels/{name or 'photos'}"


def read_job(out: str) -> dict[str, Any]:
    """Return the content of predict.json in `out`, or an empty dictionary if no job began there."""
    path = files.join(out, JOB_FILE)
    if not files.exists(path):
        return {}
    return files.read_json(path)


def write_job(out: str, job: Mapping[str, Any]) -> None:
    """Write predict.json."""
    files.write_json(files.join(out, JOB_FILE), job)


def changed_photos(out: str, inputs: Listing, mapped: Map = itertools.starmap) -> Changes:
    """Return which of `inputs` have another version than when the committed rows were made; `mapped` compares them.

    A folder of an earlier version of catdog may record no versions. Then no changes are known.
    """
    before = commit.committed_digest(out)
    if before is None or before.versions == inputs.digest.versions:
        return Changes()
    return find_changes(out, inputs.shards, mapped)


def check_output(
    out: str,
    identity: Mapping[str, Any],
    *,
    inputs: Listing,
    overwrite: bool,
    retry_errors: bool,
    mapped: Map = itertools.starmap,
) -> State:
    """Compare the request with what an earlier command left in `out`; nothing is written.

    `identity` is everything that determines the rows, except the photos, which are `inputs`. The photos are not listed
    if they were moved away after they were labelled. Raises UsageError for a folder that is not ours, for a different
    job, naming the differences, and for photos that changed since, unless the flag for it is given. Raises
    FailureError if files of a finished result are missing or changed.
    """
    check_folder(out, kind="labels", flag="--out")
    found, wanted, committed = read_job(out), dict(identity), commit.is_committed(out)
    if committed and not found:
        found = {"photos": f"unknown: {JOB_FILE} is missing"}
    moved = committed and bool(found.get("moved"))
    if not moved:
        wanted["inputs"] = set_name(inputs.digest)
        if "inputs" in found and is_set(found["inputs"], inputs.digest, lambda: _paths(inputs.shards)):
            wanted["inputs"] = found["inputs"]
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
    changed = Changes() if moved else changed_photos(out, inputs, mapped)
    if changed.count:
        raise UsageError(
            f"{counted(changed.count, 'photo')} changed after labelling, such as {changed.first}: --retry-errors "
            "labels changed and failed photos again, --overwrite all of them"
        )
    return State.FINISHED


def _paths(shards: Iterable[Shard]) -> Iterator[pa.ChunkedArray]:
    return (shard.read()["path"] for shard in shards)


def clear(out: str) -> None:
    """Delete the results of an earlier job, but keep the folder's mark and any other files."""
    # _SUCCESS goes first, so that what is left after a kill does not look finished.
    names = [f"predictions/{commit.SUCCESS_FILE}", "predictions", "parts"]
    names += [EVALUATION_FILE, *SORTED_FILES, PAGE_FILE, SUMMARY_FILE, JOB_FILE]
    for name in names:
        files.delete(files.join(out, name))


def summarize(manifest: Mapping[str, Any], *, labelled: int, steps: Mapping[str, float]) -> dict[str, Any]:
    """Return the counts and times of summary.json; `labelled` is the number of photos this command labelled."""
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
        say(f"{counted(len(counts) - len(shown), 'label')} without photos are not listed.")
    again, rate = summary["io"]["recovered"], summary["photos_per_second"]
    say(
        f"{counted(summary['labelled_now'], 'photo')} in {duration(summary['seconds'])}: {rate:.1f} photos/s"
        + (f", {again} of them read after a retry" if again else "")
    )
    say(f"Predictions: {where}")


def refuse_bad_photos(summary: Mapping[str, Any], config: PredictConfig) -> None:
    """Raise BadPhotosError if the share of error rows exceeds the limit, UsageError if no file is a photo."""
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
