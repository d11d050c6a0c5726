"""What the cluster has, node by node, and what its autoscaler would add."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Where `ray up` puts cluster.yaml, with Ray's defaults filled in, on the head.
_AUTOSCALER_FILE = "~/ray_bootstrap_config.yaml"
_UNLIMITED = 16  # nodes that are planned for of a group without a limit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """One machine of the cluster: CPU cores and GPUs that Ray may use."""

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources:
    """What the cluster has, node by node: nothing that is asked for may be larger than a node.

    `upcoming` are nodes that its autoscaler would add when they are asked for, as many of each group as it may have;
    `limit` is what all groups share.
    """

    nodes: tuple[Node, ...]
    upcoming: tuple[Node, ...] = ()
    limit: Limit = Limit()

    def scaled(self, *, gpus: bool) -> Resources:
        """Return the cluster as large as it can become, nodes with GPUs first and only with `gpus`."""
        nodes = list(self.nodes)
        for node in sorted(self.upcoming, key=lambda node: -node.gpus):
            if (gpus or not node.gpus) and self.limit.holds([*nodes, node]):
                nodes.append(node)
        return Resources(nodes=tuple(nodes))

    @property
    def is_alone(self) -> bool:
        """Whether there is one machine, and no autoscaler that would add another."""
        return len(self.nodes) == 1 and not self.upcoming

    @property
    def cpus(self) -> float:
        """CPU cores over all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs over all nodes."""
        return sum(node.gpus for node in self.nodes)

    @property
    def least_cpus(self) -> float:
        """CPU cores of the smallest node that has any; a head without CPUs runs nothing."""
        return min((node.cpus for node in self.nodes if node.cpus), default=0.0)


def read_resources() -> Resources:
    """Return what the cluster that this process is connected to has."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    nodes = tuple(_node(node["Resources"]) for node in alive)
    groups: Sequence[tuple[Node, int]] = ()
    limit = Limit()
    with contextlib.suppress(Exception):  # what no public API tells is a bonus, never a reason to fail
        found = ray._private.state.state.get_cluster_config()
        if found and found.node_group_configs:
            groups = [(_node(group.resources), int(group.max_count)) for group in found.node_group_configs]
            most = found.max_resources
            limit = Limit(cpus=most.get("CPU", math.inf), gpus=most.get("GPU", math.inf))
        elif _is_head(alive, ray.get_runtime_context().get_node_id()):
            groups, limit = read_autoscaler(Path(_AUTOSCALER_FILE).expanduser())
    return Resources(nodes=nodes, upcoming=upcoming_nodes(nodes, groups), limit=limit)


def _is_head(nodes: Sequence[Mapping[str, Any]], own: str) -> bool:
    """Tell whether this process is on the head, whose autoscaler's file is then on this machine."""
    return any(node["NodeID"] == own and "node:__internal_head__" in node["Resources"] for node in nodes)


def read_autoscaler(path: Path) -> tuple[list[tuple[Node, int]], Limit]:
    """Return the groups of workers, each with its greatest count, and the limit over all of them.

    `path` is the file that `ray up` leaves on the head for its autoscaler, which tells nobody else what it says.
    Raises OSError, KeyError or ValueError where there is none or it is another file.
    """
    import yaml

    settings = yaml.safe_load(path.read_text())
    most = int(settings["max_workers"])
    groups = [
        (_node(group["resources"]), int(group.get("max_workers", most)))
        for name, group in settings["available_node_types"].items()
        if name != settings["head_node_type"]
    ]
    return groups, Limit(nodes=most + 1)


def upcoming_nodes(nodes: Sequence[Node], groups: Sequence[tuple[Node, int]]) -> tuple[Node, ...]:
    """Return the nodes that an autoscaler may add to `nodes`: up to the greatest count of each group.

    A group without a limit (-1) counts as 16 nodes.
    """
    left = Counter(nodes)
    added: list[Node] = []
    for node, most in groups:
        there = min(left[node], max(most, 0)) if most >= 0 else left[node]
        left[node] -= there
        added += [node] * max(0, (most if most >= 0 else _UNLIMITED) - there)
    return tuple(added)


def _node(resources: Mapping[str, float]) -> Node:
    return Node(cpus=float(resources.get("CPU", 0)), gpus=float(resources.get("GPU", 0)))
