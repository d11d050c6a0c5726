import socket
from pathlib import Path

import pytest
import ray

from catdog.cluster import connection
from catdog.cluster.connection import connection_failure
from catdog.errors import FailureError


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file in which Ray remembers a cluster of this machine."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def test_a_cluster_of_this_machine_that_is_dead_is_not_waited_for(remembered: Path) -> None:
    assert connection._address() is None
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
    ("error", "text"),
    [
        (OSError("AF_UNIX path is too long: /tmp/x"), "set RAY_TMPDIR to a folder with a shorter path"),
        (PermissionError(13, "Permission denied", "/ray"), "; check that HOME and RAY_TMPDIR "),
        (Exception("The current node timed out during startup."), "; run the same command again; "),
    ],
)  # fmt: skip
def test_a_ray_that_cannot_start_is_one_line_with_the_remedy(
    error: Exception, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**arguments: object) -> None:
        raise error

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(ray, "init", refuse)
        patch.setattr(ray, "is_initialized", lambda: False)
        patch.setattr(ray, "shutdown", lambda: None)
        with pytest.raises(FailureError, match=r"^cannot join or start Ray: ") as caught, connection.connected():
            pass
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_version_of_ray_is_named_with_the_remedy() -> None:
    error = RuntimeError(
        "Version mismatch: The cluster was started with:\n    Ray: 2.9.3\n    Python: 3.11.7\n"
        "This process on Ray driver was started with:\n    Ray: 2.60.0\n    Python: 3.12.1\n"
    )
    assert connection_failure(error) == (
        "the cluster runs Ray 2.9.3 on Python 3.11.7, this program Ray 2.60.0 on Python 3.12.1: "
        "use the same versions on both (pip install 'ray==2.9.3')"
    )
