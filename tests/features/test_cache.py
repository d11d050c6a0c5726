from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from made_features import EXTRACTION, photo_set

from catdog.config import AugmentationConfig
from catdog.errors import FailureError
from catdog.features.cache import FeatureCache, locate_cache, write_part
from catdog.features.rows import CachedRows
from catdog.features.spec import Extraction, PhotoSet, feature_bytes, part_name
from catdog.model.backbone_specs import UNIT_SCALING, Scaling
from catdog.photos.decoding.framing import Framing
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.sharded.photo_rows import PhotoRows


def fill(root: Path, photos: PhotoSet, *, unreadable: dict[str, list[str]] | None = None) -> FeatureCache:
    """Write a cache whose feature of photo i in view v is [i, v]."""
    cache = locate_cache(EXTRACTION, photos, root=str(root))
    for part in photos.parts():
        table, views, name = part.read(), part.views, part.name
        rows = [
            (path, label, view) for view in views for path, label, _ in zip(*table.to_pydict().values(), strict=True)
        ]
        paths, labels, taken = (np.array(column) for column in zip(*rows, strict=True))
        features = np.array([[int(path.split(".")[0]), view] for path, _, view in rows], np.float16)
        columns = {"path": paths.astype(object), "label": labels.astype(np.int32), "view": taken.astype(np.int32)}
        write_part(f"{cache.directory}/{name}", columns, features, unreadable=(unreadable or {}).get(name, []))
    assert not cache.is_finished()
    cache.finish(blocks=photos.blocks, cut=EXTRACTION.cut)
    return cache


def test_a_feature_comes_back_as_it_was_written(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(6, 2, 3, 4)).astype(np.float16)
    rows = {
        "path": np.array(["a", "b", "c"] * 2, object),
        "label": np.array([0, 1, 1] * 2, np.int32),
        "view": np.array([1, 1, 1, 2, 2, 2], np.int32),
    }
    write_part(str(tmp_path / part_name(0, 0)), rows, features, unreadable=[])
    cache = FeatureCache(directory=str(tmp_path), photos="made up", views=(1, 2))
    cache.finish(blocks=1, cut="block7a_project_conv")
    for view in (1, 2):
        read, labels = cache.read(view, 0)
        np.testing.assert_array_equal(read, features[rows["view"] == view])
        assert labels.tolist() == [0, 1, 1]


def test_parts_cover_every_photo_in_every_view_once() -> None:
    photos = photo_set(130, tuple(range(1, 7)))
    parts = list(photos.parts())
    assert [part.name for part in parts] == [part_name(block, first) for block in range(3) for first in (0, 4)]
    assert sum(part.read().num_rows * len(part.views) for part in parts) == photos.rows == 780


def test_the_size_of_a_cache_is_known_before(tmp_path: Path) -> None:
    assert feature_bytes(photo_set(2000, (1, 2, 3, 4)), shape=(7, 7, 1152), dtype="float16") == 903_168_000


def test_each_epoch_takes_the_next_view_of_every_photo_in_another_order(tmp_path: Path) -> None:
    rows = CachedRows(fill(tmp_path, photo_set(130, (1, 2, 3, 4, 5))), seed=0, equal=True)
    orders = []
    for epoch, view in enumerate((1, 2, 3, 4, 5, 1)):
        features = np.concatenate([chunk for chunk, _ in rows.epoch(epoch)])
        assert set(features[:, 1].tolist()) == {view}
        assert sorted(features[:, 0].tolist()) == list(range(130))
        orders.append(features[:, 0].tolist())
    assert orders[0] != orders[5]


def test_labels_stay_with_their_features(tmp_path: Path) -> None:
    rows = CachedRows(fill(tmp_path, photo_set(130, (1,))), seed=3)
    for features, labels in rows.epoch(0):
        np.testing.assert_array_equal(features[:, 0].astype(int) % 2, labels)


