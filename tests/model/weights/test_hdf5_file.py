"""Untrusted weights files: what they declare is checked before any values are read."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from catdog.errors import UsageError
from catdog.model.weights.hdf5_file import read_datasets

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)


def written(change: Callable[[h5py.File], None]) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.attrs["layer_names"] = ["a"]
        file["a/kernel:0"] = KERNEL
        change(file)
    return stream.getvalue()


def refusal(content: bytes) -> str:
    with pytest.raises(UsageError) as caught:
        read_datasets(content, where="weights.h5")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_stands_in_the_file_is_read_as_float32_by_path() -> None:
    found = read_datasets(written(lambda file: file.create_dataset("b/bias", data=np.arange(2))), where="weights.h5")
    assert found.keys() == {"a/kernel:0", "b/bias"}
    assert found["b/bias"].dtype == np.float32
    np.testing.assert_array_equal(found["a/kernel:0"], KERNEL)


def test_the_shapes_are_checked_before_anything_is_read() -> None:
    asked = []

    def check(shapes: object) -> None:
        asked.append(shapes)
        raise UsageError("not these")

    with pytest.raises(UsageError, match="not these"):
        read_datasets(written(lambda file: None), where="weights.h5", check=check)
    assert asked == [{"a/kernel:0": (2, 3)}]


@pytest.mark.parametrize("shape", [(40_000, 40_000), (10**14,)])
def test_a_small_file_that_promises_gigabytes_is_refused(shape: tuple[int, ...]) -> None:
    def promise(file: h5py.File) -> None:
        file.create_dataset("b/kernel", shape, np.float32)

    content = written(promise)
    assert len(content) < 10_000
    assert "bytes of weights, but has" in refusal(content)


def test_a_compressed_dataset_that_blows_up_is_refused_and_so_is_a_huge_chunk() -> None:
    def blow_up(file: h5py.File) -> None:
        file.create_dataset("b/kernel", data=np.zeros(4 * 2**20, np.float32), compression="gzip")

    def one_chunk(file: h5py.File) -> None:
        file.create_dataset("b/kernel", (1,), np.float32, maxshape=(None,), chunks=(2**28,))

    for change in (blow_up, one_chunk):
        assert "bytes of weights, but has" in refusal(written(change))


def test_values_in_another_file_are_never_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening it would block forever

    def external(file: h5py.File) -> None:
        file.create_dataset("b/kernel", (4,), np.float32, external=[(str(tmp_path / "fifo"), 0, 16)])

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((4,), np.float32)
        layout[:] = h5py.VirtualSource(str(tmp_path / "fifo"), "x", (4,))
        file.create_virtual_dataset("b/kernel", layout)

    for change in (external, virtual):
        assert "stores its values in another file" in refusal(written(change))


def test_links_to_other_files_and_circles_are_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    def link(file: h5py.File) -> None:
        file["model_weights"] = h5py.ExternalLink(str(tmp_path / "fifo"), "/")
        file["b"] = h5py.ExternalLink(str(tmp_path / "fifo"), "/")
        file["c"] = h5py.SoftLink("/a")

    assert read_datasets(written(link), where="weights.h5").keys() == {"a/kernel:0"}

    def circle(file: h5py.File) -> None:
        file["a/again"] = file["a"]

    assert "more groups than any network" in refusal(written(circle))


def test_what_is_no_number_is_refused() -> None:
    assert "expected numbers" in refusal(written(lambda file: file.create_dataset("b/kernel", data=b"text")))


def test_a_broken_file_is_one_line() -> None:
    content = written(lambda file: None)
    assert refusal(content[: len(content) // 2]).startswith("weights.h5: cannot be read as HDF5")
