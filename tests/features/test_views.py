import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
from made_features import EXTRACTION
from made_photos import draw_photo

from catdog.config import AugmentationConfig
from catdog.features.spec import PLAIN_VIEW
from catdog.features.views import make_views, photo_block
from catdog.photos.decoding.decode import decode_image
from catdog.photos.decoding.limits import DecodeLimits

SMALL = dataclasses.replace(EXTRACTION, image_size=32, limits=DecodeLimits())


def photos(folder: Path, count: int) -> pa.Table:
    for index in range(count):
        draw_photo(folder / f"{index}.jpg", seed=index, colour=(190, 90, 60))
    paths = [folder / f"{index}.jpg" for index in range(count)]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    return pa.table({"path": [str(path) for path in paths], "label": [0, 1, 0][:count], "digest": digests})


def test_a_photo_that_changed_since_ingest_is_left_out_with_its_reason(tmp_path: Path) -> None:
    table = photos(tmp_path, 3)
    (tmp_path / "1.jpg").write_bytes((tmp_path / "2.jpg").read_bytes())  # a readable photo of another class
    found = make_views(photo_block(table, (PLAIN_VIEW, 1), block=0), SMALL)
    assert found["label"].tolist() == [0, -1, 0] * 2
    reason = f"{tmp_path}/1.jpg: changed: its bytes are no longer those that ingest checked"
    assert [text for text in found["unreadable"] if text] == [reason]


def test_views_come_in_pairs_of_an_image_and_its_mirror_image(tmp_path: Path) -> None:
    ranges = AugmentationConfig(mirror_pairs=True, horizontal_flip=False)
    extraction = dataclasses.replace(SMALL, augmentation=ranges)
    views = make_views(photo_block(photos(tmp_path, 1), (1, 2, 3, 4), block=0), extraction)["feature"]
    np.testing.assert_array_equal(views[1], views[0][:, ::-1])
    np.testing.assert_array_equal(views[3], views[2][:, ::-1])
    assert not np.array_equal(views[0], views[2])


def test_pairs_without_any_transform_are_the_photo_and_its_mirror_image(tmp_path: Path) -> None:
    none = AugmentationConfig(
        rotation_degrees=0, width_shift_fraction=0, height_shift_fraction=0, shear_degrees=0, zoom_fraction=0,
        horizontal_flip=False, mirror_pairs=True,
    )  # fmt: skip
    extraction = dataclasses.replace(SMALL, augmentation=none)
    views = make_views(photo_block(photos(tmp_path, 1), (1, 2), block=0), extraction)["feature"]
    plain = decode_image((tmp_path / "0.jpg").read_bytes(), size=32)
    np.testing.assert_array_equal(views, [plain, plain[:, ::-1]])
