import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from made_features import EXTRACTION
from made_photos import drawn_photos

from catdog.config import AugmentationConfig
from catdog.features.spec import PLAIN_VIEW
from catdog.features.views import make_views, photo_block
from catdog.photos.decoding.decode import decode_image
from catdog.photos.decoding.limits import DecodeLimits

SMALL = dataclasses.replace(EXTRACTION, image_size=32, limits=DecodeLimits())


def test_a_photo_that_changed_since_ingest_is_left_out_with_its_reason(tmp_path: Path) -> None:
    table = drawn_photos(tmp_path, 3)
    (tmp_path / "1.jpg").write_bytes((tmp_path / "2.jpg").read_bytes())  # a readable photo of another class
    found = make_views(photo_block(table, (PLAIN_VIEW, 1), block=0), SMALL)
    assert found["label"].tolist() == [0, -1, 0] * 2
    reason = f"{tmp_path}/1.jpg: changed: its bytes are no longer those that ingest checked"
    assert [text for text in found["unreadable"] if text] == [reason]


def test_threads_make_the_same_rows(tmp_path: Path) -> None:
    block = photo_block(drawn_photos(tmp_path, 3), (PLAIN_VIEW, 1), block=7)
    (tmp_path / "1.jpg").unlink()
    alone = make_views(block, SMALL)
    with ThreadPoolExecutor(2) as pool:
        together = make_views(block, SMALL, pool=pool, most=1)
    assert alone.keys() == together.keys()
    for name, values in alone.items():
        np.testing.assert_array_equal(together[name], values)


def test_views_come_in_pairs_of_an_image_and_its_mirror_image(tmp_path: Path) -> None:
    ranges = AugmentationConfig(mirror_pairs=True, horizontal_flip=False)
    extraction = dataclasses.replace(SMALL, augmentation=ranges)
    views = make_views(photo_block(drawn_photos(tmp_path, 1), (1, 2, 3, 4), block=0), extraction)["feature"]
    np.testing.assert_array_equal(views[1], views[0][:, ::-1])
    np.testing.assert_array_equal(views[3], views[2][:, ::-1])
    assert not np.array_equal(views[0], views[2])


def test_pairs_without_any_transform_are_the_photo_and_its_mirror_image(tmp_path: Path) -> None:
    none = AugmentationConfig(
        rotation_degrees=0, width_shift_fraction=0, height_shift_fraction=0, shear_degrees=0, zoom_fraction=0,
        horizontal_flip=False, mirror_pairs=True,
    )  # fmt: skip
    extraction = dataclasses.replace(SMALL, augmentation=none)
    views = make_views(photo_block(drawn_photos(tmp_path, 1), (1, 2), block=0), extraction)["feature"]
    plain = decode_image((tmp_path / "0.jpg").read_bytes(), size=32)
    np.testing.assert_array_equal(views, [plain, plain[:, ::-1]])
