"""The parts of an unfinished job: Parquet files with the rows of some photos each, from which a killed job resumes.

They lie below `OUT/parts`, in a folder for each shard of the inputs, until a commit has joined them. Each is written
atomically.
"""

from __future__ import annotations

import dataclasses
import hashlib

import pyarrow as pa
import pyarrow.compute as pc

from catdog.errors import FailureError, one_line
from catdog.photos.sources.inputs import part_bounds
from catdog.photos.sources.listing.shards import Shard
from catdog.storage import files
from catdog.storage.tables import read_parquet, write_parquet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One part: the name of its file below the folder of parts, and its range of rows in its shard."""

    name: str
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """The number of its photos."""
        return self.stop - self.start


def parts_directory(out: str) -> str:
    """Return the folder of the parts of an unfinished job."""
    return files.join(out, "parts")


def photos_per_part(photos: int) -> int:
    """Return the size of a part: small enough to share work out and to lose little in a kill, but not tiny."""
    return min(256, max(32, photos // 24))


def plan_parts(rows: pa.Table, *, shard: str, photos_per_part: int) -> list[Part]:
    """Cut the `rows` of `shard` into parts of at most `photos_per_part` photos, in their order.

    A part is named after its shard, its number and 16 hex digits of a hash of its photos' paths and versions. So its
    name alone shows that it holds these photos in their current versions.
    """
    parts = []
    paths, versions = rows["path"].to_pylist(), rows["version"].to_pylist()
    for number, (start, stop) in enumerate(part_bounds(rows, photos_per_part=photos_per_part)):
        state = hashlib.sha256()
        for path, version in zip(paths[start:stop], versions[start:stop], strict=True):
            state.update(f"{path}\0{version or ''}\0".encode())
        name = f"{shard}/part-{number:07d}-{state.hexdigest()[:16]}.parquet"
        parts.append(Part(name=name, start=start, stop=stop))
    return parts


def write_prediction_part(out: str, name: str, rows: pa.Table, *, retried: int) -> None:
    """Write one part atomically; `retried` of its photos were read at a second attempt or later."""
    write_parquet(files.join(parts_directory(out), name), rows.replace_schema_metadata({"retried": str(retried)}))


def read_prediction_part(out: str, name: str) -> tuple[pa.Table, int]:
    """Return the rows of one part, and how many of its photos were read at a second attempt or later.

    Raises FailureError if the part cannot be read on this node.
    """
    path = files.join(parts_directory(out), name)
    try:
        table = read_parquet(path)
    except (OSError, pa.ArrowException) as error:
        raise FailureError(
            f"{path} cannot be read ({one_line(error)}): --out must be a folder that all machines share, or a URI; "
            "give one, or delete the part and run the command again"
        ) from error
    return table.replace_schema_metadata(), int(table.schema.metadata[b"retried"])


def finished_parts(out: str, shard: str) -> set[str]:
    """Return the names of the existing parts of `shard`."""
    names = files.list_directory(files.join(parts_directory(out), shard))
    return {f"{shard}/{name}" for name in names if name.startswith("part-") and name.endswith(".parquet")}


def drop_parts_with_passing_errors(out: str, shard: Shard) -> None:
    """Delete the parts of `shard` that have rows whose error may be gone by now."""
    for name in sorted(finished_parts(out, shard.name)):
        if has_passing_errors(read_prediction_part(out, name)[0]):
            files.delete(files.join(parts_directory(out), name))


def has_passing_errors(rows: pa.Table) -> bool:
    """Return whether a row has an error that a retry may not have: a disk or network fault, or a missing file."""
    return bool(pc.any(pc.is_in(error_codes(rows), pa.array(["io", "missing"]))).as_py())


def error_codes(rows: pa.Table) -> pa.ChunkedArray:
    """Return the code of each error in `rows`; rows without one are left out."""
    return pc.list_element(pc.split_pattern(rows["error"].drop_null(), ":", max_splits=1), 0)
