from __future__ import annotations

import errno
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from made_results import commit_rows

from catdog.errors import FailureError
from catdog.prediction.results.commit import ResultFile, result_files
from catdog.prediction.results.rows import LabelRule, build_rows
from catdog.prediction.sorting import placement
from catdog.prediction.sorting.names import name_of
from catdog.prediction.sorting.placement import Placed, clean_copies, place_photos, place_some


def write(folder: Path, names: list[str]) -> list[str]:
    """Write files that contain their own names, and return their paths."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return [str(folder / name) for name in names]


def sorted_into(out: Path, paths: list[str], labels: list[str], *, rows_per_file: int) -> list[ResultFile]:
    """Commit rows with these paths and labels, cat or dog, and return the result files."""
    probabilities = np.eye(2, dtype=np.float32)[[("cat", "dog").index(label) for label in labels]]
    rule = LabelRule(classes=("cat", "dog"), threshold=0.0, top_k=1, models=1)
    commit_rows(str(out), build_rows(paths, [""] * len(paths), [probabilities], rule), rows_per_file=rows_per_file)
    return result_files(str(out), rule=rule)


def tree(folder: Path) -> dict[str, str]:
    """Return the content of each file below `folder`, by relative path; links are followed."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.usefixtures("ray_session")
def test_a_cluster_places_every_photo_and_a_second_call_finds_them_placed(tmp_path: Path) -> None:
    paths = write(tmp_path / "p", [f"{index}.jpg" for index in range(600)])
    results, seen = sorted_into(tmp_path / "out", paths, ["cat", "dog"] * 300, rows_per_file=320), list[int]()
    options = {
        "directory": str(tmp_path / "d"), "mode": "copy", "failures": str(tmp_path / "failures"), "num_cpus": 0.5,
    }  # fmt: skip
    result = place_photos(results, **options, progress=lambda done, total: seen.append(done))
    assert result == Placed(placed=600, already=0, failed=0, first_failed=())
    assert seen == [256, 320, 576, 600]
    assert len(list((tmp_path / "d/cat").iterdir())) == 300
    assert tree(tmp_path / "d")["dog/1.jpg"] == "1.jpg"
    again = place_photos(results, **options, progress=lambda done, total: None)
    assert (again.placed, again.already) == (0, 600)


@pytest.mark.usefixtures("ray_session")
def test_of_many_photos_that_cannot_be_placed_all_are_in_files_and_the_first_are_shown(tmp_path: Path) -> None:
    paths = [f"{tmp_path}/{index:02d}.jpg" for index in range(20)]
    write(tmp_path, ["07.jpg"])
    results = sorted_into(tmp_path / "out", paths, ["cat"] * 20, rows_per_file=16)
    write(tmp_path / "failures", ["of-the-last-time.txt"])
    options = {"directory": str(tmp_path / "d"), "mode": "copy", "failures": str(tmp_path / "failures")}
    result = place_photos(results, **options, num_cpus=0.5, progress=lambda done, total: None)
    lines = [f"{path}: missing: no such file" for path in paths if "07" not in path]
    assert result == Placed(placed=1, already=0, failed=19, first_failed=tuple(lines[:10]))
    assert tree(tmp_path / "failures") == {
        "predictions-00000-0000000.txt": "".join(f"{line}\n" for line in lines[:15]),
        "predictions-00001-0000000.txt": "".join(f"{line}\n" for line in lines[15:]),
    }


def test_a_copy_keeps_the_photo_and_its_time(tmp_path: Path) -> None:
    (path,) = write(tmp_path, ["1.jpg"])
    os.utime(path, (1_000_000, 1_000_000))
    assert place_some([path], ["cat/1.jpg"], str(tmp_path / "d"), "copy") == ({"placed": 1}, [])
    assert (tmp_path / "d/cat/1.jpg").stat().st_mtime == 1_000_000
    assert Path(path).read_text() == "1.jpg"


def test_a_link_leads_to_the_photo(tmp_path: Path) -> None:
    (path,) = write(tmp_path, ["1.jpg"])
    for state in ("placed", "already"):
        assert place_some([path], ["cat/1.jpg"], str(tmp_path / "d"), "link") == ({state: 1}, [])
    assert (tmp_path / "d/cat/1.jpg").readlink() == Path(path)


def test_a_move_leaves_nothing_behind_and_can_be_repeated(tmp_path: Path) -> None:
    paths = write(tmp_path / "p", ["1.jpg", "2.jpg"])
    for state in ("placed", "already"):
        assert place_some(paths, ["cat/1.jpg", "dog/2.jpg"], str(tmp_path / "d"), "move") == ({state: 2}, [])
    assert tree(tmp_path / "d") == {"cat/1.jpg": "1.jpg", "dog/2.jpg": "2.jpg"}
    assert tree(tmp_path / "p") == {}


def test_a_move_that_was_killed_before_the_source_went_is_finished(tmp_path: Path) -> None:
    paths = write(tmp_path / "p", ["1.jpg", "2.jpg"])
    write(tmp_path / "d", ["cat/2.jpg"])
    (tmp_path / "d/cat/2.jpg").write_text("2.jpg")
    os.link(paths[0], tmp_path / "d/cat/1.jpg")
    assert place_some(paths, ["cat/1.jpg", "cat/2.jpg"], str(tmp_path / "d"), "move") == ({"placed": 2}, [])
    assert tree(tmp_path / "p") == {}
    assert tree(tmp_path / "d") == {"cat/1.jpg": "1.jpg", "cat/2.jpg": "2.jpg"}


