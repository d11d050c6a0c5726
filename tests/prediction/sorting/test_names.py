from __future__ import annotations

import hashlib

import pytest

from catdog.errors import UsageError
from catdog.prediction.sorting import check_sorting, plan_sorting


def test_each_photo_goes_into_the_folder_of_its_label_under_its_own_name() -> None:
    paths = ["/p/a/1.jpg", "/p/b/2.jpg", "/p/z.zip!x/3.jpg", "s3://bucket/p/4%20.jpg?region=x"]
    assert plan_sorting(paths, ["cat", "dog", "cat", "unsure"]) == [
        "cat/1.jpg",
        "dog/2.jpg",
        "cat/3.jpg",
        "unsure/4 .jpg",
    ]


def test_names_that_collide_are_kept_apart_also_where_case_or_accents_do_not_count() -> None:
    paths = ["/p/a/x.jpg", "/p/b/X.JPG", "/p/c/x.jpg", "/p/d/\u00e9.jpg", "/p/e/e\u0301.jpg", "/p/f/x.jpg"]
    digests = [hashlib.sha256(path.encode()).hexdigest()[:8] for path in paths]
    assert plan_sorting(paths, ["cat"] * 5 + ["dog"]) == [
        "cat/x.jpg",
        f"cat/X-{digests[1]}.JPG",
        f"cat/x-{digests[2]}.jpg",
        "cat/\u00e9.jpg",
        f"cat/e\u0301-{digests[4]}.jpg",
        "dog/x.jpg",
    ]


def test_a_name_that_looks_like_a_kept_apart_one_is_kept_apart_too() -> None:
    digest = hashlib.sha256(b"/p/b/x.jpg").hexdigest()
    paths = [f"/p/a/x-{digest[:8]}.jpg", "/p/a/x.jpg", "/p/b/x.jpg"]
    assert plan_sorting(paths, ["cat"] * 3)[2] == f"cat/x-{digest[:16]}.jpg"


@pytest.mark.parametrize("path", ["/p/x.zip!..", "/p/x.zip!a/..", "/p/x.zip!a\\..\\..", "/p/x.zip!", "s3://b/%2e%2e"])
def test_no_name_leads_out_of_its_folder(path: str) -> None:
    assert plan_sorting([path], ["cat"]) == ["cat/photo"]


def test_a_long_name_is_cut_before_its_suffix() -> None:
    paths = [f"/p/a/{'é' * 125}.jpg", f"/p/b/{'é' * 125}.jpg"]
    first, second = plan_sorting(paths, ["cat"] * 2)
    assert first == f"cat/{'é' * 125}.jpg"
    assert second.endswith(f"-{hashlib.sha256(paths[1].encode()).hexdigest()[:8]}.jpg")
    assert len(second.removeprefix("cat/").encode()) <= 255


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
    assert plan_sorting([path], ["cat"]) == ["cat/1.jpg"]
