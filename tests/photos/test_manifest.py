from __future__ import annotations

import collections
import hashlib
import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from catdog.errors import FailureError, UsageError
from catdog.photos import manifest as manifest_module
from catdog.photos.manifest import (
    Manifest,
    _rows_per_block,
    assign_classes,
    build_manifest,
    inspect_photos,
    read_manifest,
    reject_copies,
    split_photos,
    write_manifest,
)
from catdog.storage.schemas import MANIFEST, REJECTED


def jpeg(seed: int, *, width: int = 12, height: int = 8) -> bytes:
    """A photo of noise, its own for every seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "JPEG")
    return content.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def build(source: Path, **options: Any) -> Manifest:
    wanted = {"train_per_class": 1000, "validation_per_class": 500, "test_per_class": 500, "seed": 1}
    return build_manifest(str(source), **{**wanted, "max_pixels": 10_000, **options})


def splits_of(manifest: Manifest, root: str) -> dict[str, str]:
    paths = [path.removeprefix(root) for path in manifest.table["path"].to_pylist()]
    return dict(zip(paths, manifest.table["split"].to_pylist(), strict=True))


def rejected_of(manifest: Manifest, root: Path) -> dict[str, str]:
    return {row["path"].removeprefix(f"{root}/"): row["reason"] for row in manifest.rejected.to_pylist()}


# Layouts

CAT, DOG = (None, "cat"), (None, "dog")
TRAIN_CAT, TRAIN_DOG = ("train", "cat"), ("train", "dog")
VALIDATION_CAT, TEST_DOG = ("validation", "cat"), ("test", "dog")


@pytest.mark.parametrize(
    "expected",
    [
        pytest.param({"Cat/1.jpg": CAT, "dog/1.jpg": DOG, "CAT/2.jpg": CAT}, id="class folders"),
        pytest.param(
            {
                "PetImages/Cat/1.jpg": CAT,
                "PetImages/Cat/Thumbs.db": CAT,
                "PetImages/Dog/old/2019/1.jpg": DOG,
                "PetImages/stray.jpg": None,
                "docs/licence.docx": None,
                "readme[1].txt": None,
            },
            id="wrapped class folders, as in Microsoft's archive",
        ),
        pytest.param(
            {
                "data/small/Train/cat/1.jpg": TRAIN_CAT,
                "data/small/Train/dog/1.jpg": TRAIN_DOG,
                "data/small/val/cat/deep/1.jpg": VALIDATION_CAT,
                "data/small/validation/cat/2.jpg": VALIDATION_CAT,
                "data/small/TEST/dog/1.jpg": TEST_DOG,
                "data/small/TEST/1.jpg": None,
                "data/small/extra/cat/1.jpg": None,
            },
            id="split folders",
        ),
        pytest.param({"train/cat.0.jpg": CAT, "train/dog.0.jpg": DOG, "test1/1.jpg": None}, id="Kaggle's competition"),
        pytest.param({"train/train/cat.0.jpg": CAT, "train/train/Dog.0.jpg": DOG, "test/test/1.jpg": None}, id="twice"),
        pytest.param({"cat.0.jpg": CAT, "dog.12.jpg": DOG, "sub/dog.13.jpg": DOG, "cat.jpg": None}, id="names"),
        pytest.param(
            {"train/cat.0.jpg": TRAIN_CAT, "train/dog.0.jpg": TRAIN_DOG, "val/cat.1.jpg": VALIDATION_CAT},
            id="names in split folders",
        ),
        pytest.param(
            {"train/cat/cat.0.jpg": TRAIN_CAT, "train/dog/dog.0.jpg": TRAIN_DOG, "test/dog/dog.1.jpg": TEST_DOG},
            id="names and folders, as the article has it",
        ),
        pytest.param({"train/cat/1.jpg": CAT, "train/dog/1.jpg": DOG}, id="one split folder alone says nothing"),
        pytest.param({"validation/cat/1.jpg": CAT, "validation/dog/1.jpg": DOG}, id="nor does validation"),
        pytest.param({"train/1.jpg": (None, "train"), "bus/1.jpg": (None, "bus")}, id="a class called train"),
        pytest.param({"Cat/img.1.jpg": CAT, "Dog/pic.1.jpg": DOG}, id="folders go before names"),
        pytest.param({"e\u0301/1.jpg": (None, "é"), "É/1.jpg": (None, "é"), "猫/1.jpg": (None, "猫")}, id="any script"),
        pytest.param({"cat/1": CAT, "dog/1": DOG}, id="without suffixes every file decides"),
    ],
)
def test_layouts(expected: dict[str, tuple[str | None, str] | None]) -> None:
    _, assigned = assign_classes(list(expected), source="photos")
    assert dict(zip(expected, assigned, strict=True)) == expected


@pytest.mark.parametrize(
    ("relatives", "found"),
    [
        (["1.jpg", "2.jpg"], "found none in 2 files, such as 1.jpg"),
        (["cat/1.jpg", "readme"], "found only the class cat in 2 files, such as cat/1.jpg"),
        (["train/cat/1.jpg", "test/cat/1.jpg"], "found only the class cat in 2 files, such as test/cat/1.jpg"),
    ],
)
def test_fewer_than_two_classes_are_the_users_mistake(relatives: list[str], found: str) -> None:
    with pytest.raises(UsageError) as raised:
        assign_classes(relatives, source="photos")
    assert str(raised.value) == (
        f"expected photos of two classes or more in photos, {found}; lay them out as CLASS/photo.jpg, or "
        "train/CLASS/photo.jpg (beside it validation/, val/ or test/), or CLASS.1.jpg; "
        "folders around these and a zip of them will do"
    )


# Splits


def split(
    sizes: dict[str, int], asked: tuple[int, int, int], *, hints: list[str | None] | None = None, seed: int = 1
) -> tuple[np.ndarray, dict[tuple[str, str], int]]:
    """Split classes of `sizes` photos; return each photo's split, and photos by (class, split)."""
    labels = np.repeat(np.arange(len(sizes)), list(sizes.values()))
    splits = split_photos(
        labels,
        digests=[hashlib.sha256(str(row).encode()).hexdigest() for row in range(len(labels))],
        hints=hints or [None] * len(labels),
        classes=list(sizes),
        per_class=dict(zip(("train", "validation", "test"), asked, strict=True)),
        seed=seed,
    )
    names = np.array(list(sizes))[labels].tolist()
    return splits, dict(collections.Counter(zip(names, splits.tolist(), strict=True)))


