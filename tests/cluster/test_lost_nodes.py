"""Jobs on three raylets whose workers, actors, drivers and nodes are killed: they finish with the same result."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from made_photos import draw_photo
from outcomes import check_outcomes
from ray_processes import find_processes, kill_process

LOST = "Workers failed and restart from the last checkpoint: worker "
LOST_NODE = " was lost; its work restarts elsewhere."
SMALL = {
    "backbone": "efficientnet-lite0", "image_size": 64, "train_per_class": 8, "validation_per_class": 4,
    "test_per_class": 4, "views": 1,
}  # fmt: skip
# Enough epochs that a kill hits a running stage: from the epoch that a test waits for to the last, seconds pass.
SLOW = {
    "frozen.head": "epochs", "frozen.epochs": 10, "frozen.global_batch_size": 8, "frozen.learning_rate": 1e-3,
    "unfrozen.epochs": 12, "unfrozen.global_batch_size": 8,
}  # fmt: skip
LINES = {"actor": "A model actor was lost; it restarts.", "node": LOST_NODE}
KILLS = {"driver": 1, "actor": 2, "node": 1}
PHOTOS = 720
RUNS = 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Yield a cluster of a head without CPUs and two nodes of two CPUs each."""
    from ray.cluster_utils import Cluster

    settings = {
        "idle_worker_killing_time_threshold_ms": 60_000,  # a reused process need not be started
        # Detect a dead node after 2 s instead of 15. It refuses the connection, which a slow node would not.
        "health_check_period_ms": 500,
        "health_check_failure_threshold": 4,
    }
    made = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": settings}
    )
    # Otherwise jobs of other tests and of other users of this machine would join it.
    Path(tempfile.gettempdir(), "ray/ray_current_cluster").unlink(missing_ok=True)
    for _ in range(2):
        made.add_node(num_cpus=2)
    made.wait_for_nodes()
    yield made
    made.shutdown()


class Job:
    """A job on the cluster, in its own process, whose console output can be read while it runs."""

    def __init__(self, script: str, cluster: Any, run_dir: Path, **settings: object) -> None:
        self.run_dir = run_dir
        place = "out" if script == "predict" else "run-dir"
        flags = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
        self._command = [sys.executable, f"jobs/{script}.py", f"--{place}={run_dir}", *flags]
        if script == "predict":
            self._command.append("--no-report")  # only the rows matter here
        self._environment = {
            **os.environ, "RAY_ADDRESS": cluster.address, "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2",
        }  # fmt: skip
        self._console = run_dir.with_suffix(".log")
        self._start()

    def _start(self) -> None:
        with self._console.open("w") as console:
            self._process = subprocess.Popen(
                self._command, stdout=console, stderr=subprocess.STDOUT, env=self._environment
            )

    def kill_driver(self) -> None:
        """Kill the job's driver with SIGKILL and run the same command again."""
        job = psutil.Process(self._process.pid).children()  # dies with its parent
        self._process.kill()
        self._process.wait()
        psutil.wait_procs(job, 600)
        self._start()

    @property
    def output(self) -> str:
        return self._console.read_text()

    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait_for(self, condition: Callable[[], bool], seconds: float = 600) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert not self.ended(), self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def finish(self) -> str:
        assert self._process.wait(600) == 0, self.output
        return self.output

    def epochs(self, stage: str) -> int:
        history = self.run_dir / stage / "history.csv"
        return history.read_text().count("\n") - 1 if history.exists() else 0

    def parts(self) -> int:
        return len(list((self.run_dir / "parts").glob("*/*.parquet")))


def node_of(process: psutil.Process, cluster: Any) -> Any:
    """Return the node that runs `process`."""
    (node,) = (node for node in cluster.worker_nodes if raylet_of(node) == process.ppid())
    return node


def raylet_of(node: Any) -> int:
    """Return the process id of the raylet of `node`."""
    return int(node.all_processes["raylet"][0].process.pid)


def replace(node: Any, cluster: Any) -> None:
    """Kill all processes of `node` with SIGKILL, and add another node."""
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=2)


