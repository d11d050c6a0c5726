"""Check that the local paths of a job are the same on every node of the cluster."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from catdog.errors import UsageError
from catdog.storage import files


def check_shared(*, written: Mapping[str, str], read: Mapping[str, str]) -> None:
    """Raise UsageError if a local path, given by its flag, is not the same on every node of the cluster.

    A folder in `written` is created, and a file put there must be visible on the other nodes. A path in `read` that
    exists here must exist there. URIs are assumed to be reachable from everywhere.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    written, read = (
        {flag: files.absolute(place) for flag, place in places.items() if place and not files.is_uri(place)}
        for places in (written, read)
    )
    if not others or not (written or read):
        return
    marks = {flag: Path(place) / f".catdog-{uuid.uuid4().hex}" for flag, place in written.items()}
    made = [mark.parent for mark in marks.values() if not mark.parent.exists()]
    for mark in marks.values():
        files.make_directory(str(mark.parent))
        mark.touch()
    try:
        existing = {flag: Path(place) for flag, place in read.items() if Path(place).exists()}
        missing = _missing_by_node(others, {**marks, **existing})
    finally:
        for mark in marks.values():
            mark.unlink(missing_ok=True)
    for node, flags in missing.items():
        for folder in made:  # it was created only for this check
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise UsageError(
            f"{flags[0]} {({**written, **read})[flags[0]]}: expected a place that all nodes of the cluster share, but "
            f"it is not visible on {node}; give a URI (s3://…, gs://…) or a folder that is mounted on all of them"
        )


def _missing_by_node(nodes: Sequence[Mapping[str, Any]], sought: Mapping[str, Path]) -> dict[str, list[str]]:
    """Return, for each of `nodes` where a path is not visible, the flags of such paths."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0)(_missing)
    strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=True) for node in nodes]
    found = ray.get([look.options(scheduling_strategy=strategy).remote(sought) for strategy in strategies])
    names = [f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})" for node in nodes]
    return {name: flags for name, flags in zip(names, found, strict=True) if flags}


def _missing(sought: Mapping[str, Path]) -> list[str]:
    return [flag for flag, place in sought.items() if not place.exists()]
