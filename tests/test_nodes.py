"""Jobs on three raylets whose workers, actors and nodes are killed: they end by themselves, with the same result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import find_process, kill_process

from catdog import cluster as catdog_cluster

LOST = "Workers were lost and start again from the last checkpoint: worker "
SMALL = {"train_per_class": 8, "validation_per_class": 4, "test_per_class": 4, "views": 1}
# Enough epochs that a kill finds the stage at work: Ray's start takes longer than the training.
SLOW = {
    "frozen.epochs": 200, "frozen.global_batch_size": 8, "frozen.learning_rate": 1e-3,
    "unfrozen.epochs": 30, "unfrozen.global_batch_size": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without CPUs and two nodes of two CPUs."""
    from ray.cluster_utils import Cluster

    keep = {"idle_worker_killing_time_threshold_ms": 60_000}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": keep})
    for _ in range(2):
        made.add_node(num_cpus=2)
    made.wait_for_nodes()
    yield made
    made.shutdown()


class Job:
    """A job of its own process on the cluster, whose console is read as it comes."""

    def __init__(self, script: str, cluster: Any, run_dir: Path, **settings: object) -> None:
        self.run_dir = run_dir
        flags = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
        self._command = [sys.executable, f"jobs/{script}.py", f"--run-dir={run_dir}", *flags]
        self._environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        self._console = run_dir.with_suffix(".log")
        self._start()

    def _start(self) -> None:
        with self._console.open("w") as console:
            self._process = subprocess.Popen(
                self._command, stdout=console, stderr=subprocess.STDOUT, env=self._environment
            )

    def kill_driver(self) -> None:
        """kill -9 the job's own process, and give the same command again."""
        self._process.kill()
        self._process.wait()
        self._start()

    @property
    def output(self) -> str:
        return self._console.read_text()

    def wait_for(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self._process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def finish(self) -> str:
        assert self._process.wait(240) == 0, self.output
        return self.output

    def epochs(self, stage: str) -> int:
        history = self.run_dir / stage / "history.csv"
        return history.read_text().count("\n") - 1 if history.exists() else 0


def test_training_survives_lost_actors_drivers_workers_and_nodes(
    cluster: Any, photo_folder: Path, tmp_path: Path
) -> None:
    settings = {"photos": photo_folder, **SMALL, **SLOW, "cluster.workers": 2}
    calm = Job("train", cluster, tmp_path / "calm", **settings)
    calm_output = calm.finish()
    assert "Plan: 2 train workers on CPU, 2 trunk actors" in calm_output

    job = Job("train", cluster, tmp_path / "killed", **settings)
    features = job.run_dir / "features"
    job.wait_for(lambda: kill_process("MapWorker(MapBatches(TrunkWriter))", address=cluster.address))
    job.wait_for(lambda: any(features.rglob("part-*.parquet")))
    job.kill_driver()

    job.wait_for(lambda: job.epochs("frozen") > 20)
    written = {path: path.stat().st_mtime_ns for path in features.rglob("*.parquet")}
    assert kill_process("RayTrainWorker", address=cluster.address)
    job.wait_for(lambda: LOST in job.output)
    reached = job.epochs("frozen")
    job.wait_for(lambda: job.epochs("frozen") > reached + 20)
    assert not (job.run_dir / "frozen/_COMPLETE.json").exists()
    job.kill_driver()

    job.wait_for(lambda: job.epochs("unfrozen") > 2)
    frozen = (job.run_dir / "frozen/_COMPLETE.json").stat().st_mtime_ns
    worker = find_process("RayTrainWorker", address=cluster.address)
    assert worker
    (node,) = (node for node in cluster.worker_nodes if raylet_of(node) == worker.ppid())
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=2)
    job.wait_for(lambda: LOST in job.output)
    job.wait_for(lambda: job.epochs("unfrozen") > 6)
    job.kill_driver()
    output = job.finish()

    # Nothing that was finished was done again.
    assert {path: path.stat().st_mtime_ns for path in features.rglob("*.parquet")} == written
    assert (job.run_dir / "frozen/_COMPLETE.json").stat().st_mtime_ns == frozen
    assert "Epoch  1/30" not in output
    assert not (job.run_dir / "checkpoints").exists()
    for stage in ("frozen", "unfrozen"):
        ours, theirs = (
            json.loads((folder / "report.json").read_text())["stages"][stage] for folder in (job.run_dir, calm.run_dir)
        )
        assert ours["epochs"] == theirs["epochs"]
        for split in ("validation", "test"):
            for score in ("accuracy", "loss"):
                assert ours[split][score] == pytest.approx(theirs[split][score], abs=0.01)

    sweep = Job(
        "tune", cluster, tmp_path / "sweep", photos=photo_folder, **SMALL, trials=8, features=calm.run_dir / "features",
        scheduler="none", **{**SLOW, "frozen.epochs": 100, "unfrozen.epochs": 6},
    )  # fmt: skip
    records = sweep.run_dir / "trials"
    sweep.wait_for(lambda: len(list(records.glob("*/trial.json"))) >= 1)
    cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
    cluster.add_node(num_cpus=2)
    assert "Plan: 8 trials, 4 at once in one process each" in sweep.finish()
    ended = [json.loads(path.read_text())["status"] for path in records.glob("*/trial.json")]
    assert ended == ["finished"] * 8


