import socket

import pytest

from catdog.cluster import connection


def test_a_cluster_of_this_machine_that_is_dead_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setattr("ray._private.utils.read_ray_address", lambda: address)
        assert connection._address() is None  # Ray joins it
    assert connection._address() == "local"
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert connection._address() is None  # the user named it
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr("ray._private.utils.read_ray_address", lambda: None)
    assert connection._address() is None
