import dataclasses
from pathlib import Path

import pytest
from made_features import EXTRACTION, photo_set

from catdog.cluster.plan import make_plan
from catdog.cluster.resources import Node, Resources
from catdog.config import ClusterConfig
from catdog.features.extract import _expected_text, missing_parts
from catdog.features.spec import PHOTOS_PER_PART
from catdog.storage import artifacts


@pytest.mark.parametrize("blocks", [2, 20])
def test_the_photos_are_read_for_their_name_once_however_many_parts_there_are(
    blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    fingerprint = artifacts.fingerprint
    monkeypatch.setattr(artifacts, "fingerprint", lambda inputs: calls.append(inputs) or fingerprint(inputs))
    photos = photo_set(blocks * PHOTOS_PER_PART, (1, 2))
    parts = missing_parts([(EXTRACTION, photos)], root=str(tmp_path))
    assert len(parts) == blocks
    assert len(calls) == 2  # of the photos, and of the cache


def test_cuts_of_the_same_photos_share_a_part(tmp_path: Path) -> None:
    deep = dataclasses.replace(EXTRACTION, cut="block7a_project_conv", pooling=None)
    photos = photo_set(100, (1,))
    parts = missing_parts([(EXTRACTION, photos), (deep, photos)], root=str(tmp_path))
    assert [part.rows for part in parts] == [64, 36]
    assert [[cut for cut, _, _ in part.targets] for part in parts] == [["head", "block7a_project_conv"]] * 2


def test_the_expected_time_is_that_of_the_images_and_cores(tmp_path: Path) -> None:
    parts = missing_parts([(EXTRACTION, photo_set(1000, (1, 2)))], root=str(tmp_path))
    plan = make_plan(Resources(nodes=(Node(cpus=2),)), ClusterConfig())
    assert _expected_text(parts, EXTRACTION, plan) == "Trunk pass: 2,000 images on 2 cores, about 17s."
    larger = dataclasses.replace(EXTRACTION, backbone="efficientnet-lite2", image_size=260)
    assert _expected_text(parts, larger, plan) == "Trunk pass: 2,000 images on 2 cores, about 39s."
