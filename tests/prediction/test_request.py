from pathlib import Path

import pytest
from made_photos import draw_photo
from object_store import ObjectStore

from catdog.command_line.settings import build_config
from catdog.config import PredictConfig
from catdog.prediction.request import is_one_photo


def is_one(photos: Path | str, **more: str) -> bool:
    return is_one_photo(build_config(PredictConfig, {"photos": str(photos), "model": ("m",), **more}))


def test_a_photo_without_a_folder_for_results_is_only_printed(tmp_path: Path, object_store: ObjectStore) -> None:
    draw_photo(tmp_path / "cat.jpg", seed=0, colour=(1, 2, 3))
    object_store.put("one/cat.jpg", (tmp_path / "cat.jpg").read_bytes())
    for photo in (tmp_path / "cat.jpg", object_store.uri("one/cat.jpg"), f"file://{tmp_path}/cat.jpg"):
        assert is_one(photo)
        assert not is_one(photo, out="labels")
        assert not is_one(photo, sort_into="sorted")
    for several in (tmp_path, object_store.uri("one"), "", tmp_path / "none.jpg"):
        assert not is_one(several)


@pytest.mark.parametrize("name", ["x.zip", "x.TXT", "x.parquet"])
def test_a_file_that_holds_or_names_photos_is_a_job(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert not is_one(tmp_path / name)
