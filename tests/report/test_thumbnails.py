import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image

from catdog.errors import FailureError, ImageError
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.decoding.thumbnails import make_thumbnail, overlay_heat
from catdog.report.thumbnails import make_thumbnails, read_pictures, write_pictures
from catdog.storage.schemas import PICTURES


def jpeg(width: int, height: int, *, orientation: int = 1) -> bytes:
    """Return a JPEG whose left half is red and whose right half is blue."""
    image = Image.new("RGB", (width, height), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, width // 2, height))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    sink = io.BytesIO()
    image.save(sink, "JPEG", exif=exif, quality=95)
    return sink.getvalue()


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize(
    ("sides", "small"),
    [((1600, 800), (160, 80)), ((300, 900), (53, 160)), ((40, 20), (40, 20)), ((3000, 2), (160, 1))],
)
def test_the_longer_side_is_as_asked_and_nothing_is_enlarged(sides: tuple[int, int], small: tuple[int, int]) -> None:
    thumbnail = opened(make_thumbnail(jpeg(*sides), size=160))
    assert thumbnail.format == "JPEG"
    assert thumbnail.size == small


def test_a_photo_on_its_side_stands_upright_and_leaves_its_metadata_behind() -> None:
    thumbnail = opened(make_thumbnail(jpeg(400, 200, orientation=6), size=100))
    assert thumbnail.size == (50, 100)
    assert thumbnail.getpixel((25, 10))[0] > 200  # the left half is now on top
    assert thumbnail.getpixel((25, 90))[2] > 200
    assert not thumbnail.getexif()


def test_a_thumbnail_of_no_photo_is_an_image_error() -> None:
    with pytest.raises(ImageError, match="not-an-image"):
        make_thumbnail(b"<html>", size=160)


def test_photos_of_every_source_have_thumbnails_and_bad_ones_are_left_out(ray_session: None, tmp_path: Path) -> None:
    plain, odd = tmp_path / "a.jpg", tmp_path / "x.parquet!b.jpg"
    for path in (plain, odd, tmp_path / os.fsdecode(b"caf\xe9.jpg")):
        path.write_bytes(jpeg(320, 160))
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("cat/1.jpg", jpeg(200, 400))
    table = pa.table({"name": ["one", "two"], "image": [jpeg(160, 160), None]})
    pq.write_table(table, tmp_path / "d.parquet")
    names = {
        str(plain): (160, 80),
        str(odd): (160, 80),
        f"{tmp_path}/caf\\x{{e9}}.jpg": (160, 80),
        f"{tmp_path}/c.zip!cat/1.jpg": (80, 160),
        f"{tmp_path}/d.parquet!one": (160, 160),
    }
    missing = [str(tmp_path / "bad.jpg"), str(tmp_path / "gone.jpg"), f"{tmp_path}/d.parquet!two",
               f"{tmp_path}/d.parquet!three", f"{tmp_path}/e.parquet!one"]  # fmt: skip
    found = make_thumbnails([*names, *missing], limits=DecodeLimits())
    assert {name: opened(content).size for name, content in found.items()} == names
    assert make_thumbnails([], limits=DecodeLimits()) == {}
    assert make_thumbnails([str(plain)], limits=DecodeLimits(max_pixels=100)) == {}


def test_heat_reddens_where_it_is_and_grays_the_rest() -> None:
    heat = np.zeros((7, 7), np.float32)
    heat[:, 5:] = 1.0
    found = opened(overlay_heat(make_thumbnail(jpeg(320, 160), size=160), heat)).convert("RGB")
    assert found.size == (160, 80)
    cold, hot = found.getpixel((5, 40)), found.getpixel((155, 40))
    assert max(cold) - min(cold) < 110  # it was 255 in the photo
    assert hot[0] > hot[2] + 60


def test_pictures_survive_the_round_trip(tmp_path: Path) -> None:
    path = str(tmp_path / "thumbnails.parquet")
    assert read_pictures(path).num_rows == 0
    rows = [{"name": "a<b>", "kind": "photo", "jpeg": b"1"}]
    write_pictures(path, pa.Table.from_pylist(rows, PICTURES))
    assert read_pictures(path).to_pylist() == rows
    (tmp_path / "thumbnails.parquet").write_bytes(b"no table")
    with pytest.raises(FailureError, match=r"thumbnails\.parquet cannot be read"):
        read_pictures(path)
