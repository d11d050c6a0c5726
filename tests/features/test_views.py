import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
from made_features import EXTRACTION
from made_photos import draw_photo

from catdog.features.spec import MIRRORED_VIEW, PLAIN_VIEW
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
    (tmp_path / "1.jpg").write_bytes((tmp_path / "2.jpg").read_bytes())  # a good photo, of another class
    found = make_views(photo_block(table, (PLAIN_VIEW, 1), block=0), SMALL)
    assert found["label"].tolist() == [0, -1, 0] * 2
    reason = f"{tmp_path}/1.jpg: changed: its bytes are no longer those that ingest checked"
    assert [text for text in found["unreadable"] if text] == [reason]


def test_a_photo_comes_plain_and_mirrored(tmp_path: Path) -> None:
    found = make_views(photo_block(photos(tmp_path, 1), (PLAIN_VIEW, MIRRORED_VIEW), block=0), SMALL)
    plain = decode_image((tmp_path / "0.jpg").read_bytes(), size=32)
    np.testing.assert_array_equal(found["feature"], [plain, plain[:, ::-1]])
    assert found["view"].tolist() == [0, -1]
