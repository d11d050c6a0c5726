import dataclasses
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made_features import EXTRACTION, photo_set
from made_photos import drawn_photos

from catdog.cluster.plan import make_plan
from catdog.cluster.resources import Node, Resources
from catdog.config import ClusterConfig
from catdog.features.cache import locate_cache
from catdog.features.extract import MissingParts, _expected_text, extract_features
from catdog.features.spec import PHOTOS_PER_PART, PhotoSet, part_name
from catdog.model.weights.pretrained import load_weights
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.sharded.photo_rows import PhotoRows, RowShard
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


@pytest.mark.usefixtures("ray_session")
def test_tasks_that_decode_for_gpus_make_the_features_that_actors_make_alone(tmp_path: Path) -> None:
    extraction = dataclasses.replace(EXTRACTION, image_size=32, limits=DecodeLimits())
    pretrained = load_weights("efficientnet-lite0", weights="imagenet")
    photos = PhotoSet(photos=PhotoRows.of(drawn_photos(tmp_path, 70)), views=(1, 2))
    alone = make_plan(Resources(nodes=(Node(cpus=2),)), ClusterConfig())
    found = []
    for plan in (alone, dataclasses.replace(alone, decoders=0)):
        root, seen = str(tmp_path / f"features-{plan.decoders}"), []
        unreadable = extract_features(
            [(extraction, photos)], pretrained=pretrained, plan=plan, root=root,
            progress=lambda done, total, seen=seen: seen.append((done, total)),
        )  # fmt: skip
        assert (unreadable, seen[0], seen[-1]) == ([], (0, 140), (140, 140))
        cache = locate_cache(extraction, photos, root=root)
        found.append([pq.read_table(path) for path in sorted(Path(cache.directory).glob("part-*.parquet"))])
    assert [part.num_rows for part in found[0]] == [128, 12]
    assert found[0] == found[1]


def test_the_expected_time_is_that_of_the_images_and_cores() -> None:
    plan = make_plan(Resources(nodes=(Node(cpus=2),)), ClusterConfig())
    larger = dataclasses.replace(EXTRACTION, backbone="efficientnet-lite2", image_size=288)
    found = [
        _expected_text(2000, extraction, plan, avx512=avx512).partition(" on 2 cores, about ")[2]
        for extraction in (EXTRACTION, larger)
        for avx512 in (True, False)
    ]
    assert found == ["16s.", "37s.", "26s.", "1m09s."]
    assert _expected_text(1, EXTRACTION, plan, avx512=True) == "Trunk pass: 1 image on 2 cores, about 5s."