@pytest.mark.parametrize(
    ("sizes", "asked", "train", "validation", "test", "unused"),
    [
        ({"cat": 12_500, "dog": 12_500}, (1000, 500, 0), 1000, 500, 0, {"cat": 11_000, "dog": 11_000}),
        ({"cat": 12_500, "dog": 12_500}, (1000, 500, 500), 1000, 500, 500, {"cat": 10_500, "dog": 10_500}),
        ({"cat": 120, "dog": 250}, (1000, 500, 500), 60, 30, 30, {"cat": 0, "dog": 130}),
        ({"cat": 121, "dog": 250}, (1000, 500, 500), 60, 30, 30, {"cat": 1, "dog": 130}),
        ({"cat": 3, "dog": 4, "eel": 5}, (1000, 10, 10), 1, 1, 1, {"cat": 0, "dog": 1, "eel": 2}),
        ({"cat": 20, "dog": 20}, (1000, 10, 10), 18, 1, 1, {"cat": 0, "dog": 0}),
    ],
)
def test_every_class_gives_the_same_number(
    sizes: dict[str, int], asked: tuple[int, int, int], train: int, validation: int, test: int, unused: dict[str, int]
) -> None:
    counts = split(sizes, asked)[1]
    wanted = {}
    for name in sizes:
        wanted |= {(name, "train"): train, (name, "validation"): validation, (name, "test"): test}
        wanted[name, "unused"] = unused[name]
    assert counts == {key: count for key, count in wanted.items() if count}


def test_hinted_photos_stay_in_their_split_and_a_split_without_folder_is_drawn_from_train() -> None:
    hints = (["train"] * 8 + ["validation"] * 4) * 2
    splits, counts = split({"cat": 12, "dog": 12}, (100, 3, 100), hints=hints)
    assert counts == {
        (name, part): count
        for name in ("cat", "dog")
        for part, count in {"train": 4, "test": 4, "validation": 3, "unused": 1}.items()
    }
    assert {hint for hint, part in zip(hints, splits, strict=True) if part in ("train", "test")} == {"train"}
    assert {hint for hint, part in zip(hints, splits, strict=True) if part == "validation"} == {"validation"}


