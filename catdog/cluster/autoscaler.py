"""What an autoscaler may add to the cluster, if it reports that at all.

This is the only module of catdog that uses a private name of Ray. No public interface reports what an autoscaler may
add, and without it no job could be planned while the only node is a head without CPUs. If the name is gone or fails,
the plan counts the nodes that are up. The console then says that the capacity is unknown, unless the head is the only
node.
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
    """The largest cluster that an autoscaler allows: nodes, and CPU cores and GPUs over all of them."""

    nodes: float = math.inf
    cpus: float = math.inf
    gpus: float = math.inf

    def holds(self, nodes: Sequence[Node]) -> bool:
        """Return whether a cluster of these `nodes` is within the limit."""
        cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        return len(nodes) <= self.nodes and cpus <= self.cpus and gpus <= self.gpus


NO_LIMIT = Limit()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capacity:
    """The node groups of an autoscaler, each with its maximum count (-1: no limit), and the limit over all groups."""

    groups: Sequence[tuple[Node, int]] = ()
    limit: Limit = NO_LIMIT


def read_capacity(alive: Sequence[Mapping[str, Any]]) -> Capacity | None:
    """Return what the autoscaler of the cluster may add, or None if there may be one that reports nothing.

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
    except Exception:  # the name is gone or the format is new: the job runs without this information
        return None if len(alive) > 1 or not is_head else Capacity()
    # A head with neither a report nor a file has no autoscaler. From another node this cannot be known.
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
    """Return the capacity in the file that `ray up` leaves on the head for its autoscaler.

    Raises OSError, KeyError or ValueError if the file is missing or has another format.
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
    """Return the node that has these Ray `resources`."""
    return Node(cpus=float(resources.get("CPU", 0)), gpus=float(resources.get("GPU", 0)))
