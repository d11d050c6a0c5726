"""What the cluster has, node by node, and what it can become."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from catdog.cluster.autoscaler import NO_LIMIT, Limit, Node, read_capacity, to_node

_UNLIMITED = 16  # nodes that are planned for of a group without a limit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources:
    """What the cluster has, node by node: nothing that is asked for may be larger than a node.

    `upcoming` are nodes that its autoscaler would add when they are asked for, as many of each group as it may have;
    `limit` is what all groups share. `is_capacity_known` is False where there may be an autoscaler that tells nothing.
    """

    nodes: tuple[Node, ...]
    upcoming: tuple[Node, ...] = ()
    limit: Limit = NO_LIMIT
    is_capacity_known: bool = True

    def scaled(self, *, gpus: bool) -> Resources:
        """Return the cluster as large as it can become, nodes with GPUs first and only with `gpus`."""
        nodes = list(self.nodes)
        for node in sorted(self.upcoming, key=lambda node: -node.gpus):
            if (gpus or not node.gpus) and self.limit.holds([*nodes, node]):
                nodes.append(node)
        return Resources(nodes=tuple(nodes))

    @property
    def is_single_node(self) -> bool:
        """Whether there is one node, and no autoscaler that would add another."""
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
    """Return what the cluster that this process is connected to has, and what it can become."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    nodes = tuple(to_node(node["Resources"]) for node in alive)
    capacity = read_capacity(alive)
    if capacity is None:
        return Resources(nodes=nodes, is_capacity_known=False)
    return Resources(nodes=nodes, upcoming=upcoming_nodes(nodes, capacity.groups), limit=capacity.limit)


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
