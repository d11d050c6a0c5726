"""Large folders, listed by tasks: they find what one process finds, and give the same shards each time."""

from __future__ import annotations

from pathlib import Path

import pytest
from object_store import ObjectStore

from catdog.errors import FailureError, UsageError
from catdog.photos.sources.files import MoreFilesError
from catdog.photos.sources.inputs import list_inputs
from catdog.photos.sources.listing import tree
from catdog.photos.sources.listing.shards import SetDigest, read_all
from catdog.photos.sources.listing.tree import Listed, Tree, list_folders, list_tree
from catdog.storage.ownership import mark_folder


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_tasks_find_the_photos_that_one_process_finds(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, outside = tmp_path / "photos", tmp_path / "outside"
    write(folder, "1.jpg", "cat/1.jpg", "cat/deep/er/2.jpg", "dog/1.jpg", ".hidden/1.jpg", "caf\u00e9/50% #1.jpg")
    write(outside, "3.jpg", "more/4.jpg")
    write(folder, "labels/cat/9.jpg", "left/out.jpg")
    mark_folder(str(folder / "labels"), kind="labels")
    (folder / "loop").symlink_to(folder)
    (folder / "again").symlink_to(folder / "cat")
    (folder / "seen").symlink_to(folder / ".hidden")
    (folder / "away").symlink_to(outside)
    (folder / "broken.jpg").symlink_to(folder / "nowhere.jpg")
    wanted = list_inputs(str(folder), exclude=[f"{folder}/left"])
    capsys.readouterr()
    found = list_tree(
        Tree(path=str(folder), exclude=(f"{folder}/left",), shards=str(tmp_path / "shards")), num_cpus=0.5
    )
    rows = read_all(found.shards)
    assert rows.sort_by("path") == wanted
    assert found.digest == SetDigest.of(wanted)
    assert [shard.first for shard in found.shards] == sorted(shard.first for shard in found.shards)
    assert capsys.readouterr().out == "Skipped 1 folder that catdog wrote, such as labels.\n"
    assert list_tree(Tree(path=str(folder), exclude=(f"{folder}/left",)), num_cpus=0.5).digest == found.digest


def list_here(folder: Path, place: Path) -> tuple[list[tuple[str, int]], int]:
    """List `folder` as tasks do, in this process; return (first path, rows) of each shard, and the number of tasks."""
    queue, found, tasks = [([""], 0)], Listed(), 0
    while queue:
        folders, files = queue.pop()
        listed = list_folders(Tree(path=str(folder), shards=str(place)), folders, files=files)
        found.shards.extend(listed.shards)
        queue += [(batch, tree._FILES_PER_TASK) for batch in listed.left]
        tasks += 1
    for shard in found.shards:
        paths = shard.read()["path"].to_pylist()
        assert paths == sorted(paths)
    return sorted((Path(shard.first).relative_to(folder).as_posix(), shard.rows) for shard in found.shards), tasks


def test_a_task_hands_on_the_folders_that_are_left_and_a_large_folder_is_several_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "_FILES_PER_TASK", 10)
    monkeypatch.setattr(tree, "_TASKS_PER_FOLDER", 2)
    monkeypatch.setattr(tree, "SHARD_ROWS", 4)
    write(tmp_path / "p", *(f"large/{number:02d}.jpg" for number in range(9)), *(f"s{at}/0.jpg" for at in range(5)))
    found, tasks = list_here(tmp_path / "p", tmp_path / "shards")
    assert found == [
        ("large/00.jpg", 4), ("large/04.jpg", 4), ("large/08.jpg", 2), ("s1/0.jpg", 1), ("s2/0.jpg", 3),
    ]  # fmt: skip
    assert tasks == 4
    assert list_here(tmp_path / "p", tmp_path / "again") == (found, tasks)


def test_of_a_folder_with_more_files_than_are_asked_for_only_containers_are_listed_on(tmp_path: Path) -> None:
    write(tmp_path, *(f"photos/{number}.jpg" for number in range(4)), *(f"tables/{number}.tar" for number in range(4)))
    assert list_inputs(f"{tmp_path}/photos", at_most=4).num_rows == 4
    with pytest.raises(MoreFilesError, match=f"^{tmp_path}/photos$"):
        list_inputs(f"{tmp_path}/photos", at_most=3)
    with pytest.raises(UsageError, match="expected an archive"):  # the listing continued and opened one
        list_inputs(f"{tmp_path}/tables", at_most=3)


def test_a_large_folder_on_an_object_store_is_listed_by_prefix(ray_session: None, object_store: ObjectStore) -> None:
    for name in ("1.jpg", "cat/a b.jpg", "cat/deep/2.jpg", "dog/3%.jpg", ".hidden/4.jpg", "labels/.catdog.json"):
        object_store.put(f"tree/{name}", name.encode())
    folder = object_store.uri("tree")
    found = list_tree(Tree(path=folder, shards=object_store.uri("shards")), num_cpus=0.5)
    wanted = list_inputs(folder)
    assert read_all(found.shards).sort_by("path") == wanted
    assert wanted["relative"].to_pylist() == ["1.jpg", "cat/a b.jpg", "cat/deep/2.jpg", "dog/3%.jpg"]


def test_folders_without_photos_and_unreadable_ones_are_told(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="found no files"):
        list_tree(Tree(path=str(tmp_path)), num_cpus=0.5)
    with pytest.raises(FailureError, match=r"cannot list the photos of .*/none: "):
        list_folders(Tree(path=f"{tmp_path}/none"), [""], files=0)
    found = list_folders(Tree(path=str(tmp_path)), ["", "none"], files=10)
    assert found.left_out.unreadable == ["none ([Errno 2] No such file or directory)"]