def kill_trunk_actor(cluster: Any) -> bool:
    """Kill a trunk actor that is building its network, and return whether there was one.

    By then its start is counted, and its work is still ahead.
    """
    for process in find_processes("MapWorker(MapBatches(CountedActor))", address=cluster.address):
        if "openvino" in Path(f"/proc/{process.pid}/maps").read_text():
            process.kill()
            return True
    return False


def check_scores(job: Job) -> None:
    """Check that `job` has the scores of an undisturbed run, which separates red cats from blue dogs without error."""
    report = json.loads((job.run_dir / "report.json").read_text())
    check_outcomes(job.run_dir, report)
    stages = report["stages"]
    assert {name: stage["epochs"] for name, stage in stages.items()} == {"frozen": 10, "unfrozen": 12}
    for split in ("validation", "test"):
        assert stages["frozen"][split]["accuracy"] == stages["unfrozen"][split]["accuracy"] == 1.0
        assert stages["frozen"][split]["loss"] < 0.2
        assert stages["unfrozen"][split]["loss"] == pytest.approx(0.0, abs=0.01)


@pytest.fixture(scope="module")
def killed(cluster: Any, photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Start a train job of two workers and one trunk actor, so that no other actor takes over a lost one's work."""
    run_dir = tmp_path_factory.mktemp("killed") / "run"
    sizes = {"cluster.workers": 2, "cluster.trunk_actors": 1}
    return Job("train", cluster, run_dir, photos=photo_folder, **SMALL, **SLOW, **sizes)


def test_training_survives_lost_actors_workers_and_drivers(cluster: Any, killed: Job) -> None:
    job = killed
    job.wait_for(lambda: kill_trunk_actor(cluster))
    job.wait_for(lambda: "A trunk actor was lost; it restarts." in job.output)

    job.wait_for(lambda: job.epochs("frozen") > 0)
    workers = find_processes("RayTrainWorker", address=cluster.address)
    assert len(workers) == 2
    job.wait_for(lambda: job.epochs("unfrozen") > 2)
    written = {path: path.stat().st_mtime_ns for path in (job.run_dir / "features").rglob("*.parquet")}
    frozen = (job.run_dir / "frozen/_COMPLETE.json").stat().st_mtime_ns
    workers[1].kill()
    job.wait_for(lambda: LOST in job.output)
    reached = job.epochs("unfrozen")
    job.wait_for(lambda: job.epochs("unfrozen") > reached)
    job.kill_driver()
    output = job.finish()

    # No finished work was repeated.
    assert {path: path.stat().st_mtime_ns for path in (job.run_dir / "features").rglob("*.parquet")} == written
    assert (job.run_dir / "frozen/_COMPLETE.json").stat().st_mtime_ns == frozen
    assert "Epoch  1/12" not in output
    assert not (job.run_dir / "checkpoints").exists()
    assert "Plan: 2 train workers on CPU, 1 trunk actor (2 threads each), 0 GPUs; batch 8 frozen, 8 unfrozen" in output
    check_scores(job)


def test_a_sweep_survives_the_loss_of_a_node(cluster: Any, killed: Job, photo_folder: Path, tmp_path: Path) -> None:
    sweep = Job(
        "tune", cluster, tmp_path / "sweep", photos=photo_folder, **SMALL, trials=4,
        features=killed.run_dir / "features", scheduler="none", folds=0, **SLOW | {"unfrozen.epochs": 0},
    )  # fmt: skip
    trials: list[psutil.Process] = []

    def are_at_work() -> bool:
        trials[:] = find_processes("ray::ImplicitFunc.train", address=cluster.address)  # Ray's name for a running trial
        return bool(trials)

    sweep.wait_for(are_at_work)
    replace(node_of(trials[0], cluster), cluster)  # while its trials import TensorFlow
    output = sweep.finish()
    assert "wins, 4 in parallel, each on 1 CPU; 2 trunk actors (2 threads each), " in output
    assert LOST_NODE in output
    assert " was lost and runs again: " in output
    assert "Traceback" not in output
    ended = [json.loads(path.read_text())["status"] for path in sweep.run_dir.glob("trials/*/trial.json")]
    assert ended == ["finished"] * 4


def stored_bytes(node: Any) -> int:
    """Return the bytes of primary copies in the object store of `node`, which are lost with it."""
    from ray._private.internal_api import node_stats

    return int(
        node_stats(node.node_ip_address, node.node_manager_port, False).store_stats.object_store_bytes_primary_copy
    )


def take_back(node: Any, cluster: Any, *, seconds: float) -> None:
    """Announce, as a cloud does, that `node` will be preempted in `seconds` seconds."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int(1000 * (time.time() + seconds))
    accepted, why = GcsClient(address=cluster.address).drain_node(node.node_id, reason, "spot", deadline)
    assert accepted, why


def test_streamed_training_survives_the_loss_of_stored_features_and_a_machine_that_is_taken_back(
    cluster: Any, photo_folder: Path, tmp_path: Path
) -> None:
    settings = {  # the budget fits the features of the frozen stage: streaming the other stage is enough
        "photos": photo_folder, **SMALL, "cache_budget_gib": 0.0001, "cluster.workers": 1,
        "frozen.epochs": 2, "unfrozen.epochs": 40, "unfrozen.global_batch_size": 8, "frozen.global_batch_size": 8,
    }  # fmt: skip
    # Neither loss counts as a failure of the training: the first spares its worker, and the second is announced.
    job = Job("train", cluster, tmp_path / "killed", **settings, **{"cluster.max_failures": 0})
    job.wait_for(lambda: job.epochs("frozen") > 0)
    (worker,) = find_processes("RayTrainWorker", address=cluster.address)
    (other,) = cluster.worker_nodes - {node_of(worker, cluster)}
    job.wait_for(lambda: job.epochs("unfrozen") > 2)
    assert stored_bytes(other) > 20_000
    replace(other, cluster)
    job.wait_for(lambda: LOST_NODE in job.output)
    reached = job.epochs("unfrozen")
    job.wait_for(lambda: job.epochs("unfrozen") > reached + 2)
    assert LOST not in job.output  # the worker itself was not touched

    gone = node_of(worker, cluster)
    take_back(gone, cluster, seconds=1)
    job.wait_for(lambda: worker not in find_processes("RayTrainWorker", address=cluster.address))
    assert not (job.run_dir / "unfrozen/_COMPLETE.json").exists()
    replace(gone, cluster)
    output = job.finish()
    assert output.count(" was preempted; its work restarts elsewhere.") == 1
    assert "The unfrozen stage streams its features" in output
    report = json.loads((job.run_dir / "report.json").read_text())
    assert report["stages"]["unfrozen"]["epochs"] == 40
    assert report["stages"]["unfrozen"]["test"]["accuracy"] == 1.0  # as in an undisturbed run: red cats, blue dogs


@pytest.fixture(scope="module")
def many_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of hard links to forty small photos, and two files that cannot be read."""
    folder = tmp_path_factory.mktemp("many")
    for index in range(40):
        draw_photo(folder / f"{index:04d}.jpg", seed=index, colour=(5 * index, 90, 200 - 5 * index))
    for index in range(40, PHOTOS):
        os.link(folder / f"{index % 40:04d}.jpg", folder / f"{index:04d}.jpg")
    for index in (100, 700):
        (folder / f"{index:04d}.jpg").unlink()
        (folder / f"{index:04d}.jpg").write_text("not a photo")
    return folder


def test_the_rows_of_a_job_killed_four_times_are_those_of_one_that_was_not(
    cluster: Any, many_photos: Path, model_dir: Path, tmp_path: Path
) -> None:
    settings = {"photos": many_photos, "model": model_dir}
    calm = Job("predict", cluster, tmp_path / "calm", **settings)
    calm.finish()
    wanted = pq.read_table(tmp_path / "calm/predictions")
    assert wanted.num_rows == PHOTOS
    chance = random.Random(0)
    kills = chance.sample([*KILLS], counts=[*KILLS.values()], k=sum(KILLS.values()))
    told: set[str] = set()
    for run in range(RUNS):
        job = Job("predict", cluster, tmp_path / f"killed-{run}", **settings)
        kills, heard = killed_run(cluster, job, kills, chance)
        told |= heard
        found = pq.read_table(job.run_dir / "predictions")
        assert found.equals(wanted)  # the order too: each part has its place
        if not kills:
            break
    assert not kills, f"{RUNS} runs ended before all kills were dealt"
    assert told == {"actor", "node"}


def killed_run(cluster: Any, job: Job, kills: list[str], chance: random.Random) -> tuple[list[str], set[str]]:
    """Run `job` to its end, with the next of `kills` whenever one or two more parts are written.

    Returns the kills that are left, and the kinds of loss that the console reported.
    """
    left, told = list(kills), set()
    next_kill = job.parts() + chance.randint(1, 2)
    while not job.ended():
        time.sleep(0.05)
        if not left or job.parts() < next_kill:
            continue
        kind = left[0]
        before = job.output.count(LINES.get(kind, ""))
        if kind == "node":
            replace(chance.choice(sorted(cluster.worker_nodes, key=id)), cluster)
        elif kind == "driver":
            parts = job.parts()
            job.kill_driver()
            # Parts that were written before the driver was killed are kept.
            assert job.parts() >= parts
        elif not kill_process("ray::Labeller", address=cluster.address):
            continue
        del left[0]
        next_kill = job.parts() + chance.randint(1, 2)
        # If the driver were killed next, it could not report this loss. A job that ends has no work to restart.
        while kind in LINES and not job.ended() and kind not in told:
            time.sleep(0.05)
            told |= {kind} if job.output.count(LINES[kind]) > before else set()
    output = job.finish()
    if "driver" in kills[: len(kills) - len(left)]:
        assert "photos are labelled already." in output
    return left, told


def test_a_folder_that_the_nodes_do_not_share_is_refused(cluster: Any, tmp_path: Path) -> None:
    # Each process has its own open files, as each machine has its own /tmp.
    program = (
        "import os, sys\n"
        "os.dup2(os.open(sys.argv[1], os.O_RDONLY), 222)\n"
        "from catdog.cluster.connection import connected\n"
        "from catdog.cluster.shared_paths import check_shared\n"
        "from catdog.errors import UsageError\n"
        "own, common, said = '/proc/self/fd/222', sys.argv[2], []\n"
        "with connected():\n"
        "    for run_dir, photos in ((f'{own}/run', common), (common, own), (common, common)):\n"
        "        try:\n"
        "            said.append(check_shared(written={'--run-dir': run_dir}, read={'--photos': photos}))\n"
        "        except UsageError as error:\n"
        "            said.append(error)\n"
        "            assert os.path.isdir(common)  # the user's own, though it is empty\n"
        "print(*said, sep='\\n')\n"
    )
    own, common = tmp_path / "own", tmp_path / "common"
    own.mkdir()
    common.mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", program, str(own), str(common)],
        env={**os.environ, "RAY_ADDRESS": cluster.address}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    run_dir, photos, shared = ended.stdout.splitlines()
    assert run_dir.startswith("--run-dir /proc/self/fd/222/run: expected a place that all nodes of the cluster share")
    assert photos.startswith("--photos /proc/self/fd/222: expected a place that all nodes of the cluster share")
    assert shared == "None"
    assert not [*own.iterdir(), *common.iterdir()]


def test_another_version_of_ray_is_named_before_any_work(cluster: Any, photo_folder: Path, tmp_path: Path) -> None:
    from ray._common.usage import usage_constants, usage_lib
    from ray._raylet import GcsClient

    store = GcsClient(address=cluster.address)
    told = usage_lib.get_cluster_metadata(store)
    key = (usage_constants.CLUSTER_METADATA_KEY, True, b"cluster")  # True: overwrite the old value
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
    assert ended.stderr.startswith("catdog: the cluster runs Ray 2.9.3 on Python ")
