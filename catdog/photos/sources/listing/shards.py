"""The photos of a job in shards, and the digest that identifies a set of photos however it is cut.

A shard is a table of at most SHARD_ROWS inputs, in the order in which they are labelled. It is in memory if there are
few photos. Otherwise it is a Parquet file, of which a driver holds only the name and the counts.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from catdog.cluster.actors import Shared, share
from catdog.errors import FailureError, one_line
from catdog.storage import files
from catdog.storage.tables import read_parquet, write_parquet

SHARD_ROWS = 195 * 256  # a whole number of parts; a task reads a shard in 30 ms and holds 10 MB
MAX_IN_ONE_PROCESS = 100_000  # photos listed without Ray: half a second, 40 MB
_MODULUS = 1 << 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetDigest:
    """The number of photos in a set, and two hashes that identify the set whatever its order.

    `paths` is the sum of the SHA-256 of each path modulo 2^256, `versions` that of each path with its version. The sums
    of disjoint sets add up. This is AdHash (Bellare and Micciancio 1997, "A new paradigm for collision-free hashing").
    """

    files: int = 0
    paths: int = 0
    versions: int = 0

    @classmethod
    def of(cls, rows: pa.Table) -> SetDigest:
        """Return the digest of `rows`, which have the columns path and version."""
        paths = versions = 0
        for path, version in zip(rows["path"].to_pylist(), rows["version"].to_pylist(), strict=True):
            state = hashlib.sha256(path.encode())
            paths += int.from_bytes(state.digest())
            state.update(f"\0{version or ''}".encode())
            versions += int.from_bytes(state.digest())
        return cls(files=rows.num_rows, paths=paths % _MODULUS, versions=versions % _MODULUS)

    def __add__(self, other: SetDigest) -> SetDigest:
        """Return the digest of both sets together."""
        return SetDigest(
            files=self.files + other.files,
            paths=(self.paths + other.paths) % _MODULUS,
            versions=(self.versions + other.versions) % _MODULUS,
        )

    @classmethod
    def total(cls, digests: Iterable[SetDigest]) -> SetDigest:
        """Return the digest of all the sets together."""
        return sum(digests, cls())

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> SetDigest:
        """Return the digest that `to_json` stored."""
        return cls(files=stored["files"], paths=int(stored["paths"], 16), versions=int(stored["versions"], 16))

    def to_json(self) -> dict[str, Any]:
        """Return the digest as values that JSON can hold."""
        return {"files": self.files, "paths": f"{self.paths:064x}", "versions": f"{self.versions:064x}"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """A shard of the inputs: its first path, the digest of its rows, and where they are."""

    first: str
    digest: SetDigest
    path: str = ""  # of its file; "" if the rows are in memory
    table: Any = None  # its rows (inputs.INPUTS) in memory, or actors.Shared of them

    @property
    def name(self) -> str:
        """The name of the folder of its parts: a hash of its first path, so that listing again gives the same name."""
        return hashlib.sha256(self.first.encode()).hexdigest()[:12]

    @property
    def rows(self) -> int:
        """The number of its photos."""
        return self.digest.files

    def read(self) -> pa.Table:
        """Return its rows (schema inputs.INPUTS); raises FailureError if its file cannot be read on this machine."""
        if not self.path:
            return self.table.get() if isinstance(self.table, Shared) else self.table
        try:
            return read_parquet(self.path)
        except (OSError, pa.ArrowException) as error:
            raise FailureError(
                f"{self.path} cannot be read ({one_line(error)}): --out must be a folder that all machines share, or "
                "a URI; give one, or run the command again"
            ) from error

    def shared(self) -> Shard:
        """Return the shard for use in tasks: rows in memory are put into Ray's object store, once."""
        return dataclasses.replace(self, table=share(self.table)) if isinstance(self.table, pa.Table) else self


def cut_into_shards(inputs: pa.Table) -> list[Shard]:
    """Return `inputs` as shards in memory, in their order."""
    shards = []
    for start in range(0, inputs.num_rows, SHARD_ROWS):
        rows = inputs.slice(start, SHARD_ROWS)
        if rows.num_rows < inputs.num_rows:
            rows = _copied(rows)  # Ray would send a slice with the whole table
        shards.append(Shard(first=rows["path"][0].as_py(), digest=SetDigest.of(rows), table=rows))
    return shards


def _copied(rows: pa.Table) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return pa.ipc.open_stream(sink.getvalue()).read_all()


def write_shard(rows: pa.Table, folder: str) -> Shard:
    """Write `rows` into `folder` as the file of a shard; if `folder` is "", the shard gets a digest but no file."""
    shard = Shard(first=rows["path"][0].as_py(), digest=SetDigest.of(rows))
    if not folder:
        return shard
    path = files.join(folder, f"{shard.name}.parquet")
    write_parquet(path, rows, compression="zstd")
    return dataclasses.replace(shard, path=path)


def read_all(shards: Sequence[Shard]) -> pa.Table:
    """Return the rows of all `shards` in one table, for steps that need them in one place."""
    return pa.concat_tables([shard.read() for shard in shards])
