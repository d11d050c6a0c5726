"""The rows of a finished result as parts again, for a job that labels some of them anew."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pyarrow as pa

from catdog.photos.sources.shards import Shard
from catdog.prediction.results.commit import read_rows
from catdog.prediction.results.parts import finished_parts, has_passing_errors, plan_parts, write_prediction_part
from catdog.prediction.results.rows import LabelRule


def restore_parts(
    out: str, shards: Sequence[Shard], *, photos_per_part: int, rule: LabelRule, changed: Collection[str]
) -> None:
    """Write the committed rows of `out` as parts of `shards` again, but for those that are to be labelled again.

    These have an error that may be gone by now, or one of the `changed` paths.
    """
    outdated, tables = set(changed), read_rows(out, rule=rule)
    rows = rule.schema.empty_table()
    for shard in shards:
        inputs, standing = shard.read(), finished_parts(out, shard.name)
        for part in plan_parts(inputs, shard=shard.name, photos_per_part=photos_per_part):
            while rows.num_rows < part.rows and (table := next(tables, None)) is not None:
                rows = pa.concat_tables([rows, table])
            found, rows = rows.slice(0, part.rows), rows.slice(part.rows)
            wanted = inputs["path"].slice(part.start, part.rows)
            kept = found["path"].equals(wanted) and outdated.isdisjoint(wanted.to_pylist())
            if kept and part.name not in standing and not has_passing_errors(found):
                write_prediction_part(out, part.name, found, retried=0)
