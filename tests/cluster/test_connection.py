import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from catdog.cluster import connection
from catdog.cluster.connection import connection_failure
from catdog.errors import FailureError


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the path of the file in which Ray records a cluster of this machine."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def test_a_cluster_of_this_machine_that_is_dead_is_not_waited_for(remembered: Path) -> None:
    assert connection._address() == "local"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        remembered.write_text(f"127.0.0.1:{listener.getsockname()[1]}")
        assert connection._address() is None  # Ray joins it
    assert connection._address() == "local"


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_named_cluster_that_is_dead_is_known_in_ten_seconds(
    scheme: str, monkeypatch: pytest.MonkeyPatch, remembered: Path
) -> None:
    assert connection._CONNECT_SECONDS <= 10
    monkeypatch.setattr(connection, "_CONNECT_SECONDS", 0.6)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setenv("RAY_ADDRESS", f"{scheme}127.0.0.1:{port}")
        assert connection._address() is None  # Ray joins it
    with pytest.raises(FailureError, match=rf"^RAY_ADDRESS {scheme}127.0.0.1:{port}: .*nothing answers at 127.0.0.1"):
        connection._address()
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert connection._address() is None


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("RAY_TMPDIR", "/tmp/" + 100 * "x", r".*AF_UNIX.*; set RAY_TMPDIR to a folder with a shorter path"),
        ("RAY_TMPDIR", "/proc/none", r"cannot join or start Ray: .*'/proc/none'; check that HOME and RAY_TMPDIR .*"),
        ("RAY_ADDRESS", "nonsense", r"cannot join or start Ray: Invalid address format: nonsense; check RAY_ADDRESS"),
    ],
)  # fmt: skip
def test_a_ray_that_cannot_start_is_one_line_with_the_remedy(
    variable: str, value: str, line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if value.endswith("xx"):
        value = str(tmp_path / value.rpartition("/")[2])
        Path(value).mkdir()
    monkeypatch.setenv(variable, value)
    program = "from catdog.cluster.connection import connected\nwith connected(): pass"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 1
    assert re.fullmatch(rf"catdog.errors.FailureError: {line}", ended.stderr.splitlines()[-1])


def test_a_machine_that_is_too_busy_to_start_ray_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert connection_failure(Exception("The current node timed out during startup.")) == (
        "cannot join or start Ray: The current node timed out during startup; run the same command again; "
        "Ray waits 30 seconds for its processes, so close what keeps the machine busy"
    )


def test_another_version_of_ray_is_named_with_the_remedy() -> None:
    error = RuntimeError(
        "Version mismatch: The cluster was started with:\n    Ray: 2.9.3\n    Python: 3.11.7\n"
        "This process on Ray driver was started with:\n    Ray: 2.60.0\n    Python: 3.12.1\n"
    )
    assert connection_failure(error) == (
        "the cluster runs Ray 2.9.3 on Python 3.11.7, this program Ray 2.60.0 on Python 3.12.1: "
        "use the same versions on both (pip install 'ray==2.9.3')"
    )
