"""Archives found in practice: every compression, odd names, truncated ones, and files that are not archives."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from catdog.errors import FailureError, ImageError, UsageError
from catdog.photos.sources.containers import archives
from catdog.photos.sources.files import list_photos, read_photo
from catdog.photos.sources.inputs import list_inputs, read_inputs


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))


def tar_bytes(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return sink.getvalue()


def zip_bytes(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return sink.getvalue()


def contents(source: Path) -> dict[str, bytes]:
    return {photo.relative: read_photo(photo.path) for photo in list_photos(str(source))}


PETS = {"./pets/cat/1.jpg": b"cat", "pets/x/../dog/2.jpg": b"dog", "pets//./dog/3.jpg": b"dog 3"}
FOUND = {"pets/cat/1.jpg": b"cat", "pets/dog/2.jpg": b"dog", "pets/dog/3.jpg": b"dog 3"}
LEAVING = {"../evil.jpg": b"", "pets/../../evil.jpg": b"", "pets/.hidden/1.jpg": b"", "__MACOSX/pets/1.jpg": b""}


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("pets.zip", None), ("pets.tar", bytes), ("pets.tar.gz", gzip.compress), ("PETS.TGZ", gzip.compress),
        ("pets.tar.bz2", bz2.compress), ("pets.tar.xz", lzma.compress), ("pets.tar.zst", zstd),
    ],
)  # fmt: skip
def test_members_are_read_wherever_their_names_lead_inside(tmp_path: Path, name: str, pack: object) -> None:
    members = PETS | LEAVING
    content = pack(tar_bytes(members)) if callable(pack) else zip_bytes(members)
    (tmp_path / name).write_bytes(content)
    assert contents(tmp_path / name) == FOUND
    with pytest.raises(ImageError) as caught:
        read_photo(f"{tmp_path / name}!pets/none.jpg")
    assert caught.value.code == "missing"


def test_a_compressed_tar_is_decompressed_once(tmp_path: Path) -> None:
    (tmp_path / "pets.tar.gz").write_bytes(gzip.compress(tar_bytes(PETS)))
    contents(tmp_path / "pets.tar.gz")
    cached = list((tmp_path / "cache/archives").iterdir())
    assert [path.suffix for path in cached] == [".tar"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "pets.tar.gz"]


def test_links_and_devices_of_a_tar_are_no_photos(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (("link.jpg", tarfile.SYMTYPE), ("pipe.jpg", tarfile.FIFOTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
        entry = tarfile.TarInfo("1.jpg")
        entry.size = 2
        archive.addfile(entry, io.BytesIO(b"ok"))
    assert contents(tmp_path / "a.tar") == {"1.jpg": b"ok"}


def test_a_second_name_of_a_file_in_a_tar_is_a_photo_too(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, link in (("cat/1.jpg", ""), ("all/1.jpg", "cat/1.jpg"), ("all/2.jpg", "gone.jpg")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = (tarfile.LNKTYPE, link, 0) if link else (tarfile.REGTYPE, "", 2)
            archive.addfile(entry, io.BytesIO(b"ok"))
    assert contents(tmp_path / "a.tar") == {"cat/1.jpg": b"ok", "all/1.jpg": b"ok"}


def test_webdataset_shards_are_their_photos(tmp_path: Path) -> None:
    for shard in range(2):
        members = {}
        for number in range(2):
            members |= {f"{shard}{number}.jpg": b"%d%d" % (shard, number), f"{shard}{number}.cls": b"1"}
        (tmp_path / f"pets-{shard}.tar").write_bytes(tar_bytes(members | {f"{shard}0.json": b"{}"}))
    assert contents(tmp_path) == {"00.jpg": b"00", "01.jpg": b"01", "10.jpg": b"10", "11.jpg": b"11"}
    globbed = list_inputs(f"{tmp_path}/pets-*.tar")
    assert globbed["relative"].to_pylist() == [f"pets-{name[0]}.tar/{name}.jpg" for name in ("00", "01", "10", "11")]
    assert [content for _, content in read_inputs(globbed)] == [b"00", b"01", b"10", b"11"]


def unmarked_zip(names: list[bytes]) -> bytes:
    """Return a zip whose names have no flag that declares their encoding."""
    content = zip_bytes({f"{number:0{len(name)}}": name for number, name in enumerate(names)})
    for number, name in enumerate(names):
        content = content.replace(b"%0*d" % (len(name), number), name)
    return content


def test_names_without_a_mark_are_utf_8_where_they_can_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    utf_8, cp437 = "кошка.jpg".encode(), "Käse.jpg".encode("cp437")
    (tmp_path / "a.zip").write_bytes(unmarked_zip([utf_8]))
    assert list(contents(tmp_path / "a.zip")) == ["кошка.jpg"]
    assert "1 name in" in (said := capsys.readouterr().out)
    assert said.endswith("without a declared encoding: read as UTF-8.\n")
    (tmp_path / "b.zip").write_bytes(unmarked_zip([utf_8, cp437]))
    assert sorted(contents(tmp_path / "b.zip")) == ["Käse.jpg", "кошка.jpg"]
    assert capsys.readouterr().out.endswith("read as UTF-8 or CP437.\n")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.zip", b"", "an empty file: get it again"),
        ("a.tar.gz", b"", "an empty file: get it again"),
        (
            "a.zip",
            b"\n<!DOCTYPE html><title>Sign in</title>",
            "a web page, as a failed download leaves it: get it again",
        ),
        ("a.tar", b"<html>", "a web page"),
        ("a.zip", b"Rar!\x1a\x07\x00", "a RAR archive: unpack it and give the folder"),
        ("a.zip", b"7z\xbc\xaf\x27\x1c" + bytes(40), "a 7z archive: unpack it and give the folder"),
        ("a.zip", gzip.compress(b"x", mtime=0), "data compressed by gzip: name the file .tar.gz if it is a tar"),
        ("a.zip", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS: fetch the file itself"),
        ("a.zip", b"garbage" * 100, "one that cannot be read"),
        ("a.tar.zst", b"garbage" * 100, "one that cannot be read"),
        ("a.tar", zip_bytes({"1.jpg": b"1"}), "a zip: name the file .zip"),
        ("a.tar", gzip.compress(tar_bytes({"1.jpg": b"1"})), "data compressed by gzip: name the file .tar.gz"),
        ("a.tgz", tar_bytes({"1.jpg": b"1"}), "a tar without compression: name the file .tar"),
        ("a.zip", tar_bytes({"1.jpg": b"1"}), "a tar without compression: name the file .tar"),
    ],
)
def test_what_is_no_archive_has_its_own_reason(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        list_photos(str(tmp_path / name))
    assert str(caught.value).startswith(f"expected an archive at {tmp_path}/{name}, found {reason}")
    assert "\n" not in str(caught.value)


def test_an_archive_of_archives_and_one_of_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zip_bytes({"cats.zip": zip_bytes(PETS), "dogs.zip": zip_bytes(PETS)}))
    with pytest.raises(UsageError, match=r"found only archives in it, such as cats\.zip: unpack it first"):
        list_photos(str(tmp_path / "a.zip"))
    (tmp_path / "b.zip").write_bytes(zip_bytes({}))
    with pytest.raises(UsageError, match="found no files"):
        list_photos(str(tmp_path / "b.zip"))


def test_a_tar_that_decompresses_to_far_more_than_photos_do_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catdog.photos.sources.containers.archives._MAX_EXTRA_BYTES", 1000)
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(tar_bytes({"1.jpg": bytes(20_000_000)})))
    with pytest.raises(UsageError, match="it decompresses to far more than photos do"):
        list_photos(str(tmp_path / "bomb.tar.gz"))
    assert os.listdir(tmp_path / "cache/archives") == []  # noqa: PTH208


def test_a_cut_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({"1.jpg": b"first", "2.jpg": bytes(5000)})[:2500])
    with pytest.raises(UsageError, match=r"found one that cannot be read \(unexpected end of data\): get it again"):
        list_photos(str(tmp_path / "a.tar"))


@pytest.mark.parametrize(("name", "pack"), [("a.tar", tar_bytes), ("a.zip", zip_bytes)])
def test_threads_read_members_of_one_archive_at_once(tmp_path: Path, name: str, pack: Any) -> None:
    members = {f"{number}.jpg": bytes([number]) * 50_000 for number in range(40)}
    (tmp_path / name).write_bytes(pack(members))
    photos = list_photos(str(tmp_path / name)) * 5
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read_photo, [photo.path for photo in photos]))
    assert all(content == members[photo.relative] for photo, content in zip(photos, found, strict=True))


def test_a_tar_whose_version_cannot_be_told_is_no_tar_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({"1.jpg": b"cat"}))

    def refuse(key: str) -> None:
        raise OSError("the store does not answer")

    monkeypatch.setattr(archives, "look_at", refuse)
    with pytest.raises(FailureError, match="the store does not answer"):  # else all photos would count as changed
        list_photos(str(tmp_path / "a.tar"))


def test_whether_an_archive_has_more_members_is_known_from_its_last_record_or_its_headers(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(5)] + ["long/" * 40 + "name.jpg", "caf\u00e9.jpg"]
    (tmp_path / "pets.zip").write_bytes(zip_bytes(dict.fromkeys(names, b"x" * 700)))
    for style in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / f"pets-{style}.tar", "w", format=style) as archive:
            for name in names if style != tarfile.USTAR_FORMAT else [*names[:5], "6.jpg", "7.jpg"]:
                entry = tarfile.TarInfo(name)
                entry.size, entry.uid = 700, 2**40 if style == tarfile.GNU_FORMAT else 0  # GNU's binary numbers
                archive.addfile(entry, io.BytesIO(b"x" * 700))
    packed = gzip.compress((tmp_path / "pets-1.tar").read_bytes())
    (tmp_path / "pets.tar.gz").write_bytes(packed)
    for archive in ("pets.zip", "pets-0.tar", "pets-1.tar", "pets-2.tar", "pets.tar.gz"):
        path = str(tmp_path / archive)
        assert [archives.has_more_members(path, count) for count in (0, 6, 7, 8)] == [True, True, False, False], path
    (tmp_path / "half.tar.gz").write_bytes(packed[:50])
    (tmp_path / "words.tar").write_bytes(b"no archive" * 1000)
    (tmp_path / "words.zip").write_bytes(b"no archive" * 1000)
    for archive in ("half.tar.gz", "words.tar", "words.zip", "missing.zip"):
        assert not archives.has_more_members(str(tmp_path / archive), 1)


def test_a_zip_of_more_members_than_its_old_record_holds_is_counted_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for number in range(65_540):
            archive.writestr(f"{number}.jpg", b"")
        archive.comment = b"PK\6\7 is no record here"
    assert archives.has_more_members(str(tmp_path / "pets.zip"), 65_539)
    assert not archives.has_more_members(str(tmp_path / "pets.zip"), 65_540)
