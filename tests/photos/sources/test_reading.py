from pathlib import Path

import pytest
from object_store import ObjectStore

from catdog.errors import FailureError, ImageError
from catdog.photos.sources import files, opening
from catdog.photos.sources.containers import packed
from catdog.photos.sources.inputs import list_inputs
from catdog.photos.sources.reading import read_each
from catdog.storage import outages


def test_photos_of_a_slow_store_are_on_their_way_at_the_same_time_and_come_in_order(object_store: ObjectStore) -> None:
    for index in range(40):
        object_store.put(f"slow/{index:03d}.jpg", f"photo {index}".encode())
    inputs = list_inputs(object_store.uri("slow"))
    object_store.most_at_once, object_store.answer_after_seconds = 0, 0.5
    try:
        found = list(read_each(inputs))
    finally:
        object_store.answer_after_seconds = 0.0
    assert [photo.content for photo in found] == [f"photo {index}".encode() for index in range(40)]
    assert object_store.most_at_once > 16  # sequential reads would give 1


def test_a_photo_that_is_gone_stands_in_its_place(object_store: ObjectStore) -> None:
    for index in range(3):
        object_store.put(f"gone/{index}.jpg", b"photo")
    inputs = list_inputs(object_store.uri("gone"))
    object_store.system.delete_file("photos-of-pets/gone/1.jpg")
    found = [photo.content for photo in read_each(inputs)]
    assert [content if isinstance(content, bytes) else content.code for content in found] == [
        b"photo",
        "missing",
        b"photo",
    ]


def test_a_store_that_is_gone_ends_the_listing_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(key: str) -> None:
        raise OSError("AWS Error NETWORK_CONNECTION during HeadObject operation:\ncurlCode: 7")  # after 6 s of retries

    monkeypatch.setattr(outages, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(opening, "look_at", refuse)
    with pytest.raises(FailureError, match=r"^cannot reach s3://b/p for 0 s: .*; run the same command to resume$"):
        list_inputs("s3://b/p")


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (
            "AWS Error NETWORK_CONNECTION: curlCode: 7",
            "cannot reach .*/0.tar for 0 s: .*; run the same command to resume$",
        ),
        ("[Errno 5] Input/output error", "cannot list the photos in .*/0.tar: .*Input/output error$"),
    ],
)
def test_a_shard_that_cannot_be_listed_ends_the_listing_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, line: str
) -> None:
    def refuse(path: str) -> None:
        raise OSError(fault)

    (tmp_path / "0.tar").write_bytes(b"")
    monkeypatch.setattr(outages, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(packed, "list_members", refuse)
    with pytest.raises(FailureError, match=f"^{line}"):
        list_inputs(str(tmp_path))


def test_local_photos_are_read_one_after_the_other_and_retries_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(3):
        (tmp_path / f"{index}.jpg").write_bytes(b"photo")
    faults, read = {"0.jpg": 1, "2.jpg": 99}, files._read

    def read_badly(path: str, *, max_bytes: int) -> bytes:
        name = Path(path).name
        faults[name] = faults.get(name, 0) - 1
        if faults[name] >= 0:
            raise OSError(5, "Input/output error")
        return read(path, max_bytes=max_bytes)

    monkeypatch.setattr(files, "_read", read_badly)
    monkeypatch.setattr(files, "RETRY_PAUSES_SECONDS", (0.0, 0.0, 0.0))
    found = list(read_each(list_inputs(str(tmp_path))))
    assert [photo.retried for photo in found] == [True, False, False]
    assert isinstance(found[2].content, ImageError)
