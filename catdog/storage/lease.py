"""A lease on a folder: two jobs never write to the same folder, and a killed job does not block it for long.

Each job writes its own lease file into the folder. The file first declares that the job waits, then that it holds the
folder. The job continues only if it sees no other holder after that, so at most one job continues. This also works on
object stores, which can neither lock nor rename. A lease is valid while its file is renewed. Times are compared by the
clock of the store, not by those of the machines. For a job on the same machine, it is known immediately whether its
process still runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from catdog.console import say
from catdog.errors import CatdogError, FailureError, UsageError
from catdog.storage.files import absolute, delete, join, list_directory, read_json, write_json
from catdog.storage.ownership import LEASE_PREFIX

_LAST_SECONDS = 5.0
_OWNERS: set[str] = set()  # the leases of this process


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeaseTimes:
    """Seconds between renewals, between checks while waiting, and until a lease that is not renewed expires."""

    renew: float = 10.0
    look: float = 1.0
    stale: float = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Other:
    """A valid lease of another job; `renewed` is the time of its file, in ns, by the clock of the store."""

    owner: str
    host: str
    since: str
    holds: bool
    here: bool  # its process runs on this machine
    renewed: int
    age: float


class Lease:
    """The right to write to a folder; `owner` names this job, for use in the names of the files that it stages."""

    def __init__(self, directory: str, *, flag: str, times: LeaseTimes) -> None:
        self.owner = uuid.uuid4().hex[:8]
        self._directory, self._flag, self._times = directory, flag, times
        self._name = f"{LEASE_PREFIX}{self.owner}.json"
        self._since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._ended = threading.Event()

    def acquire(self) -> None:
        """Wait until no other job holds the folder.

        Raises UsageError once it is certain that one does: its process runs here, or it has renewed its lease.
        """
        seen: dict[str, int] = {}
        _OWNERS.add(self.owner)
        while True:
            self._write(holds=False)
            others = self._others()
            holders = [other for other in others if other.holds]
            for other in holders:
                if other.owner not in seen and not other.here:
                    say(f"A job on {other.host} locked {self._directory}: waiting to see whether it is still running.")
                if other.here or seen.setdefault(other.owner, other.renewed) < other.renewed:
                    raise self._refusal(other)
            if not holders and all(self.owner < other.owner for other in others):
                self._write(holds=True)
                if not any(other.holds for other in self._others()):
                    return
            time.sleep(self._times.look * random.uniform(0.5, 1.0))

    def check(self) -> None:
        """Raise FailureError if another job has taken over the folder because this one was suspended too long."""
        if self._name not in list_directory(self._directory):
            raise FailureError(f"another job has taken over {self._directory}; run the same command to resume")

    def renew(self) -> None:
        """Renew the lease until it is given back; if the store does not answer, retry at the next interval."""
        while not self._ended.wait(self._times.renew):
            with contextlib.suppress(CatdogError, OSError):
                if self._name in list_directory(self._directory):
                    self._write(holds=True)

    def give_back(self) -> None:
        """Delete the lease; wait at most 5 s for the store to answer, because the job has ended."""
        self._ended.set()
        _OWNERS.discard(self.owner)
        thread = threading.Thread(target=self._delete, name="lease", daemon=True)
        thread.start()
        thread.join(_LAST_SECONDS)

    def _delete(self) -> None:
        with contextlib.suppress(CatdogError, OSError):
            delete(join(self._directory, self._name))

    def _write(self, *, holds: bool) -> None:
        content = {"owner": self.owner, "host": socket.gethostname(), "machine": _machine(), "process": os.getpid()}
        write_json(join(self._directory, self._name), {**content, "since": self._since, "holds": holds})

    def _others(self) -> list[_Other]:
        """Return the valid leases of other jobs, and delete the others."""
        entries = list_directory(self._directory)
        now = entries[self._name].mtime_ns if self._name in entries else time.time_ns()
        found = []
        for name, entry in entries.items():
            if not (name.startswith(LEASE_PREFIX) and name.endswith(".json")) or name == self._name:
                continue
            path = join(self._directory, name)
            try:
                content = read_json(path)
            except FailureError:  # deleted since the listing
                continue
            age = max(0.0, ((now or 0) - (entry.mtime_ns or 0)) / 1e9)
            here = content.get("machine") == _machine()
            if age > self._times.stale or (here and not _is_running(content)):
                delete(path)
                continue
            owner, host, since = (str(content.get(key)) for key in ("owner", "host", "since"))
            holds, renewed = bool(content.get("holds")), entry.mtime_ns or 0
            found.append(_Other(owner=owner, host=host, since=since, holds=holds, here=here, renewed=renewed, age=age))
        return found

    def _refusal(self, other: _Other) -> UsageError:
        return UsageError(
            f"{self._flag} {self._directory}: another job is using it, on {other.host} since {other.since}, "
            f"renewed {other.age:.0f} s ago: wait for it, or give another {self._flag}"
        )


@contextlib.contextmanager
def hold_lease(directory: str, *, flag: str, times: LeaseTimes | None = None) -> Iterator[Lease]:
    """Hold the exclusive right to write to `directory`, which `flag` names, until the block ends.

    A lease left by a job on another machine is watched until it is renewed or expires: a minute at most.
    Raises UsageError, which names the other job, if one is writing there.
    """
    lease = Lease(absolute(directory), flag=flag, times=times or LeaseTimes())
    try:
        lease.acquire()
        threading.Thread(target=lease.renew, name="lease", daemon=True).start()
        yield lease
    finally:
        lease.give_back()


def _machine() -> str:
    """Return a name for the machine, its boot, and the process namespace."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _is_running(content: dict[str, Any]) -> bool:
    """Return whether the process of a lease of this machine still runs."""
    process = content.get("process")
    if not isinstance(process, int) or not 0 < process < 2**31:  # somebody else wrote it
        return False
    if process == os.getpid():  # or one with the same id, from before this container's start
        return content.get("owner") in _OWNERS
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(process)


def _is_zombie(process: int) -> bool:
    """Return whether a process has ended and its parent has not noticed yet, which in a container may never happen."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] in ("Z", "X")
