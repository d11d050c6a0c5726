"""Fixtures that tests share: a Ray session, an object store, small drawn photos and a saved classifier."""

from __future__ import annotations

import faulthandler
import functools
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_photos import draw_photo, save_classifier
from object_store import ENVIRONMENT, ObjectStore
from xdist.scheduler import LoadScopeScheduling

from catdog.cluster.environment import prepare_environment, prepare_local_ray, quiet_datasets
from catdog.cluster.messages import open_board
from catdog.storage.outages import PATIENCE_VARIABLE

prepare_environment(verbose=False)
prepare_local_ray()
os.environ.update(ENVIRONMENT)
os.environ["RAY_ADDRESS"] = "local"  # by default, a job must not join the cluster of another test
# Ray's log monitor and reporters took a tenth of the suite's CPU time, and nobody reads what they collect.
os.environ.update(
    {
        "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
        "LOG_NAME_UPDATE_INTERVAL_S": "60",
        "REPORTER_UPDATE_INTERVAL_MS": "60000",
    }
)


class Groups(LoadScopeScheduling):
    """Distributes tests to the processes of `pytest -n 2` by group; each group runs in one process, in order.

    All files that use `ray_session` are one group, and tests/cluster is another: two Rays at the same time are enough
    for two cores. Every other file is its own group.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file.startswith("tests/cluster/"):
            return "cluster"
        return "ray" if _shares_ray(file) else file


@functools.cache
def _shares_ray(file: str) -> bool:
    return "ray_session" in Path(__file__).parent.parent.joinpath(file).read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Groups:
    return Groups(config, log)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes after their argument: an archive can contain the time, and both processes need the same test ids."""
    return argname if isinstance(val, bytes) else None


def pytest_sessionfinish() -> None:
    faulthandler.dump_traceback_later(300, exit=True)  # a thread that never ends must not keep the process alive


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Start a real local Ray with two CPUs, once per session."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray

        with pytest.MonkeyPatch.context() as environment:
            environment.setenv(PATIENCE_VARIABLE, "1")  # Ray's processes inherit it
            ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    quiet_datasets(verbose=False)
    board = open_board()
    yield
    del board
    ray.shutdown()


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """Start an S3-compatible store on this machine, once per session."""
    store = ObjectStore()
    yield store
    store.close()


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of 16 reddish cats, 16 bluish dogs and three unusable files."""
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
    """Save a Lite0 with ImageNet weights and a random head: its labels mean nothing, everything else works as usual."""
    return save_classifier(tmp_path_factory.mktemp("model"), seed=0)
