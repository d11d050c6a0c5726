"""Parquet files and archives for tests, and what a listing leaves of them to tasks."""

from __future__ import annotations

import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog.photos.sources.containers.packed import MorePackedError, Packed
from catdog.photos.sources.inputs import list_inputs


def write_tar(path: Path, *names: str) -> None:
    """Write a tar of files whose contents are their own names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = len(name)
            archive.addfile(entry, BytesIO(name.encode()))


def write_zip(path: Path, *names: str) -> None:
    """Write a zip of files whose contents are their own names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)


def write_table(path: Path, *names: str) -> None:
    """Write a Parquet file of photos whose contents are their own names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"name": names, "bytes": [name.encode() for name in names]}), path)


def left(source: str, *, at_most: int) -> Packed:
    """Return what `list_inputs` leaves to tasks, because `source` has more than `at_most` photos."""
    with pytest.raises(MorePackedError) as raised:
        list_inputs(source, at_most=at_most)
    return raised.value.packed
