"""Jobs submitted with a token to a Ray that `ray start` started, as a user of a cluster submits them."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ray_processes import RAY, held_port, started_head


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Yield the environment of a shell on a machine whose Ray is up and requires a token."""
    home = tmp_path_factory.mktemp("home")
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with held_port() as ray_port, held_port() as port:
        shell = {
            **plain, "HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}",
            "PATH": f"{Path(sys.executable).parent}:{plain['PATH']}", "CATDOG_CACHE": str(home / "cache"),
        }  # fmt: skip
        subprocess.run([RAY, "get-auth-token", "--generate"], env=shell, check=True, capture_output=True)
        flags = ("--num-cpus=2", f"--port={ray_port}", f"--dashboard-port={port}", "--dashboard-host=127.0.0.1")
        with started_head(*flags, environment=shell) as (head, _):
            wait_for_jobs(shell, head, port)
            yield shell


def wait_for_jobs(environment: dict[str, str], head: subprocess.Popen[bytes], port: int) -> None:
    """Wait until a job can be submitted: the agent that runs jobs starts later than the dashboard."""
    deadline = time.monotonic() + 600
    while socket.socket().connect_ex(("127.0.0.1", port)):
        assert head.poll() is None
        assert time.monotonic() < deadline, "the dashboard did not come up"
        time.sleep(0.2)
    while (ended := submit(environment, "-c", "pass")).returncode:
        assert time.monotonic() < deadline, ended.stdout + ended.stderr
        time.sleep(1)


def submit(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAY, "job", "submit", "--working-dir", ".", "--", "python", *command],
        env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def test_train_and_predict_run_as_submitted_jobs(
    environment: dict[str, str], photo_folder: Path, tmp_path: Path
) -> None:
    small = [
        "--photos", str(photo_folder), "--train-per-class", "8", "--validation-per-class", "4", "--test-per-class", "4",
        "--backbone", "efficientnet-lite0", "--image-size", "64", "--views", "1",
    ]  # fmt: skip
    run_dir = tmp_path / "run"
    train = submit(environment, "jobs/train.py", *small, "--run-dir", str(run_dir))
    assert train.returncode == 0, train.stdout + train.stderr
    size = re.search(r"^Shipped to the cluster: \d+ files, ([\d.]+) MiB\.$", train.stdout, re.MULTILINE)
    assert size
    assert 0.5 < float(size[1]) < 3
    assert "Found 32 images belonging to 2 classes." in train.stdout
    assert f"Model: {run_dir}/model" in train.stdout

    labels = submit(
        environment, "jobs/predict.py", "--photos", str(photo_folder), "--model", str(run_dir / "model"),
        "--out", str(tmp_path / "labels"),
    )  # fmt: skip
    assert labels.returncode == 0, labels.stdout + labels.stderr
    assert pq.read_table(tmp_path / "labels/predictions").num_rows == 35
    for job in (train, labels):  # Ray shows its own warnings wherever its code is called
        assert "DeprecationWarning" not in job.stdout + job.stderr


def test_a_failing_job_fails_the_submission_with_its_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    ended = submit(environment, "jobs/train.py", "--photos", str(tmp_path / "nowhere"), "--run-dir", str(tmp_path))
    assert ended.returncode == 1
    assert (
        f"catdog: expected photos at {tmp_path}/nowhere, found nothing there: check the path"
        in ended.stdout + ended.stderr
    )
    assert "Traceback" not in ended.stdout + ended.stderr


def test_without_the_token_nothing_is_submitted(environment: dict[str, str], tmp_path: Path) -> None:
    ended = submit({**environment, "RAY_AUTH_MODE": "disabled"}, "-c", f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert ended.returncode != 0
    assert not (tmp_path / "ran").exists()


def test_what_is_shipped_is_the_code(tmp_path: Path) -> None:
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    shipped = tmp_path / "shipped.zip"
    create_package(".", shipped, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    names = zipfile.ZipFile(shipped).namelist()
    assert {"catdog/config.py", "jobs/train.py", "pyproject.toml"} <= set(names)
    assert not [name for name in names if name.startswith((".git/", "runs/", ".venv/", "labels/"))]
    assert shipped.stat().st_size < 3_000_000


def test_photos_in_the_checkout_stay_there(tmp_path: Path) -> None:
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    checkout, shipped = tmp_path / "checkout", tmp_path / "shipped.zip"
    for name in (".gitignore", "catdog/photos/__init__.py", "jobs/train.py"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, checkout / name)
    for name in ("photos/cat/1.jpg", "PetImages/Cat/1.jpg", "runs/pets/model/weights.h5", "kagglecatsanddogs_5340.zip"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(b"large")
    create_package(str(checkout), shipped, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    assert set(zipfile.ZipFile(shipped).namelist()) == {".gitignore", "catdog/photos/__init__.py", "jobs/train.py"}


def test_a_port_for_ray_is_nobody_else_s_and_a_server_can_listen_on_it() -> None:
    with held_port() as port, socket.socket() as other:
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        with socket.create_server(("127.0.0.1", port)) as server:  # which sets SO_REUSEADDR
            assert socket.socket().connect_ex(server.getsockname()) == 0
