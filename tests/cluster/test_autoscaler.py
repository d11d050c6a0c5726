"""A job on a head without CPUs, whose real autoscaler starts real raylets on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
import yaml
from ray_processes import held_port, started_head

from catdog.cluster import autoscaler
from catdog.cluster.autoscaler import Capacity, Limit, Node, read_autoscaler_file, read_capacity

HEAD_ID = "f" * 51 + "00000"
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
# Settings that the defaults of a real cloud would fill in.
LISTS = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
    "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter",
)  # fmt: skip


def autoscaler_file(port: int) -> str:
    """Return the file that `ray up` would leave on the head: up to two machines with one core each."""
    settings = {
        "cluster_name": "fake",
        "max_workers": 2,
        "idle_timeout_minutes": 1,
        "provider": {
            "type": "external", "module": PROVIDER, "use_node_id_as_ip": True, "disable_node_updaters": True,
            "disable_launch_config_check": True, "launch_multiple": True, "head_node_id": HEAD_ID,
            "gcs_address": f"127.0.0.1:{port}",
        },
        "auth": {},
        "file_mounts": {},
        **{name: [] for name in LISTS},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "cpu": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0},
        },
        "head_node_type": "ray.head.default",
    }  # fmt: skip
    return yaml.safe_dump(settings)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Yield the environment of a shell on a head without CPUs that may start two nodes."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {
        **plain, "HOME": str(tmp_path), "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }  # fmt: skip
    with held_port() as port:
        (tmp_path / "ray_bootstrap_config.yaml").write_text(autoscaler_file(port))
        flags = ("--num-cpus=0", f"--port={port}", "--include-dashboard=false")
        file = f"--autoscaling-config={tmp_path}/ray_bootstrap_config.yaml"
        with started_head(*flags, file, environment=environment):
            yield {**plain, "HOME": str(tmp_path), "RAY_ADDRESS": f"127.0.0.1:{port}"}


def test_a_job_plans_for_the_nodes_that_come_and_ends_on_them(
    shell: dict[str, str], photo_folder: Path, model_dir: Path, tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "jobs/predict.py", f"--photos={photo_folder}", f"--model={model_dir}",
         f"--out={tmp_path}/labels", "--no-report"],
        env=shell, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
    assert "Plan: 2 model actors on openvino (1 thread each), 0 GPUs; " in ended.stdout
    assert pq.read_table(tmp_path / "labels/predictions").num_rows == 35


def test_the_autoscaler_s_file_tells_what_the_cluster_can_become(tmp_path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config

    # As `ray up` leaves it on the head: cluster.yaml with Ray's defaults filled in.
    file = tmp_path / "ray_bootstrap_config.yaml"
    file.write_text(yaml.safe_dump(prepare_config(yaml.safe_load(Path("cluster.yaml").read_text()))))
    assert read_autoscaler_file(file) == Capacity(
        groups=[(Node(cpus=16), 8), (Node(cpus=8, gpus=1), 8)], limit=Limit(nodes=9)
    )


def test_a_head_without_autoscaler_has_what_is_up_and_of_other_nodes_nobody_knows(ray_session: None) -> None:
    alive = ray.nodes()
    assert read_capacity(alive) == Capacity()
    others = [{"NodeID": "another", "Resources": {"node:__internal_head__": 1.0}}, *alive]
    others[1] = {**others[1], "Resources": {"CPU": 2.0}}
    assert read_capacity(others) is None


def test_a_ray_without_the_private_name_costs_the_capacity_not_the_job(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ray._private.state.state.__class__, "get_cluster_config")
    with pytest.raises(AttributeError):
        autoscaler._reported_config()
    assert read_capacity(ray.nodes()) == Capacity()
    assert read_capacity([*ray.nodes(), {"NodeID": "another", "Resources": {}}]) is None
