"""Twenty kills at random moments, and not a row more or less: the driver, a model actor, a whole node."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import draw_photo, kill_process

KILLS = {"driver": 4, "actor": 11, "node": 5}
PHOTOS = 1600
RUNS = 5


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without CPUs and two nodes of one CPU: three raylets."""
    from ray.cluster_utils import Cluster

    # On nodes of one CPU Ray ends every second idle worker after a second, and starting one costs as much.
    keep = {"idle_worker_killing_time_threshold_ms": 60_000}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": keep})
    for _ in range(2):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def many_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hard links of forty small photos, and a few that cannot be read."""
    folder = tmp_path_factory.mktemp("many")
    for index in range(40):
        draw_photo(folder / f"{index:04d}.jpg", seed=index, colour=(5 * index, 90, 200 - 5 * index))
    for index in range(40, PHOTOS):
        os.link(folder / f"{index % 40:04d}.jpg", folder / f"{index:04d}.jpg")
    for index in (100, 1500):
        (folder / f"{index:04d}.jpg").unlink()
        (folder / f"{index:04d}.jpg").write_text("not a photo")
    return folder


class Job:
    """The predict command as a process of its own, killed and started again."""

    def __init__(self, photos: Path, model: Path, out: Path, *, address: str) -> None:
        self._out = out
        self._command = [
            sys.executable, "jobs/predict.py", "--photos", str(photos), "--model", str(model), "--out", str(out),
        ]  # fmt: skip
        self._environment = {**os.environ, "RAY_ADDRESS": address}
        self.output = ""
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self._environment
        )

    def parts(self) -> int:
        return len(list((self._out / "parts").glob("*.parquet")))

    def ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self.finish()

    def finish(self) -> int:
        self.output += self._process.communicate(timeout=300)[0]
        return self._process.returncode


def test_the_rows_of_a_job_killed_twenty_times_are_those_of_one_that_was_not(
    cluster: Any, many_photos: Path, model_dir: Path, tmp_path: Path
) -> None:
    calm = Job(many_photos, model_dir, tmp_path / "calm", address=cluster.address)
    assert calm.finish() == 0, calm.output
    wanted = pq.read_table(tmp_path / "calm/predictions")
    assert wanted.num_rows == PHOTOS
    chance = random.Random(0)
    kills = chance.sample([*KILLS], counts=[*KILLS.values()], k=sum(KILLS.values()))
    for run in range(RUNS):
        out = tmp_path / f"killed-{run}"
        kills = killed_run(cluster, Job(many_photos, model_dir, out, address=cluster.address), kills, chance)
        found = pq.read_table(out / "predictions")
        assert found.equals(wanted)  # the order too: a part has its place
        if not kills:
            break
    assert not kills, f"{RUNS} runs ended before all kills were dealt"


def killed_run(cluster: Any, job: Job, kills: list[str], chance: random.Random) -> list[str]:
    """Let `job` end, and deal the next of `kills` whenever a few more parts stand; return those that are left."""
    left, drivers = list(kills), 0
    next_kill = job.parts() + chance.randint(1, 3)
    while not job.ended():
        time.sleep(chance.uniform(0.05, 0.3))
        if not left or job.parts() < next_kill:
            continue
        if left[0] == "node":
            cluster.remove_node(chance.choice(sorted(cluster.worker_nodes, key=id)), allow_graceful=False)
            cluster.add_node(num_cpus=1)
        elif left[0] == "driver":
            before, drivers = job.parts(), drivers + 1
            job.kill()
            job.output = ""
            job.start()
            # What stood when the driver was killed is not done again.
            assert job.parts() >= before
        elif not kill_process("MapWorker(MapBatches(PartWriter))", address=cluster.address):
            continue
        del left[0]
        next_kill = job.parts() + chance.randint(1, 3)
    assert job.finish() == 0, job.output
    if drivers:
        assert "photos were labelled before." in job.output
    return left
