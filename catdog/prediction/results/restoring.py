"""Turns the rows of a finished result back into parts, for a job that labels some photos again."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from catdog.cluster.actors import Map
from catdog.photos.sources.listing.shards import Shard
from catdog.prediction.results.commit import ResultFile, result_files
from catdog.prediction.results.matching import RecordedPhotos, recorded_photos, spans
from catdog.prediction.results.parts import finished_parts, has_passing_errors, plan_parts, write_prediction_part
from catdog.prediction.results.rows import LabelRule

_Spans = Sequence[tuple[ResultFile | RecordedPhotos, int, int]]


def restore_parts(out: str, shards: Sequence[Shard], *, photos_per_part: int, rule: LabelRule, mapped: Map) -> None:
    """Write the committed rows of `out` as parts of `shards` again, except the parts that must be labelled again.

    Those have a row whose error may be gone by now, or a photo that was replaced or has changed since.
    """
    lengths = [shard.rows for shard in shards]
    rows, recorded = spans(lengths, result_files(out, rule=rule)), spans(lengths, recorded_photos(out))
    calls = ((out, *one, photos_per_part) for one in zip(shards, rows, recorded, strict=True))
    for _ in mapped(restore_shard, calls):
        pass


def restore_shard(out: str, shard: Shard, rows: _Spans, recorded: _Spans, photos_per_part: int) -> None:
    """Write the parts of `shard`, whose rows were committed in `rows` and whose photos are recorded in `recorded`."""
    inputs, standing = shard.read(), finished_parts(out, shard.name)
    committed, before = _read(rows), _read(recorded) if recorded else None
    for part in plan_parts(inputs, shard=shard.name, photos_per_part=photos_per_part):
        found, now = committed.slice(part.start, part.rows), inputs.slice(part.start, part.rows)
        if part.name in standing or not found["path"].equals(now["path"]) or has_passing_errors(found):
            continue
        if before is None or not _has_changed(before.slice(part.start, part.rows), now):
            write_prediction_part(out, part.name, found, retried=0)


def _read(pieces: _Spans) -> pa.Table:
    return pa.concat_tables([piece.read().slice(start, stop - start) for piece, start, stop in pieces])


def _has_changed(before: pa.Table, now: pa.Table) -> bool:
    """Return whether a photo has another version; photos without a record in `before` count as changed."""
    return not before["path"].equals(now["path"]) or bool(
        pc.any(pc.not_equal(before["version"], now["version"])).as_py()
    )
