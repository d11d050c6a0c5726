from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from catdog.errors import FailureError
from catdog.model.weights.download import DownloadLimits, download

CONTENT = np.random.default_rng(0).bytes(600_000)
CHECKSUMS = (f"md5:{'0' * 32}", f"sha256:{hashlib.sha256(CONTENT).hexdigest()}")


class Server(ThreadingHTTPServer):
    """Serves CONTENT at every path; each request follows the next act in `script`, or succeeds if none is left."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[str] = []
        self.ranges: list[str | None] = []  # the Range header of each request
        self.url = f"http://127.0.0.1:{self.server_port}/weights.h5"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        act = self.server.script.pop(0) if self.server.script else "serve"
        asked = self.headers["Range"]
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and "whole" not in act else 0
        if act.isdigit():
            self.send_error(int(act))
        elif start >= len(CONTENT):
            self.send_error(416)
        else:
            self.send(b"\0" * len(CONTENT) if act == "wrong" else CONTENT, start=start, act=act)

    def send(self, content: bytes, *, start: int, act: str) -> None:
        self.send_response(206 if start else 200)
        if start:
            shown = 0 if act == "other range" else start
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        if act != "endless":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + 100_000 if "break" in act else len(content)
        with contextlib.suppress(OSError):  # the client may close the connection
            while act == "endless":
                self.wfile.write(content)
            self.wfile.write(content[start:end])  # a shorter answer closes the connection too early

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    # Not time.sleep itself, or other threads of this process would never pause.
    own = SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic)
    monkeypatch.setattr("catdog.model.weights.download.time", own)
    return pauses


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "weights.h5"


def part_of(destination: Path) -> Path:
    return destination.with_name("weights.h5.part")


def test_a_whole_download_leaves_the_file_alone(server: Server, destination: Path) -> None:
    download(server.url, destination=destination, checksums=CHECKSUMS)
    assert destination.read_bytes() == CONTENT
    assert list(destination.parent.iterdir()) == [destination]
    assert server.ranges == [None]


def test_a_broken_download_goes_on_where_it_broke_off(server: Server, destination: Path) -> None:
    server.script = ["break"] * 5  # more than the number of attempts allowed without progress
    download(server.url, destination=destination, checksums=CHECKSUMS)
    assert destination.read_bytes() == CONTENT
    assert server.ranges == [None, *(f"bytes={n}00000-" for n in range(1, 6))]


def test_a_later_run_goes_on_with_what_an_earlier_one_left(server: Server, destination: Path) -> None:
    server.script = ["break", "404"]
    with pytest.raises(FailureError):
        download(server.url, destination=destination, checksums=CHECKSUMS)
    assert not destination.exists()
    download(server.url, destination=destination, checksums=CHECKSUMS)
    assert destination.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=100000-"]


def test_a_server_that_does_not_resume_starts_the_file_anew(server: Server, destination: Path) -> None:
    server.script = ["break", "whole"]
    download(server.url, destination=destination, checksums=CHECKSUMS)
    assert destination.read_bytes() == CONTENT


def test_a_server_that_breaks_off_and_never_resumes_is_given_up(server: Server, destination: Path) -> None:
    server.script = ["break whole"] * 99
    with pytest.raises(FailureError, match="broke off after 100000 of 600000 bytes"):
        download(server.url, destination=destination, checksums=CHECKSUMS)
    assert len(server.ranges) == 5  # the first attempt made progress, the next four did not
    assert not destination.exists()


def test_another_range_than_was_asked_for_is_not_appended(server: Server, destination: Path) -> None:
    server.script = ["break", "other range"]
    download(server.url, destination=destination, checksums=CHECKSUMS)
    assert destination.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", None]


def test_a_corrupt_part_is_thrown_away(server: Server, destination: Path) -> None:
    part_of(destination).write_bytes(b"from somewhere else")
    download(server.url, destination=destination, checksums=CHECKSUMS)
    assert destination.read_bytes() == CONTENT
    assert server.ranges == ["bytes=19-", None]


def test_a_part_that_is_already_whole_is_used(server: Server, destination: Path) -> None:
    part_of(destination).write_bytes(CONTENT)
    download(server.url, destination=destination, checksums=CHECKSUMS)
    assert destination.read_bytes() == CONTENT
    assert server.ranges == ["bytes=600000-"]


def test_a_busy_server_is_asked_again_after_growing_pauses(
    server: Server, destination: Path, pauses: list[float]
) -> None:
    server.script = ["503", "429", "500"]
    download(server.url, destination=destination, checksums=CHECKSUMS)
    assert destination.read_bytes() == CONTENT
    assert pauses == [0.5, 1.0, 2.0]


def test_a_missing_file_is_not_asked_for_again(server: Server, destination: Path, pauses: list[float]) -> None:
    server.script = ["404"]
    with pytest.raises(FailureError, match=r"weights\.h5 \(HTTP 404 Not Found\)"):
        download(server.url, destination=destination, checksums=CHECKSUMS)
    assert (len(server.ranges), pauses) == (1, [])


def test_wrong_bytes_never_stand_under_the_final_name(server: Server, destination: Path) -> None:
    server.script = ["wrong"] * 99
    with pytest.raises(FailureError, match="its checksum is not the published one"):
        download(server.url, destination=destination, checksums=CHECKSUMS)
    assert list(destination.parent.iterdir()) == []


def test_without_a_checksum_nothing_is_resumed(server: Server, destination: Path) -> None:
    part_of(destination).write_bytes(b"of another version")
    server.script = ["break"]
    download(server.url, destination=destination, checksums=())
    assert destination.read_bytes() == CONTENT
    assert server.ranges == [None, None]


def test_a_server_that_is_not_there_is_given_up(destination: Path, pauses: list[float]) -> None:
    with Server() as server:
        url = server.url
    with pytest.raises(FailureError, match="Connection refused"):
        download(url, destination=destination, checksums=CHECKSUMS)
    assert len(pauses) == 3


def test_an_address_that_is_none_is_refused(destination: Path) -> None:
    with pytest.raises(FailureError, match=r"^weights\.h5 \(unknown url type"):
        download("weights.h5", destination=destination, checksums=CHECKSUMS)


@pytest.mark.parametrize(
    ("act", "limits", "reason"),
    [
        ("serve", DownloadLimits(size_bytes=599_999), "600,000 bytes, at most 599,999 are expected"),
        ("endless", DownloadLimits(size_bytes=2**20), "more than 1,048,576 bytes"),
        ("endless", DownloadLimits(seconds=0.0), "after the time limit"),
    ],
)
def test_a_file_beyond_the_limits_is_given_up_at_once_and_leaves_nothing(
    act: str, limits: DownloadLimits, reason: str, server: Server, destination: Path
) -> None:
    server.script = [act]
    with pytest.raises(FailureError, match=reason):
        download(server.url, destination=destination, checksums=CHECKSUMS, limits=limits)
    assert len(server.ranges) == 1
    assert not list(destination.parent.iterdir())
