"""Training a head without TensorFlow gives the same head, and the same saved model, as training it with TensorFlow."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_features import ViewRows

from catdog.cluster.plan import make_plan
from catdog.cluster.resources import Node, Resources
from catdog.config import ClusterConfig, FrozenStageConfig, UnfrozenStageConfig
from catdog.errors import UsageError
from catdog.evaluation.class_maps import evidence_maps
from catdog.model.backbone_specs import HEAD_CUT
from catdog.model.engines import OpenvinoRunner
from catdog.model.openvino.graph import LAST_MAP, build_trunk
from catdog.model.saved_model import OUTPUT, ClassifierSpec, spec_to_card
from catdog.model.weights.pretrained import Pretrained, load_weights
from catdog.training.fit.checkpoint import StageState
from catdog.training.fit.head.frozen_head import fit_frozen_head
from catdog.training.fit.head.head_network import HeadNetwork, needs_tensorflow
from catdog.training.fit.networks import Networks, Trained
from catdog.training.fit.stage_job import StageJob, TrainJob
from catdog.training.fit.train_loop import Scored, StageRows, score_splits

WIDTH = 1280  # the number of Lite0's features


@pytest.fixture(scope="module")
def pretrained() -> Pretrained:
    found = load_weights("efficientnet-lite0", weights="imagenet")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def spec(pretrained: Pretrained) -> ClassifierSpec:
    return ClassifierSpec(
        backbone="efficientnet-lite0", image_size=64, classes=("cat", "cow", "dog"), pooling="avg", dropout=0.2,
        scaling=pretrained.scaling,
    )  # fmt: skip


@pytest.fixture(scope="module")
def keras(spec: ClassifierSpec, pretrained: Pretrained) -> Networks:
    from catdog.model.backbones import load_pretrained
    from catdog.model.classifier import build_classifier

    classifier = build_classifier(spec)
    load_pretrained(classifier, pretrained)
    return Networks(trained=classifier, float32=classifier)


@pytest.fixture
def without_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each import of TensorFlow, and of the modules that need it, fail."""
    for name in ("tensorflow", "tf_keras", "catdog.model.classifier", "catdog.model.backbones"):
        monkeypatch.setitem(sys.modules, name, None)


def make_rows(photos: int, *, seed: int) -> ViewRows:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, photos).astype(np.int32)
    features = np.maximum(random.normal(size=(2, photos, WIDTH)) + 0.1 * labels[:, np.newaxis], 0)
    return ViewRows(features.astype(np.float16), labels)


class Silent:
    def resume(self) -> StageState | None:
        return None

    def on_step(self, epoch: int, step: int, steps: int) -> None: ...

    def on_epoch(self, state: StageState, *, checkpoint: bool) -> None: ...

    def on_end(self) -> None: ...


def train(networks: Trained) -> tuple[StageState, Scored]:
    rows: Any = StageRows(train=make_rows(150, seed=0), validation=make_rows(90, seed=1))  # type: ignore[arg-type]
    settings = FrozenStageConfig(c=0.01)
    state = fit_frozen_head(networks.head(HEAD_CUT), settings, rows, Silent(), class_weights=(1.0, 2.0, 1.0))
    return state, score_splits(networks, cut=HEAD_CUT, splits=rows.held_out())["validation"]


def save(networks: Trained, spec: ClassifierSpec, folder: Path) -> str:
    folder.mkdir()
    networks.save(folder, spec_to_card(spec))
    return str(folder)


