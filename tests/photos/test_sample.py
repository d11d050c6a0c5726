"""The drawn pictures: as many as requested, always the same, usable as photos, and not separable by colour."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from catdog.errors import FailureError
from catdog.photos.decoding.decode import decode_image, inspect_image
from catdog.photos.sample import draw_sample


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*.jpg"))}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("drawn") / "deep" / "sample"
    draw_sample(directory, per_class=40)
    return directory


def test_each_class_has_as_many_pictures_as_asked_and_no_two_are_equal(sample: Path) -> None:
    drawn = contents(sample)
    assert list(drawn) == [f"{name}/{name.lower()}_{number:03d}.jpg" for name in ("Cat", "Dog") for number in range(40)]
    assert len({hashlib.sha256(content).digest() for content in drawn.values()}) == 80


def test_nothing_else_is_left_behind(sample: Path) -> None:
    assert [path.name for path in sample.parent.iterdir()] == ["sample"]
    assert sorted(path.name for path in sample.iterdir()) == ["Cat", "Dog"]


def test_the_same_seed_draws_the_same_bytes_whatever_the_count(sample: Path, tmp_path: Path) -> None:
    draw_sample(tmp_path / "again", per_class=3)
    drawn = contents(sample)
    again = contents(tmp_path / "again")
    assert len(again) == 6
    assert again.items() <= drawn.items()


def test_another_seed_draws_other_pictures(sample: Path, tmp_path: Path) -> None:
    draw_sample(tmp_path / "other", per_class=3, seed=1)
    assert not set(contents(tmp_path / "other").values()) & set(contents(sample).values())


def test_pictures_are_photos_like_any_other(sample: Path) -> None:
    for content in list(contents(sample).values())[::8]:
        assert content.startswith(b"\xff\xd8\xff")
        assert inspect_image(content)[:2] == (320, 240)
        # A blank or broken picture would be flat.
        assert decode_image(content, size=64).std() > 15


def test_the_size_is_width_and_height(tmp_path: Path) -> None:
    draw_sample(tmp_path / "small", per_class=1, size=(120, 160))
    assert [inspect_image(content)[:2] for content in contents(tmp_path / "small").values()] == [(120, 160)] * 2


def test_the_classes_share_their_colours(sample: Path) -> None:
    colors = {
        name: np.array(
            [decode_image(path.read_bytes(), size=8).mean(axis=(0, 1)) for path in (sample / name).iterdir()]
        )
        for name in ("Cat", "Dog")
    }
    # The class means differ by less than half the spread within a class, so colour alone is a poor predictor.
    gap = np.abs(colors["Cat"].mean(axis=0) - colors["Dog"].mean(axis=0))
    assert (gap < 0.5 * colors["Cat"].std(axis=0)).all()


def test_a_directory_with_something_in_it_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    draw_sample(tmp_path, per_class=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_drawing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("catdog.photos.sample._draw_dog_head", interrupt)
    with pytest.raises(KeyboardInterrupt):
        draw_sample(tmp_path / "sample", per_class=2)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FailureError, match=r"cannot draw the sample pictures to .*file/sample"):
        draw_sample(tmp_path / "file" / "sample", per_class=1)
