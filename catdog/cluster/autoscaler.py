"""What an autoscaler may add to the cluster, as far as it tells.

The only module of catdog with a private name of Ray's: no public interface tells what an autoscaler may add, and a
cluster of a head without CPUs could not be planned for without it. Where the name is gone or fails, the plan counts the
nodes that are up, and the console says that the capacity is unknown.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Where `ray up` puts cluster.yaml, with Ray's defaults filled in, on the head.
_AUTOSCALER_FILE = "~/ray_bootstrap_config.yaml"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """One node of the cluster: CPU cores and GPUs that Ray may use."""

    cpus: float
    gpus: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limit:
    """What an autoscaler lets the whole cluster become: nodes, CPU cores and GPUs over all of them."""

    nodes: float = math.inf
    cpus: float = math.inf
    gpus: float = math.inf

    def holds(self, nodes: Sequence[Node]) -> bool:
        """Tell whether a cluster of these `nodes` is within the limit."""
        cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        return len(nodes) <= self.nodes and cpus <= self.cpus and gpus <= self.gpus


NO_LIMIT = Limit()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capacity:
    """The groups of nodes that an autoscaler adds, each with its greatest count (-1: any), and the limit over all."""

    groups: Sequence[tuple[Node, int]] = ()
    limit: Limit = NO_LIMIT


def read_capacity(alive: Sequence[Mapping[str, Any]]) -> Capacity | None:
    """Return what the autoscaler of the cluster may add; None where there may be one that tells nothing.

    `alive` are the nodes that are up, as ray.nodes() returns them.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    is_head = any(node["NodeID"] == here and "node:__internal_head__" in node["Resources"] for node in alive)
    file = Path(_AUTOSCALER_FILE).expanduser()
    try:
        reported = _reported_config()
        if reported is not None:
            return reported
        if is_head and file.exists():
            return read_autoscaler_file(file)
    except Exception:  # a name that is gone, another format: a bonus is lost, the job runs
        return None if len(alive) > 1 or not is_head else Capacity()
    # The head of a cluster without either has no autoscaler; of another node nobody knows.
    return Capacity() if is_head else None


def _reported_config() -> Capacity | None:
    """Return what an autoscaler, such as KubeRay's, has reported to the cluster's control service."""
    import ray

    found = ray._private.state.state.get_cluster_config()
    if not found or not found.node_group_configs:
        return None
    most = found.max_resources
    return Capacity(
        groups=[(to_node(group.resources), int(group.max_count)) for group in found.node_group_configs],
        limit=Limit(cpus=most.get("CPU", math.inf), gpus=most.get("GPU", math.inf)),
    )


def read_autoscaler_file(path: Path) -> Capacity:
    """Return what the file says that `ray up` leaves on the head for its autoscaler.

    Raises OSError, KeyError or ValueError where there is none or it is another file.
    """
    import yaml

    settings = yaml.safe_load(path.read_text())
    most = int(settings["max_workers"])
    groups = [
        (to_node(group["resources"]), int(group.get("max_workers", most)))
        for name, group in settings["available_node_types"].items()
        if name != settings["head_node_type"]
    ]
    return Capacity(groups=groups, limit=Limit(nodes=most + 1))


def to_node(resources: Mapping[str, float]) -> Node:
    """Return the node of these resources of Ray's."""
    return Node(cpus=float(resources.get("CPU", 0)), gpus=float(resources.get("GPU", 0)))
