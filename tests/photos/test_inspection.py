from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from catdog.errors import UsageError
from catdog.photos.decoding.decode import Inspection, inspect_image
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.decoding.thumbnails import encode_jpeg
from catdog.photos.inspection import (
    Inspector,
    inspect_photos,
    photos_per_task,
    reject_copies,
    require_every_class,
)


@pytest.mark.parametrize(("photos", "size"), [(0, 64), (370, 64), (100_000, 97), (10**6, 976), (10**7, 2048)])
def test_tasks_are_long_enough_for_their_start_and_short_enough_to_share_out(photos: int, size: int) -> None:
    assert photos_per_task(photos) == size


def listed(paths: list[str], version: str | None = None) -> pa.Table:
    return pa.table({"path": pa.array(paths, pa.string()), "version": pa.array([version] * len(paths), pa.string())})


def test_what_was_found_in_photos_is_not_looked_for_again(tmp_path: Path) -> None:
    inspected: list[bytes] = []

    def inspect(content: bytes, *, limits: DecodeLimits) -> Inspection:
        inspected.append(content)
        return inspect_image(content, limits=limits)

    photo = tmp_path / "1.jpg"
    photo.write_bytes(encode_jpeg(np.zeros((8, 12, 3), np.uint8)))
    paths = [str(photo), str(tmp_path / "gone.jpg")]
    inspector = Inspector(limits=DecodeLimits(), keep=str(tmp_path / "kept"), inspect=inspect)
    first = inspector(listed(paths, "v1"), 0)
    assert inspector(listed(paths, "v1"), 0).equals(first)
    assert len(inspected) == 1
    inspector(listed(paths, "v2"), 0)
    dataclasses.replace(inspector, limits=DecodeLimits(max_pixels=5000))(listed(paths, "v1"), 0)
    assert len(inspected) == 3
    inspector(listed(paths), 0)
    inspector(listed(paths), 0)
    assert len(inspected) == 5  # without a version, a replaced photo would not be noticed


def test_photos_that_kill_their_process_or_never_end_are_rows(ray_session: None, tmp_path: Path) -> None:
    def inspect(content: bytes, *, limits: DecodeLimits) -> Inspection:
        if content == b"kills":
            os.kill(os.getpid(), signal.SIGKILL)
        if content == b"never ends":
            time.sleep(600)
        return inspect_image(content, limits=limits)

    contents = [b"kills", b"never ends", b"", encode_jpeg(np.zeros((8, 12, 3), np.uint8))]
    paths = [str(tmp_path / f"{number}.jpg") for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        Path(path).write_bytes(content)
    inspector = Inspector(limits=DecodeLimits(max_seconds=1), inspect=inspect)
    found = inspect_photos(listed([*paths, str(tmp_path / "gone.jpg")]), inspector)
    crashed = "crash: the process that decoded it died in both attempts"
    assert found["reason"].to_pylist() == [
        crashed, "too-slow: decoding it took more than 1 s", "empty: the file has no bytes", None,
        "missing: no such file",
    ]  # fmt: skip
    assert found["width"].to_pylist() == [None, None, None, 12, None]
    assert found["digest"][3].as_py() == hashlib.sha256(contents[3]).hexdigest()


def test_the_first_copy_stays_and_contradictions_all_go() -> None:
    reasons = reject_copies(
        ["cat/1", "cat/2", "cat/3", "cat/4", "dog/1", "dog/2", "dog/3"],
        labels=np.array([0, 0, 0, 0, 1, 1, 1]),
        digests=pa.chunked_array([["a", "b", None, "a"], ["b", "c", None]]),
        classes=("cat", "dog"),
    )
    assert reasons == {
        1: "conflict: same bytes as dog/1 of class dog",
        3: "duplicate: same bytes as cat/1",
        4: "conflict: same bytes as cat/2 of class cat",
    }


def test_a_class_that_corrections_leave_out_is_named() -> None:
    with pytest.raises(UsageError, match=r"found none of dog \(the corrections leave out all of them\)"):
        require_every_class(("cat", "dog"), labels=np.array([0, 0]), reasons=[None, None], source="x")