def test_the_head_its_scores_and_its_model_are_those_of_tensorflow_s_network(
    keras: Networks, spec: ClassifierSpec, pretrained: Pretrained, tmp_path: Path
) -> None:
    from catdog.model.classifier import load_classifier

    wanted, found = train(keras), train(HeadNetwork(spec, pretrained))
    for ours, theirs in zip(found[0].best_weights, wanted[0].best_weights, strict=True):
        assert np.array_equal(ours, theirs)
    assert found[0].note == wanted[0].note
    for name, value in wanted[0].history[0].items():
        assert name == "seconds" or found[0].history[0][name] == pytest.approx(value, rel=1e-5), name
    assert found[1].scores == pytest.approx(wanted[1].scores, rel=1e-5)
    assert np.array_equal(found[1].labels, wanted[1].labels)
    assert np.allclose(found[1].probabilities, wanted[1].probabilities, atol=1e-6)

    ours = HeadNetwork(spec, pretrained)
    ours.set(found[0].best_weights)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    saved = [load_classifier(save(each, spec, tmp_path / name)) for name, each in (("ours", ours), ("keras", keras))]
    assert np.array_equal(saved[0].predict_images(images), saved[1].predict_images(images))


@pytest.mark.usefixtures("without_tensorflow")
def test_nothing_of_it_needs_tensorflow(spec: ClassifierSpec, pretrained: Pretrained, tmp_path: Path) -> None:
    network = HeadNetwork(spec, pretrained)
    state, _ = train(network)
    again = HeadNetwork(spec, pretrained)
    again.load(save(network, spec, tmp_path / "model"))  # as a job that resumes after this stage does
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(again.get(), state.best_weights, strict=True))


def test_openvino_s_maps_of_a_class_are_those_of_tensorflow(
    keras: Networks, spec: ClassifierSpec, pretrained: Pretrained
) -> None:
    from catdog.model.classifier import class_maps

    network = HeadNetwork(spec, pretrained)
    network.set([np.random.default_rng(0).normal(size=(WIDTH, 3)).astype(np.float32), np.zeros(3, np.float32)])
    keras.trained.get_layer(OUTPUT).set_weights(network.get())
    images = np.random.default_rng(1).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    labels = np.array([0, 1, 2, 0])
    (maps,) = OpenvinoRunner(build_trunk(spec, network.tensors, [LAST_MAP]), threads=2)(images)
    found, wanted = evidence_maps(maps, network.get()[0], labels), class_maps(keras.trained, images, labels)
    assert found.shape == wanted.shape == (4, 2, 2)
    assert np.allclose(found, wanted, atol=1e-3)


def test_weights_of_another_backbone_are_refused(spec: ClassifierSpec, pretrained: Pretrained) -> None:
    other = dataclasses.replace(spec, backbone="efficientnet-lite2")
    with pytest.raises(UsageError, match="efficientnet-lite0"):
        HeadNetwork(other, pretrained)


def test_tensorflow_is_needed_for_all_but_a_head_that_one_worker_solves(
    spec: ClassifierSpec, pretrained: Pretrained
) -> None:
    frozen = StageJob(
        name="frozen", settings=FrozenStageConfig(), cut=HEAD_CUT, train=None, validation=None, test=None,  # type: ignore[arg-type]
    )  # fmt: skip
    unfrozen = dataclasses.replace(frozen, name="unfrozen", settings=UnfrozenStageConfig(), cut="block7a_project_conv")
    plan = make_plan(Resources(nodes=(Node(cpus=2),)), ClusterConfig())
    job = TrainJob(run_dir="run", spec=spec, seed=0, stages=(frozen,), card={}, plan=plan)
    assert not needs_tensorflow(job, workers=1, pretrained=pretrained)
    on_gpu = dataclasses.replace(plan, worker_gpus=1)
    for same in ({"precision": "float32"}, {"plan": on_gpu}):
        assert not needs_tensorflow(dataclasses.replace(job, **same), workers=1, pretrained=pretrained)  # type: ignore[arg-type]
    assert needs_tensorflow(job, workers=2, pretrained=pretrained)
    assert needs_tensorflow(job, workers=1, pretrained=None)
    steps = dataclasses.replace(frozen, settings=FrozenStageConfig(head="epochs"))
    for changes in (
        {"stages": (frozen, unfrozen)}, {"stages": (steps,)}, {"precision": "bfloat16"},
    ):  # fmt: skip
        assert needs_tensorflow(dataclasses.replace(job, **changes), workers=1, pretrained=pretrained)  # type: ignore[arg-type]
