from pathlib import Path

from made_photos import draw_photo

from catdog.benchmark.bench import multiply_photos, recipe_flags
from catdog.photos.decoding.decode import decode_image
from catdog.photos.sources.files import list_photos


def test_a_third_of_the_photos_of_per_class_validates() -> None:
    counts = ["--train-per-class", "40", "--validation-per-class", "20", "--test-per-class", "0"]
    assert recipe_flags("pets", per_class=60) == ["--photos", "pets", *counts]
    assert recipe_flags("pets", per_class=10_000)[3] == "1000"


def test_copies_are_other_files_and_links_the_same_ones(tmp_path: Path) -> None:
    for name, colour in (("cat/1.jpg", (190, 90, 60)), ("cat/2.jpg", (180, 90, 60)), ("dog/1.jpg", (60, 90, 190))):
        draw_photo(tmp_path / "photos" / name, seed=1, colour=colour)
    multiply_photos(str(tmp_path / "photos"), str(tmp_path / "copies"), 40)
    copies = [path for path in (tmp_path / "copies").rglob("*") if path.is_file()]
    assert {name: sum(path.parent.name == name for path in copies) for name in ("cat", "dog")} == {"cat": 20, "dog": 20}
    assert len({path.read_bytes() for path in copies}) == 40
    # The bytes appended to a copy do not change its picture.
    assert len({decode_image(path.read_bytes(), size=32).tobytes() for path in copies}) == 3
    multiply_photos(str(tmp_path / "photos"), str(tmp_path / "links"), 40, link=True)
    assert len(list_photos(str(tmp_path / "links"))) == 40
    assert len({path.stat().st_ino for path in (tmp_path / "links").rglob("*.jpg")}) == 3