def test_an_epoch_is_the_same_again_after_a_restart(tmp_path: Path) -> None:
    cache = fill(tmp_path, photo_set(130, (1, 2)))
    first, second = (next(iter(CachedRows(cache, seed=5).epoch(7)))[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_get_equally_many_rows_to_train_on_and_cover_all_to_evaluate(tmp_path: Path, workers: int) -> None:
    cache = fill(tmp_path, photo_set(131, (1,)))
    training = [CachedRows(cache, rank=rank, workers=workers, seed=0, equal=True) for rank in range(workers)]
    assert [rows.rows for rows in training] == [131 // workers] * workers
    seen = np.concatenate([next(rows.epoch(0))[0][:, 0] for rows in training])
    assert len(set(seen.tolist())) == len(seen)
    evaluated = [
        value
        for rank in range(workers)
        for chunk, _ in CachedRows(cache, rank=rank, workers=workers).epoch(0)
        for value in chunk[:, 0].tolist()
    ]
    assert evaluated == list(range(131))


def test_unreadable_photos_are_reported_and_missing(tmp_path: Path) -> None:
    photos = photo_set(3, (0,))
    cache = locate_cache(EXTRACTION, photos, root=str(tmp_path))
    rows = {"path": np.array(["0.jpg", "2.jpg"], object), "label": np.zeros(2, np.int32), "view": np.zeros(2, np.int32)}
    part = f"{cache.directory}/{part_name(0, 0)}"
    write_part(part, rows, np.ones((2, 2), np.float16), unreadable=["1.jpg: missing: gone"])
    assert cache.finish(blocks=1, cut="head") == ["1.jpg: missing: gone"]
    assert cache.content.row_counts == (2,)


def test_half_a_part_is_none(tmp_path: Path) -> None:
    (tmp_path / f"{part_name(0, 0)}.0a1b2c3d.part").write_bytes(b"half")
    assert FeatureCache(directory=str(tmp_path), photos="made up", views=(1,)).present_parts() == set()


def test_what_is_not_finished_is_said_to_be_so(tmp_path: Path) -> None:
    cache = locate_cache(EXTRACTION, photo_set(3, (0,)), root=str(tmp_path))
    assert not cache.is_finished()
    with pytest.raises(FailureError, match=r"^expected finished features in .*, found none; run the command again$"):
        _ = cache.content


def test_the_fingerprint_has_what_decides_a_feature_and_nothing_else() -> None:
    import dataclasses

    photos = photo_set(4, (1, 2))
    name = EXTRACTION.fingerprint(photos)
    for change in (
        {"backbone": "efficientnet-b0"}, {"weights_checksum": "x"}, {"cut": "input"}, {"seed": 1}, {"pooling": "max"},
        {"dtype": "float32"}, {"scaling": UNIT_SCALING},
        {"framing": Framing(resize="crop")},
        {"precision": "bfloat16"}, {"augmentation": AugmentationConfig(zoom_fraction=0)},
    ):  # fmt: skip
        assert dataclasses.replace(EXTRACTION, **change).fingerprint(photos) != name
    assert EXTRACTION.fingerprint(photo_set(4, (1, 3))) != name
    assert EXTRACTION.fingerprint(photo_set(5, (1, 2))) != name
    moved = photos.photos.read(0, 4).set_column(0, "path", pa.array(["elsewhere"] * 4))
    assert EXTRACTION.fingerprint(PhotoSet(photos=PhotoRows.of(moved), views=(1, 2))) == name
    assert not {"dropout", "learning_rate"} & {field.name for field in dataclasses.fields(Extraction)}


def test_caches_of_the_first_version_keep_their_names() -> None:
    extraction = Extraction(
        backbone="efficientnet-lite0", image_size=224, scaling=Scaling((1 / 128,) * 3, (-127 / 128,) * 3),
        pooling="avg", weights_checksum="abc", cut="head", dtype="float16", seed=0, limits=DecodeLimits(),
        augmentation=AugmentationConfig(),
    )  # fmt: skip
    table = pa.table({"path": ["a", "b"], "label": pa.array([0, 1], pa.int32()), "digest": ["x", "y"]})
    assert extraction.fingerprint(PhotoSet(photos=PhotoRows.of(table), views=(1, 2, 3))) == "d3889fa552e913a0"
