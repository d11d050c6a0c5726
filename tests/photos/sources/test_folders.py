"""Folders found in practice: unreadable ones, system folders, results of catdog, pipes and empty folders."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from object_store import ObjectStore
from pyarrow import fs

from catdog.errors import ImageError, UsageError
from catdog.photos.sources.files import list_photos, read_photo
from catdog.photos.sources.folders import LeftOut, walk_remote
from catdog.storage.ownership import mark_folder


def write(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def relatives(folder: Path) -> list[str]:
    return [photo.relative for photo in list_photos(str(folder))]


def test_folders_of_systems_are_no_folders_of_photos(tmp_path: Path) -> None:
    write(tmp_path, ["cat/1.jpg", "cat/@eaDir/1.jpg", "lost+found/1.jpg", "$RECYCLE.BIN/1.jpg",
                     "System Volume Information/1.jpg", "#recycle/1.jpg", "LOST.DIR/1.jpg", "trash/1.jpg"])  # fmt: skip
    assert relatives(tmp_path) == ["cat/1.jpg", "trash/1.jpg"]


@pytest.mark.parametrize("kind", ["run", "labels", "sorted"])
def test_results_of_ours_are_left_out_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    write(tmp_path, ["cat/1.jpg", "cat/out/accuracy.png", "cat/out/parts/2.jpg"])
    mark_folder(str(tmp_path / "cat/out"), kind=kind)  # type: ignore[arg-type]
    assert relatives(tmp_path) == ["cat/1.jpg"]
    assert capsys.readouterr().out == "Skipped 1 folder that catdog wrote, such as cat/out.\n"


def test_results_of_an_earlier_version_are_known_by_their_files(tmp_path: Path) -> None:
    write(tmp_path, ["cat/1.jpg", "run/config.json", "run/manifest/manifest.parquet", "run/accuracy.png",
                     "labels/predict.json", "labels/predictions/1.parquet", "labels/report.html"])  # fmt: skip
    assert relatives(tmp_path) == ["cat/1.jpg"]


def test_results_given_as_photos_are_refused_but_sorted_ones(tmp_path: Path) -> None:
    write(tmp_path, ["run/accuracy.png", "sorted/cat/1.jpg"])
    mark_folder(str(tmp_path / "run"), kind="run")
    mark_folder(str(tmp_path / "sorted"), kind="sorted")
    with pytest.raises(UsageError, match=r"found the results of a catdog job \(run\): check the path"):
        list_photos(str(tmp_path / "run"))
    assert relatives(tmp_path / "sorted") == ["cat/1.jpg"]


def test_results_on_an_object_store_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, ["cat/1.jpg", "cat/run/accuracy.png", "cat/run/deep/2.png", ".hidden/3.jpg"])
    (tmp_path / "cat/run/.catdog.json").write_text(json.dumps({"kind": "run"}))
    left_out = LeftOut()
    found = list(walk_remote(fs.LocalFileSystem(), str(tmp_path), left_out))
    assert [(one.relative, one.version is not None) for one in found] == [("cat/1.jpg", True)]
    assert left_out.ours == ["cat/run"]


def test_a_folder_that_cannot_be_read_is_said_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, ["cat/1.jpg", "cat/locked/2.jpg", "dog/3.jpg"])
    scan = os.scandir

    def refuse(path: Path) -> object:  # permissions do not apply to root
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert relatives(tmp_path) == ["cat/1.jpg", "dog/3.jpg"]
    assert capsys.readouterr().out == (
        "Skipped 1 folder that cannot be read, such as cat/locked ([Errno 13] Permission denied).\n"
    )


def test_empty_folders_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, ["cat/deep/1.jpg", "eel/.hidden"])
    (tmp_path / "dog/deep/deeper").mkdir(parents=True)
    assert relatives(tmp_path) == ["cat/deep/1.jpg"]
    assert capsys.readouterr().out == "2 folders are empty, such as dog.\n"


def test_pipes_and_sockets_are_errors_and_no_wait_for_ever(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        for path in (f"{tmp_path}/pipe.jpg", f"file://{tmp_path}/pipe.jpg", f"{tmp_path}/s", "/dev/zero"):
            with pytest.raises(ImageError) as caught:
                read_photo(path)
            assert caught.value.code == "not-a-file"
    with pytest.raises(UsageError, match="found a pipe, socket or device"):
        list_photos(str(tmp_path / "pipe.jpg"))


def test_a_version_changes_with_the_content(tmp_path: Path) -> None:
    write(tmp_path, ["1.jpg"])
    before = list_photos(str(tmp_path))[0].version
    assert list_photos(str(tmp_path))[0].version == before
    (tmp_path / "1.jpg").write_text("longer")
    assert list_photos(str(tmp_path))[0].version != before


def test_a_version_changes_with_the_content_of_an_object(object_store: ObjectStore) -> None:
    folder = object_store.uri("versions")
    object_store.put("versions/1.jpg", b"photo")
    before = list_photos(folder)[0].version
    assert list_photos(folder)[0].version == before
    object_store.put("versions/1.jpg", b"longer")
    assert list_photos(folder)[0].version != before
