from __future__ import annotations

import hashlib

import pytest

from catdog.errors import UsageError
from catdog.prediction.sorting.names import check_sorting, name_of


def test_a_photo_wants_its_own_name() -> None:
    paths = ["/p/a/1.jpg", "/p/b!/2.jpg", "/p/z.zip!x/3.jpg", "s3://bucket/p/4%20.jpg?region=x"]
    assert [name_of(path) for path in paths] == ["1.jpg", "2.jpg", "3.jpg", "4 .jpg"]


def test_where_others_have_it_digits_of_the_path_are_added() -> None:
    digest = hashlib.sha256(b"/p/b/X.tar.JPG").hexdigest()
    assert name_of("/p/b/X.tar.JPG", 1) == f"X.tar-{digest[:8]}.JPG"
    assert name_of("/p/b/X.tar.JPG", 2) == f"X.tar-{digest[:16]}.JPG"


@pytest.mark.parametrize("path", ["/p/x.zip!..", "/p/x.zip!a/..", "/p/x.zip!a\\..\\..", "/p/x.zip!", "s3://b/%2e%2e"])
def test_no_name_leads_out_of_its_folder(path: str) -> None:
    assert name_of(path) == "photo"


def test_a_long_name_is_cut_before_its_suffix() -> None:
    path = f"/p/b/{'é' * 125}.jpg"
    assert name_of(path) == f"{'é' * 125}.jpg"
    name = name_of(path, 1)
    assert name.endswith(f"-{hashlib.sha256(path.encode()).hexdigest()[:8]}.jpg")
    assert len(name.encode()) <= 255


# Refusals


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", "a\0b", "Unsure", "unreadable"])
def test_a_class_that_is_no_folder_s_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="--sort-into: the model has a class"):
        check_sorting("/d", mode="copy", classes=["cat", name], sample_paths=[])


@pytest.mark.parametrize("path", ["s3://bucket/1.jpg", "/p/x.zip!1.jpg"])
def test_what_is_no_local_file_can_be_copied_alone(path: str) -> None:
    check_sorting("/d", mode="copy", classes=["cat"], sample_paths=[path])
    for mode in ("link", "move"):
        with pytest.raises(UsageError, match=f"--sort {mode}: expected local files .*give --sort copy"):
            check_sorting("/d", mode=mode, classes=["cat"], sample_paths=[path])


# Placing


@pytest.mark.parametrize(
    "path", ["/p/x.zip!a/1.jpg", "/p/x.tar!1.jpg", "/p/x.TGZ!a\\1.jpg", "s3://b/x.zip!1.jpg?region=x"]
)
def test_a_member_of_an_archive_has_its_own_name(path: str) -> None:
    assert name_of(path) == "1.jpg"
