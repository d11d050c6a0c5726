"""Jobs that really run out of memory or disk: they print one line and keep what was finished."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from made_photos import draw_photo

PHOTOS = 256


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 256 hard links to four small photos, which make eight parts."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(4):
        draw_photo(folder / f"{index:04d}.jpg", seed=index, colour=(50 * index, 90, 200 - 50 * index))
    for index in range(4, PHOTOS):
        os.link(folder / f"{index % 4:04d}.jpg", folder / f"{index:04d}.jpg")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield the mount point of a disk of 20 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def command(photos: Path, model: Path, out: Path) -> list[str]:
    return [
        sys.executable, "jobs/predict.py", f"--photos={photos}", f"--model={model}", f"--out={out}", "--no-report",
    ]  # fmt: skip


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600)


def parts_of(out: Path) -> dict[str, bytes]:
    parts = out / "parts"
    return {str(path.relative_to(parts)): path.read_bytes() for path in parts.glob("*/*.parquet")}


def check_rest(command: list[str], out: Path, written: dict[str, bytes], *, address: str) -> None:
    """Check that the same command resumes from the `written` parts and finishes the job."""
    assert 0 < len(written) < 8
    ended = run(command, RAY_ADDRESS=address)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"Resuming: {32 * len(written)} of 256 photos are labelled already." in ended.stdout
    assert pq.read_table(out / "predictions").num_rows == PHOTOS


def test_a_full_disk_is_one_line_and_with_more_room_the_same_command_finishes(
    ray_session: None, photos: Path, model_dir: Path, small_disk: Path
) -> None:
    import ray

    out, address = small_disk / "labels", ray.get_runtime_context().gcs_address
    job = command(photos, model_dir, out)
    ended = run(job, RAY_ADDRESS=address)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1), ended.stderr
    assert ended.stderr.startswith(f"catdog: labelling failed: cannot write {out}/parts/")
    assert "[Errno 28] No space left on device" in ended.stderr
    assert ended.stderr.endswith("; run the same command to resume\n")
    written = parts_of(out)
    assert sum(pq.read_table(out / "parts" / name).num_rows for name in written) == 32 * len(written)
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    check_rest(job, out, written, address=address)


def test_processes_that_are_ended_for_want_of_memory_are_one_line_and_what_was_finished_stands(
    ray_session: None, photos: Path, model_dir: Path, tmp_path: Path
) -> None:
    import ray

    out, address = tmp_path / "labels", ray.get_runtime_context().gcs_address
    job = command(photos, model_dir, out)
    with subprocess.Popen(job, env={**os.environ, "RAY_ADDRESS": address}, stdout=subprocess.DEVNULL) as process:
        while len(parts_of(out)) < 2:
            assert process.poll() is None
            time.sleep(0.02)
        before = parts_of(out)
        (child,) = psutil.Process(process.pid).children()
        process.kill()
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:  # it ends after its parent
        time.sleep(0.02)
    # Ray kills processes while more than this share of memory is in use, which is always true of 1 %.
    ended = run(job, RAY_ADDRESS="local", RAY_memory_usage_threshold="0.01", RAY_task_oom_retries="1")
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1), ended.stderr
    assert ended.stderr.startswith("catdog: ")
    assert "memory" in ended.stderr
    assert f"of {PHOTOS} photos are labelled already." in ended.stdout
    assert before.items() <= parts_of(out).items()  # an actor of the killed job may have finished one more
