"""Lost processes and machines: how often their work is tried again, and the line that tells of each."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator

from catdog.console import say

_EXCEPTION_LINE = re.compile(r"[\w.]*(Error|Exception|Exit|Interrupt)\b.*")
_LOOK_EVERY_SECONDS = 1.0
# What a person calls the actors that Ray starts anew by itself; of the others Ray Train and Ray Tune tell.
_ACTORS = {"TrunkWriter": "trunk actor", "TrunkStreamer": "trunk actor", "PartWriter": "model actor"}


@contextlib.contextmanager
def report_failures() -> Iterator[None]:
    """Say in a line, as it happens, that an actor or a machine was lost, for the length of the block.

    Ray must be connected until the block ends.
    """
    watch, stop = _Watch(), threading.Event()

    def look() -> None:
        ended = False
        while not ended:
            ended = stop.wait(_LOOK_EVERY_SECONDS)  # and a last look then
            with contextlib.suppress(Exception):  # a cluster that does not answer fails the job itself
                for line in watch.news():
                    say(line)

    thread = threading.Thread(target=look, name="losses", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)


class _Watch:
    """What is known of the cluster's machines and of this job's actors, and what of it is new."""

    def __init__(self) -> None:
        import ray

        self._known = {node["NodeID"] for node in ray.nodes() if not node["Alive"]}
        self._told: set[str] = set()  # nodes that a line was about
        self._seen: dict[str, tuple[int, str]] = {}  # restarts of an actor, and its node
        list(self._actors())  # of an earlier job in the same Ray: no news

    def news(self) -> list[str]:
        """Return a line for each loss since the last call."""
        return [*self._machines(), *self._actors()]

    def _machines(self) -> Iterator[str]:
        import ray

        state = ray._private.state.state
        leaving = {node for node, deadline in state.get_draining_nodes().items() if deadline}
        for node in ray.nodes():
            name, place = node["NodeID"], f"{node['NodeManagerHostname']}, {node['NodeManagerAddress']}"
            if name in self._known or (node["Alive"] and name not in leaving):
                continue
            self._known.add(name)
            if name in leaving or node["DeathReason"] == _death("AUTOSCALER_DRAIN_PREEMPTED"):
                self._told.add(name)
                yield f"The cloud takes back a machine ({place}): what runs there starts again on the others."
            # One that had nothing to do goes without a word.
            elif node["DeathReason"] not in (_death("EXPECTED_TERMINATION"), _death("AUTOSCALER_DRAIN_IDLE")):
                self._told.add(name)
                yield f"A machine was lost ({place}): what ran there starts again on the others."

    def _actors(self) -> Iterator[str]:
        import ray

        job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
        for name, actor in ray._private.state.state.actor_table(None, job).items():
            kinds = [kind for part, kind in _ACTORS.items() if f"({part})" in actor["ActorClassName"]]
            if not kinds:
                continue
            restarts, node = actor["NumRestarts"], actor["Address"]["NodeID"]
            before, place = self._seen.get(name, (0, node))
            self._seen[name] = (restarts, node or place)
            if restarts > before and place not in self._told:  # else the line of its machine tells
                yield f"A {kinds[0]} was lost and starts again."


def _death(reason: str) -> int:
    from ray.core.generated import common_pb2

    return int(common_pb2.NodeDeathInfo.Reason.Value(reason))


def root_cause(error: BaseException) -> str:
    """Return the line that says what happened in an exception that Ray brought from another process."""
    failures = getattr(error, "worker_failures", None) or {}
    error = next(iter(failures.values()), error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Ray's text is a chain of tracebacks, the first cause first; each ends in a line "module.Class: message".
    causes = [line for line in lines if _EXCEPTION_LINE.match(line) and not line.startswith("ray.")]
    # A process that died leaves no traceback: what Ray says of it begins with the main thing.
    plain = lines[-1:] if lines and lines[0].startswith("ray::") else lines[:1]
    line = (causes or plain or [type(error).__name__])[0]
    # Of a dead process Ray goes on to list what may have been the cause.
    line = line.partition(" Worker exit type:")[0]
    return line.removeprefix("catdog.errors.FailureError: ")  # our own words are for the user as they are


def log_directory() -> str:
    """Return where Ray keeps the logs of this session, on each machine of the cluster."""
    import ray

    return f"{ray._private.worker._global_node.get_session_dir_path()}/logs"
