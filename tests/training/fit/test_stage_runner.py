"""The stage runner on one worker, with cached features and without Ray."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from made_features import EXTRACTION, head_networks

from catdog.cluster.plan import make_plan
from catdog.cluster.resources import Node, Resources
from catdog.config import ClusterConfig, FrozenStageConfig, UnfrozenStageConfig
from catdog.evaluation.held_out import read_outcomes
from catdog.features.cache import FeatureCache, locate_cache, write_part
from catdog.features.spec import PhotoSet
from catdog.model.backbone_specs import HEAD_CUT, UNIT_SCALING
from catdog.model.saved_model import ClassifierSpec, read_card
from catdog.photos.sharded.photo_rows import PhotoRows
from catdog.training.fit.checkpoint import StageState, read_history
from catdog.training.fit.marks import best_stage, finished_marks
from catdog.training.fit.networks import Networks
from catdog.training.fit.stage_job import StageJob, TrainJob
from catdog.training.fit.stage_runner import Place, open_share, train_stages

WIDTH = 24


def make_cache(root: Path, *, photos: int, seed: int) -> FeatureCache:
    """Write and return a cache of very noisy features of two classes, whose means differ in every dimension."""
    random = np.random.default_rng(seed)
    labels = (np.arange(photos) % 2).astype(np.int32)
    table = pa.table(
        {
            "path": [f"{seed}/{row}.jpg" for row in range(photos)],
            "label": pa.array(labels),
            "digest": [f"{seed}{row}" for row in range(photos)],
        }
    )
    wanted = PhotoSet(photos=PhotoRows.of(table), views=(1, 2))
    cache = locate_cache(EXTRACTION, wanted, root=str(root))
    for one in wanted.parts():
        part, views = one.read(), one.views
        count = part.num_rows * len(views)
        rows = {
            "path": np.array(part["path"].to_pylist() * len(views), object),
            "label": np.tile(part["label"].to_numpy(), len(views)),
            "view": np.repeat(np.array(views, np.int32), part.num_rows),
        }
        features = random.normal(size=(count, WIDTH)) + 0.5 * rows["label"][:, np.newaxis]
        write_part(f"{cache.directory}/{one.name}", rows, features.astype(np.float16), unreadable=[])
    cache.finish(blocks=wanted.blocks, cut=HEAD_CUT)
    return cache


@pytest.fixture(scope="module")
def networks() -> Networks:
    return head_networks(WIDTH)


@pytest.fixture
def job(tmp_path: Path) -> TrainJob:
    """Return a job that solves the head, and then spoils it in a second stage with a far too large learning rate."""
    caches = {
        "train": make_cache(tmp_path, photos=100, seed=0),
        "validation": make_cache(tmp_path, photos=60, seed=1),
        "test": make_cache(tmp_path, photos=60, seed=2),
    }
    spoiling = UnfrozenStageConfig(epochs=2, learning_rate=10.0, optimizer="sgd")
    stages = (
        StageJob(name="frozen", settings=FrozenStageConfig(), cut=HEAD_CUT, **caches),
        StageJob(name="unfrozen", settings=spoiling, cut=HEAD_CUT, **caches),
    )
    spec = ClassifierSpec(
        backbone="efficientnet-lite0", image_size=224, classes=("cat", "dog"), pooling="avg", dropout=0.0,
        scaling=UNIT_SCALING,
    )  # fmt: skip
    plan = make_plan(Resources(nodes=(Node(cpus=2),)), ClusterConfig())
    return TrainJob(run_dir=str(tmp_path / "run"), spec=spec, seed=0, stages=stages, card={"made": "up"}, plan=plan)


class Follower:
    def __init__(self, told: list[tuple[str, int]], stage: str) -> None:
        self._told, self._stage = told, stage

    def resume(self) -> StageState | None:
        return None

    def on_step(self, epoch: int, step: int, steps: int) -> None: ...

    def on_epoch(self, state: StageState, *, checkpoint: bool) -> None:
        self._told.append((self._stage, state.epoch))

    def on_end(self) -> None:
        self._told.append((self._stage, -1))


def run(job: TrainJob, networks: Networks) -> list[tuple[str, int]]:
    told: list[tuple[str, int]] = []

    def open_rows(stage: StageJob) -> Any:
        return open_share(job, stage, place=Place(), pretrained=None, memory_bytes=2**20)

    train_stages(
        job, networks, place=Place(), open_rows=open_rows, observe=lambda stage: Follower(told, stage.name)
    )  # fmt: skip
    return told


def test_stages_follow_each_other_and_leave_model_history_predictions_and_mark(
    job: TrainJob, networks: Networks
) -> None:
    told = run(job, networks)
    assert told == [("frozen", 1), ("frozen", -1), ("unfrozen", 1), ("unfrozen", 2), ("unfrozen", -1)]
    for stage, epochs in (("frozen", 1), ("unfrozen", 2)):
        folder = Path(job.run_dir, stage)
        assert sorted(path.name for path in folder.iterdir()) == [
            "_COMPLETE.json", "history.csv", "model", "predictions.parquet",
        ]  # fmt: skip
        assert len(read_history(str(folder))) == epochs
        rows = read_outcomes(str(folder), classes=("cat", "dog"))
        assert rows is not None
        assert rows["split"].to_pylist() == ["validation"] * 60 + ["test"] * 60
    assert read_card(f"{job.run_dir}/frozen/model")["stage"]["head"]["c"] > 0


def test_a_later_stage_that_is_worse_on_validation_does_not_win_and_its_mark_says_why(
    job: TrainJob, networks: Networks
) -> None:
    run(job, networks)
    marks = finished_marks(job.run_dir, ["frozen", "unfrozen"])
    assert marks["unfrozen"]["validation"]["loss"] > marks["frozen"]["validation"]["loss"]
    assert best_stage(marks) == "frozen"
    assert marks["unfrozen"]["against"]["stage"] == "frozen"
    assert "against" not in marks["frozen"]


def test_a_finished_stage_is_not_trained_again(job: TrainJob, networks: Networks) -> None:
    run(job, networks)
    Path(job.run_dir, "unfrozen", "_COMPLETE.json").unlink()
    networks.trained.get_layer("fc_out").set_weights([np.zeros((WIDTH, 2)), np.zeros(2)])
    told = run(job, networks)
    assert told == [("unfrozen", 1), ("unfrozen", 2), ("unfrozen", -1)]
    assert not run(job, networks)