def test_a_split_depends_on_seed_and_content_alone() -> None:
    sizes, asked = {"cat": 100, "dog": 100}, (40, 20, 20)
    first, again, other = (split(sizes, asked, seed=seed)[0] for seed in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert (first != other).mean() > 0.3


def test_a_few_more_photos_move_few() -> None:
    before = split({"cat": 1000, "dog": 1000}, (600, 200, 200))[0][:1000]
    after = split({"cat": 1010, "dog": 1010}, (600, 200, 200))[0][:1000]
    assert (before != after).mean() < 0.03


@pytest.mark.parametrize(
    ("sizes", "hints", "message"),
    [
        ({"cat": 2, "dog": 9}, None, "3 usable photos or more of every class for train and validation and test, "),
        ({"cat": 2, "dog": 2}, ["test"] * 4, "2 usable photos or more of every class for train and validation, "),
    ],
)
def test_too_few_photos_are_the_users_mistake(
    sizes: dict[str, int], hints: list[str | None] | None, message: str
) -> None:
    found = "found 2 of cat, 9 of dog" if hints is None else "found 0 of cat, 0 of dog"
    with pytest.raises(UsageError) as raised:
        split(sizes, (1000, 500, 500), hints=hints)
    assert str(raised.value) == f"expected {message}{found}: add photos, or ask for fewer splits"


# Copies


def test_the_first_copy_stays_and_contradictions_all_go() -> None:
    reasons = reject_copies(
        ["cat/1", "cat/2", "cat/3", "cat/4", "dog/1", "dog/2", "dog/3"],
        labels=np.array([0, 0, 0, 0, 1, 1, 1]),
        digests=pa.chunked_array([["a", "b", None, "a"], ["b", "c", None]]),
        classes=("cat", "dog"),
    )
    assert reasons == {
        1: "conflict: same bytes as dog/1 of class dog",
        3: "duplicate: same bytes as cat/1",
        4: "conflict: same bytes as cat/2 of class cat",
    }


# The whole


@pytest.mark.parametrize(
    ("photos", "cpus", "rows"), [(370, 2, 185), (25_000, 2, 256), (20, 16, 16), (3000, 32, 94), (10**7, 8, 2442)]
)
def test_blocks_keep_every_cpu_busy_and_the_driver_idle(photos: int, cpus: int, rows: int) -> None:
    assert _rows_per_block(photos, cpus=cpus) == rows


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 cats and 25 dogs with every kind of trouble."""
    files = {f"PetImages/Cat/{index}.jpg": jpeg(index) for index in range(12)}
    files |= {f"PetImages/Dog/{index} #%é.jpg": jpeg(100 + index) for index in range(25)}
    return write(
        tmp_path_factory.mktemp("pets"),
        {
            **files,
            "PetImages/Cat/666.jpg": b"",
            "PetImages/Cat/again.jpg": files["PetImages/Cat/3.jpg"],
            "PetImages/Cat/both.jpg": jpeg(999),
            "PetImages/Cat/half.jpg": jpeg(998)[:-60],
            "PetImages/Cat/huge.jpg": jpeg(997, width=101, height=100),
            "PetImages/Dog/both.jpg": jpeg(999),
            "PetImages/Dog/Thumbs.db": b"not a photo",
            "readme.txt": b"hello",
        },
    )


def test_every_file_ends_in_one_table_with_its_reason(ray_session: None, pets: Path) -> None:
    progress: list[tuple[int, int]] = []
    manifest = build(pets, progress=lambda done, total: progress.append((done, total)))
    assert manifest.table.schema == MANIFEST
    assert manifest.rejected.schema == REJECTED
    assert manifest.classes == ("cat", "dog")
    assert manifest.counts() == {
        "train": {"cat": 6, "dog": 6},
        "validation": {"cat": 3, "dog": 3},
        "test": {"cat": 3, "dog": 3},
        "unused": {"cat": 0, "dog": 13},
    }
    reasons = rejected_of(manifest, pets)
    assert reasons.pop("PetImages/Cat/half.jpg").startswith("truncated: ")
    assert reasons.pop("PetImages/Dog/Thumbs.db").startswith("not-an-image: ")
    assert reasons == {
        "PetImages/Cat/666.jpg": "empty: the file has no bytes",
        "PetImages/Cat/again.jpg": f"duplicate: same bytes as {pets}/PetImages/Cat/3.jpg",
        "PetImages/Cat/both.jpg": f"conflict: same bytes as {pets}/PetImages/Dog/both.jpg of class dog",
        "PetImages/Cat/huge.jpg": "too-large: 101 x 100 pixels, at most 10,000 are allowed",
        "PetImages/Dog/both.jpg": f"conflict: same bytes as {pets}/PetImages/Cat/both.jpg of class cat",
        "readme.txt": "no-class: the file is in no class folder",
    }
    paths = manifest.table["path"].to_pylist()
    assert paths == sorted(paths)
    assert len(paths) + manifest.rejected.num_rows == sum(path.is_file() for path in pets.rglob("*"))
    assert progress[-1] == (44, 44)
    row = manifest.table.to_pylist()[0]
    content = Path(row["path"]).read_bytes()
    assert (row["width"], row["height"], row["label"], row["class"]) == (12, 8, 0, "cat")
    assert row["digest"] == hashlib.sha256(content).hexdigest()


def test_an_archive_gives_the_split_of_its_folder(ray_session: None, pets: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "pets"), "zip", pets)
    from_folder, from_archive = build(pets), build(Path(archive))
    assert splits_of(from_archive, f"{archive}!") == splits_of(from_folder, f"{pets}/")
    assert from_archive.rejected.num_rows == from_folder.rejected.num_rows
    assert list(tmp_path.iterdir()) == [Path(archive)]


def test_a_copy_is_in_one_split_only(ray_session: None, tmp_path: Path) -> None:
    folders = ("train/cat", "train/dog", "val/cat", "val/dog")
    files = {f"{folders[seed // 3]}/{seed % 3}.jpg": jpeg(seed) for seed in range(12)}
    write(tmp_path, {**files, "val/cat/copy.jpg": files["train/cat/0.jpg"]})
    manifest = build(tmp_path, test_per_class=0)
    assert manifest.counts() == {
        "train": {"cat": 3, "dog": 3},
        "validation": {"cat": 3, "dog": 3},
        "test": {"cat": 0, "dog": 0},
        "unused": {"cat": 0, "dog": 0},
    }
    assert rejected_of(manifest, tmp_path) == {
        "val/cat/copy.jpg": f"duplicate: same bytes as {tmp_path}/train/cat/0.jpg"
    }


def test_a_class_without_usable_photos_is_the_users_mistake(ray_session: None, tmp_path: Path) -> None:
    write(tmp_path, {"cat/1.jpg": jpeg(1), "cat/2.jpg": jpeg(2), "dog/1.jpg": b"", "dog/2.jpg": b"", "dog/3.jpg": b"x"})
    with pytest.raises(UsageError) as raised:
        build(tmp_path)
    assert str(raised.value) == (
        f"expected usable photos of every class in {tmp_path}, found none of dog (2 empty, 1 not-an-image): "
        "add photos of it or take its folder away"
    )


def test_photos_that_kill_their_process_end_the_job(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(block: pa.Table, *, max_pixels: int) -> pa.Table:
        os._exit(1)

    monkeypatch.setattr(manifest_module, "_inspect_block", die)
    monkeypatch.setattr(manifest_module, "MAX_RETRIES", 0)
    with pytest.raises(FailureError, match=r"^a process checking photos died 1 times on the same few \(0 of 1 done\)"):
        inspect_photos(["/1.jpg"], max_pixels=1)


# Files


def made(*, train: int = 2) -> Manifest:
    splits = ["train"] * train * 2 + ["validation"] * 2 + ["test"] * 2 + ["unused"]
    rows = [
        {"path": f"/p/{row}", "label": row % 2, "class": ("cat", "dog")[row % 2], "split": part, "digest": "d"}
        | {"width": 1, "height": 1}
        for row, part in enumerate(splits)
    ]
    reasons = ["empty: no bytes", "duplicate: same bytes as /p/1", "duplicate: same bytes as /p/2"]
    rejected = [{"path": f"/q/{row}", "reason": reason} for row, reason in enumerate(reasons)]
    return Manifest(
        table=pa.Table.from_pylist(rows, MANIFEST),
        rejected=pa.Table.from_pylist(rejected, REJECTED),
        classes=("cat", "dog"),
    )


def test_the_summary_begins_as_the_articles_console_does() -> None:
    assert made(train=1000).summary_lines() == [
        "Found 2000 images belonging to 2 classes.",
        "Classes: cat, dog.",
        "Splits: train 2000 (1000 a class), validation 2 (1 a class), test 2 (1 a class).",
        "Of 2008 files 1 are left over and 3 rejected.",
        "  2 duplicate, such as /q/1: same bytes as /p/1",
        "  1 empty, such as /q/0: no bytes",
    ]


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_manifest_survives_writing(tmp_path: Path, prefix: str) -> None:
    manifest = made()
    write_manifest(manifest, directory=f"{prefix}{tmp_path}/manifest")
    assert sorted(path.name for path in (tmp_path / "manifest").iterdir()) == ["manifest.parquet", "rejected.parquet"]
    found = read_manifest(f"{prefix}{tmp_path}/manifest")
    assert found.table.equals(manifest.table, check_metadata=True)
    assert found.rejected.equals(manifest.rejected)
    assert found.classes == ("cat", "dog")
    assert found.select("train")["path"].to_pylist() == ["/p/0", "/p/1", "/p/2", "/p/3"]


def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FailureError, match=r"cannot read .*manifest\.parquet"):
        read_manifest(str(tmp_path))
    write_manifest(made(), directory=str(tmp_path))
    pq.write_table(pa.table({"path": ["x"]}), tmp_path / "rejected.parquet")
    with pytest.raises(FailureError, match="expected the columns path string, reason string, found path string"):
        read_manifest(str(tmp_path))
    write_manifest(made(), directory=str(tmp_path))
    pq.write_table(made().table, tmp_path / "manifest.parquet")
    with pytest.raises(FailureError, match="names no classes"):
        read_manifest(str(tmp_path))
