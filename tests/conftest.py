"""What the tests share: one Ray session, small drawn photos, one finished train run."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from catdog import cluster

RAY = str(Path(sys.executable).parent / "ray")

cluster.prepare_environment(verbose=False)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A real local Ray of two CPUs, started once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray

        names = ("TF_USE_LEGACY_KERAS", "KERAS_HOME", "TF_CPP_MIN_LOG_LEVEL", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S")
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": {name: os.environ[name] for name in names}},
        )
    cluster.quiet_datasets(verbose=False)
    yield
    ray.shutdown()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def started_head(*flags: str, environment: Mapping[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A `ray start --head` and its temporary folder; in the end every process that it started is killed."""
    # Of its own, or Ray would remember this cluster as the machine's; short, because it has sockets in it.
    folder = tempfile.mkdtemp(prefix="catdog-")
    head = subprocess.Popen(
        [RAY, "start", "--head", "--block", f"--temp-dir={folder}", "--min-worker-port=0", "--max-worker-port=0",
         # Ray's own numbers for these may be taken by the Ray that the other tests share.
         f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}", *flags],
        env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield head, Path(folder)
    finally:
        for process in psutil.process_iter(["cmdline"]):
            if folder in " ".join(process.info["cmdline"] or []):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def find_processes(title: str, *, address: str) -> list[psutil.Process]:
    """The processes that Ray calls `title`, of the cluster at `address` alone; a parent is the raylet of its node."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if title not in " ".join(process.info["cmdline"] or []):
            continue  # first: to look up every process's parent takes five times as long, and there are tests that poll
        with contextlib.suppress(psutil.NoSuchProcess):
            raylet = process.parent()
            if raylet and any(address in word for word in raylet.cmdline()):
                found.append(process)
    return found


def kill_process(title: str, *, address: str) -> bool:
    """kill -9 the first process that `find_processes` finds; tell whether there was one."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in find_processes(title, address=address):
            process.kill()
            return True
    return False


def draw_photo(path: Path, *, seed: int, colour: tuple[int, int, int]) -> None:
    """A small noisy JPEG of one colour: classes that a few steps can tell apart."""
    random = np.random.default_rng(seed)
    noise = random.integers(-40, 41, (48, 64, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 reddish cats, 16 bluish dogs, and three files that cannot be used."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(16):
        draw_photo(folder / "Cat" / f"{index}.jpg", seed=index, colour=(190, 90, 60))
        draw_photo(folder / "Dog" / f"{index}.jpg", seed=100 + index, colour=(60, 90, 190))
    (folder / "Cat" / "666.jpg").write_bytes(b"")
    (folder / "Dog" / "11702.jpg").write_text("<html>not a photo</html>")
    (folder / "Dog" / "copy.jpg").write_bytes((folder / "Dog" / "0.jpg").read_bytes())
    return folder


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved Lite0 of ImageNet weights whose head tells nothing: good for all but the labels themselves."""
    return save_classifier(tmp_path_factory.mktemp("model"), seed=0)


def save_classifier(directory: Path, *, seed: int, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Save a Lite0 classifier with a random head drawn from `seed`."""
    import tf_keras

    from catdog import backbones, model
    from catdog.card import ClassifierSpec, spec_to_card
    from catdog.weights import load_weights

    pretrained = load_weights("efficientnet-lite0", weights="imagenet")
    assert pretrained is not None
    tf_keras.utils.set_random_seed(seed)
    spec = ClassifierSpec(
        backbone="efficientnet-lite0",
        image_size=224,
        classes=classes,
        pooling="avg",
        dropout=0.2,
        input_scale=pretrained.scale,
        input_offset=pretrained.offset,
    )
    classifier = model.build_classifier(spec)
    backbones.load_pretrained(classifier, pretrained)
    model.save_model(directory, classifier, spec_to_card(spec))
    return directory
