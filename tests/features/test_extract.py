import dataclasses
from pathlib import Path

import pytest
from made_features import EXTRACTION, photo_set

from catdog.cluster.plan import make_plan
from catdog.cluster.resources import Node, Resources
from catdog.config import ClusterConfig
from catdog.features.cache import locate_cache
from catdog.features.extract import MissingParts, _expected_text
from catdog.features.spec import PHOTOS_PER_PART, part_name
from catdog.photos.sharded.photo_rows import RowShard
from catdog.storage import files


@pytest.mark.parametrize("blocks", [2, 20])
def test_the_photos_are_read_for_their_name_once_however_many_parts_there_are(
    blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    read = RowShard.read
    monkeypatch.setattr(RowShard, "read", lambda shard: calls.append(shard) or read(shard))
    photos = photo_set(blocks * PHOTOS_PER_PART, (1, 2))
    parts = list(MissingParts([(EXTRACTION, photos)], root=str(tmp_path)))
    assert len(parts) == blocks
    assert len(calls) == 1


def test_cuts_of_the_same_photos_share_a_part(tmp_path: Path) -> None:
    deep = dataclasses.replace(EXTRACTION, cut="block7a_project_conv", pooling=None)
    photos = photo_set(100, (1,))
    found = MissingParts([(EXTRACTION, photos), (deep, photos)], root=str(tmp_path))
    parts = list(found)
    assert found.cuts == ("block7a_project_conv", "head")
    assert [part.rows for part in parts] == [64, 36]
    assert [[cut for cut, _, _ in part.targets] for part in parts] == [["head", "block7a_project_conv"]] * 2


def test_a_part_that_stands_is_not_missing(tmp_path: Path) -> None:
    photos = photo_set(130, (1, 2, 3, 4, 5))
    cache = locate_cache(EXTRACTION, photos, root=str(tmp_path))
    files.write_bytes(f"{cache.directory}/{part_name(1, 4)}", b"")
    missing = [job.part.name for job in MissingParts([(EXTRACTION, photos)], root=str(tmp_path))]
    assert missing == [part_name(0, 0), part_name(0, 4), part_name(1, 0), part_name(2, 0), part_name(2, 4)]


def test_the_expected_time_is_that_of_the_images_and_cores() -> None:
    plan = make_plan(Resources(nodes=(Node(cpus=2),)), ClusterConfig())
    assert _expected_text(2000, EXTRACTION, plan) == "Trunk pass: 2,000 images on 2 cores, about 28s."
    larger = dataclasses.replace(EXTRACTION, backbone="efficientnet-lite2", image_size=260)
    assert _expected_text(2000, larger, plan) == "Trunk pass: 2,000 images on 2 cores, about 47s."
