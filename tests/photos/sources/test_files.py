from __future__ import annotations

import errno
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from catdog.errors import ImageError, UsageError
from catdog.photos.sources import files as photos
from catdog.photos.sources import opening
from catdog.photos.sources.files import list_photos, read_photo

ODD_NAMES = [
    "кошка/№1.jpg",
    "a b/100%.jpg",
    "a#b/c?d.jpg",
    "stop!/wow!.jpg",
    "x.zip!y/1.jpg",
    "%20/%41+&=.jpg",
    "[1]/'q'.jpg",
]


def write(folder: Path, names: list[str]) -> None:
    """Write files whose contents are their own names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def write_zip(path: Path, members: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def code_of(path: str, **options: int) -> str:
    with pytest.raises(ImageError) as raised:
        read_photo(path, **options)
    return raised.value.code


# Listing


def test_files_at_any_depth_are_listed_by_path(tmp_path: Path) -> None:
    write(tmp_path, ["b/2.jpg", "a/deep/er/1.JPG", "readme"])
    assert [photo[:2] for photo in list_photos(str(tmp_path))] == [
        (f"{tmp_path}/a/deep/er/1.JPG", "a/deep/er/1.JPG"),
        (f"{tmp_path}/b/2.jpg", "b/2.jpg"),
        (f"{tmp_path}/readme", "readme"),
    ]


def test_a_relative_source_gives_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, ["a/1.jpg"])
    monkeypatch.chdir(tmp_path)
    assert [photo[:2] for photo in list_photos("a/")] == [(f"{tmp_path}/a/1.jpg", "1.jpg")]


def test_one_file_is_a_source(tmp_path: Path) -> None:
    write(tmp_path, ["a/1 #.jpg"])
    assert [photo[:2] for photo in list_photos(f"{tmp_path}/a/1 #.jpg")] == [(f"{tmp_path}/a/1 #.jpg", "1 #.jpg")]
    assert list_photos(f"file://{tmp_path}/a/1%20%23.jpg")[0].relative == "1 #.jpg"


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    hidden = [".DS_Store", ".cache/1.jpg", "a/.b/1.jpg", "__MACOSX/a/._1.jpg"]
    write(tmp_path / "in", [*hidden, "a/1.jpg"])
    archive = write_zip(tmp_path / "in.zip", dict.fromkeys([*hidden, "a/1.jpg"], b""))
    for source in (tmp_path / "in", archive):
        assert [photo.relative for photo in list_photos(str(source))] == ["a/1.jpg"]


def test_loops_of_links_end_and_real_paths_win(tmp_path: Path) -> None:
    write(tmp_path, ["z/1.jpg", "b/2.jpg"])
    (tmp_path / "a").symlink_to("z")
    (tmp_path / "b" / "up").symlink_to("..")
    (tmp_path / "z" / "b").symlink_to("../b")
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    assert [photo.relative for photo in list_photos(str(tmp_path))] == ["b/2.jpg", "broken.jpg", "itself", "z/1.jpg"]
    assert code_of(f"{tmp_path}/broken.jpg") == "missing"
    assert code_of(f"{tmp_path}/itself") == "io"


def test_a_linked_folder_outside_the_source_is_entered(tmp_path: Path) -> None:
    write(tmp_path, ["elsewhere/1.jpg", "in/2.jpg"])
    (tmp_path / "in" / "cat").symlink_to(tmp_path / "elsewhere")
    assert [photo.relative for photo in list_photos(f"{tmp_path}/in")] == ["2.jpg", "cat/1.jpg"]


def test_a_pipe_is_no_photo(tmp_path: Path) -> None:
    write(tmp_path, ["1.jpg"])
    os.mkfifo(tmp_path / "2.jpg")
    assert [photo.relative for photo in list_photos(str(tmp_path))] == ["1.jpg"]


def test_names_that_are_not_utf8_are_read_by_keys_of_their_own(tmp_path: Path) -> None:
    names = [b"caf\xe9.jpg", b"caf\\x{e9}.jpg", b"caf\\xe9.jpg", "caf\u00e9.jpg".encode(), b"\xe9\xff/\xfe.jpg"]
    for name in names:
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name)
    found = {photo.relative: read_photo(photo.path) for photo in list_photos(str(tmp_path))}
    assert found == {
        "caf\\x{e9}.jpg": names[0],
        "caf\\x{5c}x{e9}.jpg": names[1],
        "caf\\xe9.jpg": names[2],
        "caf\u00e9.jpg": names[3],
        "\\x{e9}\\x{ff}/\\x{fe}.jpg": names[4],
    }
    by_uri = list_photos(f"file://{tmp_path}")
    assert {photo.relative: read_photo(photo.path) for photo in by_uri} == found
    below = list_photos(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9\xff"))  # as given on the command line
    assert [read_photo(photo.path) for photo in below] == [names[4]]
    assert code_of(f"{tmp_path}/caf\\x{{fe}}.jpg") == "missing"


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_odd_names_survive_in_folders_and_archives(tmp_path: Path, prefix: str) -> None:
    folder = tmp_path / "odd ! %41 é"
    write(folder, ODD_NAMES)
    archive = write_zip(tmp_path / "odd %41!.ZIP", {name: name.encode() for name in ODD_NAMES})
    for source in (folder, archive):
        given = str(source).replace("%", "%25") if prefix else str(source)
        found = list_photos(prefix + given)
        assert sorted(photo.relative for photo in found) == sorted(ODD_NAMES)
        assert all(read_photo(photo.path) == photo.relative.encode() for photo in found)
        assert all(photo.path.startswith(prefix + given) for photo in found)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{}/nowhere", "expected photos at {}/nowhere, found nothing there: check the path"),
        ("{}/empty", "expected photos in {}/empty, found no files (hidden files are ignored): check the path"),
        ("file://{}/nowhere", "expected photos at file://{}/nowhere, found nothing there: check the path"),
    ],
)
def test_a_source_without_photos_is_the_users_mistake(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError) as raised:
        list_photos(source.format(tmp_path))
    assert str(raised.value) == message.format(tmp_path)


def test_a_name_too_long_or_a_circle_of_links_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for source in ("x" * 5000, str(tmp_path / "a")):
        with pytest.raises(UsageError, match="found nothing there: check the path"):
            list_photos(source)


def test_an_unknown_scheme_is_the_users_mistake() -> None:
    with pytest.raises(UsageError, match="expected a local path or a URI such as s3://bucket/folder"):
        list_photos("https://example.org/photos")


def test_a_file_called_zip_that_is_none_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("<html>")
    with pytest.raises(
        UsageError,
        match=r"^expected an archive at .*/a\.zip, found a web page, as a failed download",
    ):
        list_photos(f"{tmp_path}/a.zip")


def test_a_key_of_an_object_store_keeps_its_options() -> None:
    system, inside = opening._open_in_folder("s3://bucket/my photos/50%25 %23.jpg?region=eu-west-1")
    assert inside == "bucket/my photos/50% #.jpg"
    assert system.region == "eu-west-1"


# Reading


def test_reading_says_what_is_wrong(tmp_path: Path) -> None:
    write(tmp_path, ["1.jpg"])
    (tmp_path / "empty.jpg").touch()
    assert read_photo(f"{tmp_path}/1.jpg", max_bytes=5) == b"1.jpg"
    assert read_photo(f"{tmp_path}/empty.jpg") == b""
    assert code_of(f"{tmp_path}/1.jpg", max_bytes=4) == "too-large"
    assert code_of(f"{tmp_path}/2.jpg") == "missing"
    assert code_of(f"{tmp_path}/1.jpg/2.jpg") == "missing"
    assert code_of(f"{tmp_path}/gone.zip!1.jpg") == "missing"
    assert code_of(str(tmp_path)) == "folder"
    assert code_of(f"{tmp_path}/a\0b.jpg") == "missing"
    assert code_of("gopher://host/1.jpg") == "io"


class Broken:
    """An `open_file` whose first calls raise `errors`, one each."""

    def __init__(self, *errors: OSError) -> None:
        self.errors = list(errors)

    def __call__(self, key: str) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        return opening.open_file(key)


@pytest.mark.parametrize(
    ("error", "tries", "code"),
    [
        (OSError(errno.EIO, "disk"), 4, "io"),
        (OSError("AWS Error ACCESS_DENIED during HeadObject"), 1, "permission"),
        (PermissionError(errno.EACCES, "no"), 1, "permission"),
    ],
)
def test_only_errors_that_may_pass_are_tried_again(
    monkeypatch: pytest.MonkeyPatch, error: OSError, tries: int, code: str
) -> None:
    broken, pauses = Broken(*[error] * 10), list[float]()
    monkeypatch.setattr(photos, "open_file", broken)
    monkeypatch.setattr(photos.time, "sleep", pauses.append)
    assert code_of("/photos/1.jpg") == code
    assert 10 - len(broken.errors) == tries
    assert pauses == [0.2, 1.0, 4.0][: tries - 1]


def test_a_read_that_fails_twice_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, ["1.jpg"])
    broken = Broken(*[OSError(errno.EIO, "disk")] * 2)
    monkeypatch.setattr(photos, "open_file", broken)
    monkeypatch.setattr(photos.time, "sleep", lambda seconds: None)
    assert read_photo(f"{tmp_path}/1.jpg") == b"1.jpg"


# Archives


def test_a_crafted_archive_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    link = zipfile.ZipInfo("cat/link.jpg")
    link.external_attr = 0o120777 << 16
    members = {"../../evil.jpg": b"1", "/abs/evil.jpg": b"2", "cat/../../evil.jpg": b"3", "dog\\4.jpg": b"4"}
    archive = write_zip(tmp_path / "in" / "evil.zip", members)
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(link, "/etc/passwd")
    monkeypatch.chdir(tmp_path / "in")
    found = list_photos(str(archive))
    assert {photo.relative: read_photo(photo.path) for photo in found} == {
        "abs/evil.jpg": b"2",
        "cat/link.jpg": b"/etc/passwd",  # the link's text, not what it points to
        "dog/4.jpg": b"4",
    }
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "in", archive]


def test_a_member_larger_than_allowed_is_not_unpacked(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "bomb.zip", {"1.jpg": bytes(10_000_000)})
    assert archive.stat().st_size < 20_000
    assert code_of(f"{archive}!1.jpg", max_bytes=9_999_999) == "too-large"
    assert len(read_photo(f"{archive}!1.jpg", max_bytes=10_000_000)) == 10_000_000


def test_a_member_that_lies_about_its_size_is_damaged(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "liar.zip", {"1.jpg": bytes(10_000)})
    content = bytearray(archive.read_bytes())
    at = content.rindex(b"PK\x01\x02") + 24  # the size, in the central directory (APPNOTE 4.3.12)
    content[at : at + 4] = (100).to_bytes(4, "little")
    archive.write_bytes(content)
    assert code_of(f"{archive}!1.jpg", max_bytes=1000) == "truncated"


def test_a_damaged_member_does_not_spoil_its_neighbours(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"1.jpg": b"first", "2.jpg": b"second"}, method=zipfile.ZIP_STORED)
    archive.write_bytes(archive.read_bytes().replace(b"first", b"flirt"))
    assert code_of(f"{archive}!1.jpg") == "truncated"
    assert read_photo(f"{archive}!2.jpg") == b"second"
    assert code_of(f"{archive}!3.jpg") == "missing"


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", {"1.jpg": b"secret"})
    content = bytearray(archive.read_bytes())
    content[6] |= 1  # the flags in the member's own header
    content[content.rindex(b"PK\x01\x02") + 8] |= 1  # and in the central directory
    archive.write_bytes(content)
    assert code_of(f"{archive}!1.jpg") == "encrypted"
    with pytest.raises(UsageError, match="found an encrypted archive: unpack it with its password"):
        list_photos(str(archive))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_cut_in_the_middle_is_an_image_error(tmp_path: Path, method: int) -> None:
    archive = write_zip(tmp_path / "a.zip", {"1.jpg": os.urandom(5000), "2.jpg": b"good"}, method=method)
    content = bytearray(archive.read_bytes())
    content[60:2000] = bytes(1940)
    archive.write_bytes(content)
    assert code_of(f"{archive}!1.jpg") == "truncated"
    assert read_photo(f"{archive}!2.jpg") == b"good"