def raylet_of(node: Any) -> int:
    """The process id of a node's raylet."""
    return int(node.all_processes["raylet"][0].process.pid)


def test_a_folder_that_the_nodes_do_not_share_is_refused(cluster: Any, tmp_path: Path) -> None:
    # Every process has open files of its own, as every machine has a /tmp of its own.
    program = (
        "import os\n"
        "os.dup2(os.open({own!r}, os.O_RDONLY), 222)\n"
        "from catdog import cluster\n"
        "with cluster.connected():\n"
        "    cluster.check_shared(written={{'--run-dir': {run_dir!r}}}, read={{'--photos': {photos!r}}})\n"
    )
    own, common = tmp_path / "own", tmp_path / "common"
    own.mkdir()
    for run_dir, photos, refused in (
        ("/proc/self/fd/222/run", tmp_path, "--run-dir /proc/self/fd/222/run"),
        (common, "/proc/self/fd/222", "--photos /proc/self/fd/222"),
        (common, tmp_path, ""),
    ):
        ended = subprocess.run(
            [sys.executable, "-c", program.format(own=str(own), run_dir=str(run_dir), photos=str(photos))],
            env={**os.environ, "RAY_ADDRESS": cluster.address}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if refused:
            assert f"UsageError: {refused}: expected a place that all machines of the cluster share" in ended.stderr
            assert not list(own.iterdir())
        else:
            assert (ended.returncode, list(common.iterdir())) == (0, [])


def test_a_machine_alone_shares_with_nobody(ray_session: None, tmp_path: Path) -> None:
    catdog_cluster.check_shared(written={"--run-dir": str(tmp_path / "run")}, read={"--photos": str(tmp_path)})
    assert not (tmp_path / "run").exists()


def test_another_version_of_ray_is_named_before_any_work(cluster: Any, photo_folder: Path, tmp_path: Path) -> None:
    from ray._common.usage import usage_constants, usage_lib
    from ray._raylet import GcsClient

    store = GcsClient(address=cluster.address)
    told = usage_lib.get_cluster_metadata(store)
    key = (usage_constants.CLUSTER_METADATA_KEY, True, b"cluster")  # to be overwritten
    store.internal_kv_put(key[0], json.dumps({**told, "ray_version": "2.9.3"}).encode(), *key[1:])
    try:
        ended = subprocess.run(
            [sys.executable, "jobs/train.py", f"--photos={photo_folder}", f"--run-dir={tmp_path / 'run'}"],
            env={**os.environ, "RAY_ADDRESS": cluster.address}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        store.internal_kv_put(key[0], json.dumps(told).encode(), *key[1:])
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "Version mismatch: The cluster was started with: Ray: 2.9.3" in ended.stderr
