"""Verifies a result: its files are unchanged, and its rows match the photos, exactly one row for each."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from catdog.cluster.actors import task_errors
from catdog.cluster.connection import connected
from catdog.console import counted, say
from catdog.errors import FailureError, UsageError
from catdog.photos.sources.containers.packed import MorePhotosError
from catdog.photos.sources.containers.tables import TableColumns
from catdog.photos.sources.inputs import list_inputs
from catdog.photos.sources.listing.packed_tasks import list_many
from catdog.photos.sources.listing.shards import MAX_IN_ONE_PROCESS, SetDigest, Shard, cut_into_shards, read_all
from catdog.prediction import output
from catdog.prediction.results import commit
from catdog.prediction.results.rows import LabelRule
from catdog.storage import files

_MAX_ROWS_IN_ONE_PROCESS = 1_000_000  # checking them takes two seconds; Ray takes several to start


def verify(out: str) -> None:
    """Check that the committed rows below `out` match the files of their source, exactly one row for each.

    Raises UsageError if no predict job left anything there, and FailureError that says what is wrong.
    """
    if not out:
        raise UsageError("--verify: expected --out, the folder of a predict job's results")
    out = files.absolute(out)
    job = output.read_job(out)
    if not job:
        raise UsageError(f"expected the results of a predict job in {out}, found no {output.JOB_FILE}: check --out")
    manifest = commit.check_folder(out)
    rule = LabelRule(**{**manifest["rule"], "classes": tuple(manifest["rule"]["classes"])})
    with contextlib.ExitStack() as cluster:
        rows = _check_files(out, manifest, rule, cluster)
        _check_rows(out, job, manifest, rule=rule, rows=rows)
        if job.get("moved"):
            say(f"The photos themselves were moved out of {job['photos']} afterwards.")
        else:
            _compare_with_source(out, job, rule, rows, cluster)


def _check_files(out: str, manifest: Mapping[str, Any], rule: LabelRule, cluster: contextlib.ExitStack) -> SetDigest:
    """Check each result file, in Ray tasks if there are many rows, and return the digest of all rows."""
    settings = {"format": manifest["format"], "rule": rule}
    entries = manifest["files"]
    if sum(entry["rows"] for entry in entries) <= _MAX_ROWS_IN_ONE_PROCESS:
        return SetDigest.total(commit.check_file(out, entry, **settings) for entry in entries)
    import ray

    cluster.enter_context(connected())
    task = ray.remote(commit.check_file)
    with task_errors():
        return SetDigest.total(ray.get([task.remote(out, entry, **settings) for entry in entries]))


def _check_rows(
    out: str, job: Mapping[str, Any], manifest: Mapping[str, Any], *, rule: LabelRule, rows: SetDigest
) -> None:
    """Raise FailureError unless the committed rows, whose digest is `rows`, match the photos that the job found."""
    if not output.is_set(job["inputs"], rows, lambda: (table["path"] for table in commit.read_rows(out, rule=rule))):
        raise _wrong_rows(out, rule, expected=job["inputs"])
    checksums = counted(len(manifest["files"]), "file")
    say(f"Verified: {counted(rows.files, 'row')}, one for each photo; the checksums match ({checksums}).")


def _wrong_rows(out: str, rule: LabelRule, *, expected: Any) -> FailureError:
    """Return the error for rows that do not match the photos, whose paths are all different."""
    rows = pa.concat_tables(table.select(["path"]) for table in commit.read_rows(out, rule=rule))["path"]
    counts = rows.value_counts()
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(twice):
        return FailureError(f"{counted(len(twice), 'file')} with more than one row, such as {twice[0]}")
    count = expected.split(" ")[0] if isinstance(expected, str) else expected["files"]
    return FailureError(
        f"the {len(rows)} rows do not match the {count} files that were found when the job started: label the "
        "photos again with --overwrite"
    )


class _Source:
    """The photos of a job as they are found now."""

    def __init__(self, out: str, job: Mapping[str, Any], cluster: contextlib.ExitStack) -> None:
        self._cluster = cluster
        self._photos, self._exclude = job["photos"], [out, *job["exclude"]]
        self._columns = TableColumns(content=job.get("bytes_column", ""), name=job.get("name_column", ""))

    @functools.cached_property
    def shards(self) -> Sequence[Shard]:
        """The photos, all in memory."""
        return cut_into_shards(list_inputs(self._photos, exclude=self._exclude, columns=self._columns))

    @functools.cached_property
    def digest(self) -> SetDigest:
        """The digest that identifies the set of photos; if there are many, tasks list them and nothing is stored."""
        at_most = MAX_IN_ONE_PROCESS
        try:
            listed = list_inputs(self._photos, exclude=self._exclude, columns=self._columns, at_most=at_most)
        except MorePhotosError as error:
            self._cluster.enter_context(connected())
            return SetDigest.total(one.digest for one in list_many(error, exclude=self._exclude, num_cpus=1.0))
        return SetDigest.of(listed)


def _compare_with_source(
    out: str, job: Mapping[str, Any], rule: LabelRule, rows: SetDigest, cluster: contextlib.ExitStack
) -> None:
    """Raise FailureError unless the source holds the photos of the rows, whose digest is `rows`, unchanged."""
    found = _Source(out, job, cluster)
    changed = output.changed_photos(out, found)
    differences = [("photo", "changed", changed.count, changed.first)]
    if output.set_name(found.digest) != output.set_name(rows):
        listed = read_all(found.shards)["path"]
        known = pa.chunked_array(
            [chunk for table in commit.read_rows(out, rule=rule) for chunk in table["path"].chunks]
        )
        new = listed.filter(pc.invert(pc.is_in(listed, known.combine_chunks())))
        gone = known.filter(pc.invert(pc.is_in(known, listed.combine_chunks())))
        found_new, found_gone = ((len(paths), str(pc.min(paths))) for paths in (new, gone))
        differences = [("file", "without a row", *found_new), ("row", "without a file", *found_gone), *differences]
    said = [f"{counted(count, noun)} {what}, such as {first}" for noun, what, count, first in differences if count]
    if said:
        raise FailureError(f"{job['photos']} has changed since: {', '.join(said)}; --overwrite labels all photos again")
    say(f"{job['photos']} still holds the same photos ({counted(found.digest.files, 'file')}).")
