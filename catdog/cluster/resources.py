"""The resources of the cluster, node by node, and what it can grow to."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from catdog.cluster.autoscaler import NO_LIMIT, Limit, Node, read_capacity, to_node

_UNLIMITED = 16  # nodes to plan for in a group without a limit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources:
    """The resources of the cluster, node by node: no single request may be larger than a node.

    `upcoming` are the nodes that its autoscaler would add on demand, as many of each group as it may have. `limit` is
    for all groups together. `is_capacity_known` is False if there may be an autoscaler that reports nothing.
    """

    nodes: tuple[Node, ...]
    upcoming: tuple[Node, ...] = ()
    limit: Limit = NO_LIMIT
    is_capacity_known: bool = True

    def scaled(self, *, gpus: bool) -> Resources:
        """Return the cluster at its largest; nodes with GPUs are added first, and only if `gpus`."""
        nodes = list(self.nodes)
        for node in sorted(self.upcoming, key=lambda node: -node.gpus):
            if (gpus or not node.gpus) and self.limit.holds([*nodes, node]):
                nodes.append(node)
        return Resources(nodes=tuple(nodes))

    @property
    def is_single_node(self) -> bool:
        """Whether there is exactly one node, and no autoscaler that would add another."""
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
    """Return the resources of the cluster that this process is connected to, and what it can grow to."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    nodes = tuple(to_node(node["Resources"]) for node in alive)
    capacity = read_capacity(alive)
    if capacity is None:
        return Resources(nodes=nodes, is_capacity_known=False)
    return Resources(nodes=nodes, upcoming=upcoming_nodes(nodes, capacity.groups), limit=capacity.limit)


def upcoming_nodes(nodes: Sequence[Node], groups: Sequence[tuple[Node, int]]) -> tuple[Node, ...]:
    """Return the nodes that an autoscaler may add to `nodes`: up to the maximum count of each group.

    A group without a limit (-1) counts as 16 nodes.
    """
    left = Counter(nodes)
    added: list[Node] = []
    for node, most in groups:
        there = min(left[node], max(most, 0)) if most >= 0 else left[node]
        left[node] -= there
        added += [node] * max(0, (most if most >= 0 else _UNLIMITED) - there)
    return tuple(added)