def test_a_move_never_takes_the_file_away_from_under_a_link_to_it(tmp_path: Path) -> None:
    (path,) = write(tmp_path / "p", ["1.jpg"])
    place_some([path], ["cat/1.jpg"], str(tmp_path / "d"), "link")
    assert place_some([path], ["cat/1.jpg"], str(tmp_path / "d"), "move")[1] == [
        f"{path}: another file is already there"
    ]
    assert Path(path).read_text() == "1.jpg"


def test_a_moved_link_still_leads_to_its_file(tmp_path: Path) -> None:
    write(tmp_path, ["store/1.jpg"])
    (tmp_path / "p").mkdir()
    (tmp_path / "p/1.jpg").symlink_to("../store/1.jpg")
    assert place_some([f"{tmp_path}/p/1.jpg"], ["cat/1.jpg"], str(tmp_path / "d"), "move") == ({"placed": 1}, [])
    assert (tmp_path / "d/cat/1.jpg").read_text() == "store/1.jpg"
    assert not (tmp_path / "p/1.jpg").is_symlink()


def test_a_photo_moves_to_another_file_system(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no other file system here")
    folder = other / f"catdog-test-{os.getpid()}"
    paths = write(tmp_path, ["1.jpg"])
    try:
        assert place_some(paths, ["cat/1.jpg"], str(folder), "move") == ({"placed": 1}, [])
        assert tree(folder) == {"cat/1.jpg": "1.jpg"}
        assert not Path(paths[0]).exists()
    finally:
        (folder / "cat/1.jpg").unlink(missing_ok=True)
        (folder / "cat").rmdir()
        folder.rmdir()


@pytest.mark.parametrize("mode", ["copy", "link", "move"])
def test_somebody_else_s_file_is_never_overwritten(tmp_path: Path, mode: str) -> None:
    paths = write(tmp_path / "p", ["1.jpg", "2.jpg"])
    write(tmp_path / "d", ["cat/1.jpg"])
    (tmp_path / "d/cat/1.jpg").write_text("precious")
    states, failed = place_some(paths, ["cat/1.jpg", "cat/2.jpg"], str(tmp_path / "d"), mode)
    assert (states, failed) == ({"placed": 1}, [f"{paths[0]}: another file is already there"])
    assert tree(tmp_path / "d") == {"cat/1.jpg": "precious", "cat/2.jpg": "2.jpg"}
    assert Path(paths[0]).read_text() == "1.jpg"


@pytest.mark.parametrize(("mode", "reason"), [("copy", "missing: no such file"), ("move", "No such file or directory")])
def test_a_photo_that_is_gone_stops_nothing(tmp_path: Path, mode: str, reason: str) -> None:
    paths = [str(tmp_path / "gone.jpg"), *write(tmp_path, ["1.jpg"])]
    states, failed = place_some(paths, ["cat/gone.jpg", "cat/1.jpg"], str(tmp_path / "d"), mode)
    assert (states, failed) == ({"placed": 1}, [f"{paths[0]}: {reason}"])


def test_members_of_archives_and_uris_are_copied(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("1.jpg", "inside")
    (remote,) = write(tmp_path, ["2.jpg"])
    paths = [f"{tmp_path}/x.zip!1.jpg", f"file://{remote}"]
    for state in ("placed", "already"):
        assert place_some(paths, ["cat/1.jpg", "cat/2.jpg"], f"file://{tmp_path}/d", "copy") == ({state: 2}, [])
    assert tree(tmp_path / "d") == {"cat/1.jpg": "inside", "cat/2.jpg": "2.jpg"}


def test_a_full_disk_ends_the_job_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(placement.shutil, "copy2", fill)
    with pytest.raises(FailureError, match=r"no space left in .*/d: free some space and run the command again"):
        place_some(write(tmp_path, ["1.jpg"]), ["cat/1.jpg"], str(tmp_path / "d"), "copy")
    assert tree(tmp_path / "d") == {}


def test_what_killed_copies_left_is_cleaned_and_nothing_else(tmp_path: Path) -> None:
    for name in (f".{'0a' * 16}.part", ".mine.part", "cat.jpg", "cat.part"):
        (tmp_path / "cat").mkdir(exist_ok=True)
        (tmp_path / "cat" / name).write_text("x")
    clean_copies(str(tmp_path))
    assert sorted(path.name for path in (tmp_path / "cat").iterdir()) == [".mine.part", "cat.jpg", "cat.part"]


@pytest.mark.parametrize("mode", ["copy", "link", "move"])
def test_a_name_that_is_no_utf_8_keeps_its_bytes(tmp_path: Path, mode: str) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / name).write_bytes(b"photo")
    key = f"{tmp_path}/caf\\x{{e9}}.jpg"
    places = [f"cat/{name_of(key)}"]
    assert place_some([key], places, str(tmp_path / "sorted"), mode) == ({"placed": 1}, [])
    assert (tmp_path / "sorted/cat" / name).read_bytes() == b"photo"
    assert place_some([key], places, str(tmp_path / "sorted"), mode) == ({"already": 1}, [])
