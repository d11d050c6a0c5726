import json
import os
import subprocess
import threading
from pathlib import Path

import pytest
from heard import heard
from object_store import ObjectStore

from catdog.errors import FailureError, UsageError
from catdog.storage import lease as leases
from catdog.storage.lease import LeaseTimes, hold_lease

QUICK = LeaseTimes(renew=0.02, look=0.01, stale=2.0)


def leave_lease(folder: Path, **content: object) -> Path:
    """Write the lease of another job and return its path."""
    path = folder / ".catdog-lease-00000000.json"
    there = {"owner": "00000000", "host": "elsewhere", "machine": "elsewhere", "process": 1, "holds": True}
    path.write_text(json.dumps({**there, "since": "2026-01-01T00:00:00+00:00", **content}))
    return path


def acquire(folder: Path | str, times: LeaseTimes = QUICK) -> str:
    with hold_lease(str(folder), flag="--out", times=times) as lease:
        return lease.owner


def test_a_lease_leaves_nothing_behind(tmp_path: Path) -> None:
    with hold_lease(f"{tmp_path}/new", flag="--out") as lease:
        assert [path.name for path in (tmp_path / "new").iterdir()] == [f".catdog-lease-{lease.owner}.json"]
        lease.check()
    assert list((tmp_path / "new").iterdir()) == []


def test_a_second_job_of_this_machine_is_refused_at_once_by_the_name_of_the_first(tmp_path: Path) -> None:
    with hold_lease(str(tmp_path), flag="--out"), pytest.raises(UsageError) as caught:
        acquire(tmp_path, LeaseTimes())
    said = str(caught.value)
    assert said.startswith(f"--out {tmp_path}: another job is using it, on {os.uname().nodename} since 20")
    assert said.endswith("s ago: wait for it, or give another --out")
    assert acquire(tmp_path)


@pytest.mark.parametrize("process", ["x", -1, 0, 10**30, None])
def test_a_lease_that_somebody_else_wrote_holds_nobody_up(tmp_path: Path, process: object) -> None:
    path = leave_lease(tmp_path, machine=leases._machine(), process=process)
    assert acquire(tmp_path, LeaseTimes(stale=1e9))
    assert not path.exists()


def test_a_job_of_this_machine_that_was_killed_holds_nobody_up(tmp_path: Path) -> None:
    gone = max(int(name) for name in os.listdir("/proc") if name.isdigit()) + 100_000  # noqa: PTH208
    path = leave_lease(tmp_path, machine=leases._machine(), process=gone)
    assert acquire(tmp_path, LeaseTimes(stale=1e9))
    assert not path.exists()


def test_a_job_that_was_killed_and_is_not_waited_for_holds_nobody_up(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # it has ended, but is not reaped yet
    assert not leases._is_running({"process": ended.pid})
    ended.wait()


def test_a_lease_of_another_machine_holds_nobody_up_once_it_is_stale(tmp_path: Path) -> None:
    path = leave_lease(tmp_path)
    long_ago = path.stat().st_mtime - 61
    os.utime(path, (long_ago, long_ago))
    said: list[str] = []
    assert heard(said, acquire, tmp_path, LeaseTimes())
    assert said == []  # a lease older than a minute is not waited for
    assert not path.exists()
    leave_lease(tmp_path)
    assert heard(said, acquire, tmp_path, QUICK)  # becomes stale while the job watches it
    assert said == [f"A job on elsewhere locked {tmp_path}: waiting to see whether it is still running."]


def test_a_lease_of_another_machine_that_is_renewed_refuses_the_second_job(tmp_path: Path) -> None:
    path = leave_lease(tmp_path)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(0.01):
            path.touch()

    keeper = threading.Thread(target=renew)
    keeper.start()
    try:
        with pytest.raises(UsageError, match="another job is using it, on elsewhere since 2026-01-01T00:00:00"):
            acquire(tmp_path, LeaseTimes(look=0.01, stale=1e9))
    finally:
        ended.set()
        keeper.join()


def test_of_many_jobs_that_start_at_once_one_goes_on(tmp_path: Path) -> None:
    outcomes: list[str] = []
    barrier, ended = threading.Barrier(8), threading.Event()

    def job() -> None:
        barrier.wait()
        try:
            with hold_lease(str(tmp_path), flag="--out", times=LeaseTimes(look=0.01)):
                outcomes.append("held")
                ended.wait(10)
        except UsageError:
            outcomes.append("refused")
        if len(outcomes) == 8:
            ended.set()

    threads = [threading.Thread(target=job) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held", *["refused"] * 7]


def test_a_job_that_lost_its_lease_finds_out_before_it_commits(tmp_path: Path) -> None:
    with hold_lease(str(tmp_path), flag="--out") as lease:
        (tmp_path / f".catdog-lease-{lease.owner}.json").unlink()
        with pytest.raises(FailureError, match=r"another job has taken over .*; run the same command to resume"):
            lease.check()


def test_a_lease_holds_on_an_object_store_too(object_store: ObjectStore) -> None:
    out = object_store.uri("leases/out")
    patient = LeaseTimes(renew=0.02, look=0.01, stale=600)  # long enough for a machine that renews it slowly
    with hold_lease(out, flag="--out", times=patient) as lease:
        assert object_store.keys("leases/out") == [f".catdog-lease-{lease.owner}.json"]
        with pytest.raises(UsageError, match="another job is using it"):
            acquire(out, patient)
        lease.check()
    assert object_store.keys("leases/out") == []
    assert acquire(out)


def test_a_store_that_does_not_answer_keeps_no_job_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()
    monkeypatch.setattr(leases, "_LAST_SECONDS", 0.01)
    monkeypatch.setattr(leases, "delete", lambda path: answer.wait(60))
    with hold_lease(str(tmp_path), flag="--out"):
        pass
    answer.set()
