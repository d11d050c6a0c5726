"""Check that the local paths of a job are the same on every node of the cluster."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping
from pathlib import Path

from catdog.errors import UsageError
from catdog.storage import files


def check_shared(*, written: Mapping[str, str], read: Mapping[str, str]) -> None:
    """Raise UsageError where a local place, given by its flag, is not the same on every node of the cluster.

    A folder in `written` is made, and must show on the other nodes what is put there; what is in `read` must be there.
    URIs are taken to be reachable from everywhere.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    written, read = (
        {flag: files.absolute(place) for flag, place in places.items() if place and not files.is_uri(place)}
        for places in (written, read)
    )
    if not others or not (written or read):
        return
    marks = {flag: Path(place) / f".catdog-{uuid.uuid4().hex}" for flag, place in written.items()}
    for mark in marks.values():
        files.make_directory(str(mark.parent))
        mark.touch()
    look = ray.remote(num_cpus=0)(_missing)
    sought = {**marks, **{flag: Path(place) for flag, place in read.items() if Path(place).exists()}}
    try:
        strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=True) for node in others]
        found = ray.get([look.options(scheduling_strategy=strategy).remote(sought) for strategy in strategies])
    finally:
        for mark in marks.values():
            mark.unlink(missing_ok=True)
    for node, missing in zip(others, found, strict=True):
        if missing:
            for mark in marks.values():
                with contextlib.suppress(OSError):  # what was made for the question alone
                    mark.parent.rmdir()
            flag, place = missing[0], {**written, **read}[missing[0]]
            machine = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            raise UsageError(
                f"{flag} {place}: expected a place that all machines of the cluster share, but it is not to be seen on "
                f"{machine}; give a URI (s3://…, gs://…) or a folder that is mounted on all of them"
            )


def _missing(sought: Mapping[str, Path]) -> list[str]:
    """Return the flags whose places are not to be seen on this machine."""
    return [flag for flag, place in sought.items() if not place.exists()]
