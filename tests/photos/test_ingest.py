"""Ingest: photos are found, checked and split, in one table, or in shards if there are many."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from catdog.command_line.settings import build_config
from catdog.config import IngestConfig
from catdog.errors import UsageError
from catdog.photos import ingest as ingest_module
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.ingest import build_manifest, find_photos
from catdog.photos.manifest import (
    Manifest,
)
from catdog.photos.sharded.manifest import ShardedManifest
from catdog.storage.schemas import MANIFEST, REJECTED


def jpeg(seed: int, *, width: int = 12, height: int = 8) -> bytes:
    """Return a photo of noise, a different one for every seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "JPEG")
    return content.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


COUNTS = {"train": 1000, "validation": 500, "test": 500}


def build(source: Path, **options: Any) -> Manifest:
    return build_manifest(
        str(source), **{"seed": 1, "per_class": COUNTS, "limits": DecodeLimits(max_pixels=10_000), **options}
    )


def splits_of(manifest: Manifest, root: str) -> dict[str, str]:
    paths = [path.removeprefix(root) for path in manifest.table["path"].to_pylist()]
    return dict(zip(paths, manifest.table["split"].to_pylist(), strict=True))


def rejected_of(manifest: Manifest, root: Path) -> dict[str, str]:
    return {row["path"].removeprefix(f"{root}/"): row["reason"] for row in manifest.rejected.to_pylist()}


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 12 cats, 25 dogs, and files with every kind of problem."""
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
        "train": {"cat": 6, "dog": 12},
        "validation": {"cat": 3, "dog": 6},
        "test": {"cat": 3, "dog": 7},
        "unused": {"cat": 0, "dog": 0},
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
    manifest = build(tmp_path, per_class={**COUNTS, "test": 0})
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
        f"expected usable photos of every class in {tmp_path}, found none of dog (2 empty, 1 not-an-image; "
        "the first one is empty: the file has no bytes): "
        "add photos of it or remove its folder"
    )


def test_what_is_wrong_with_the_photos_is_told_before_a_cluster_starts(tmp_path: Path) -> None:
    def find(**values: Any) -> str:
        config = build_config(IngestConfig, {"run_dir": str(tmp_path / "run"), **values})
        with pytest.raises(UsageError) as caught:
            find_photos(config, run_dir=str(tmp_path / "run"))
        return str(caught.value)

    write(tmp_path / "one", {"cat/1.jpg": b"", "cat/2.jpg": b""})
    assert find(photos=str(tmp_path / "none")).endswith("found nothing there: check the path")
    assert "found only the class cat" in find(photos=str(tmp_path / "one"))
    assert find(validation_per_class=0).startswith("--validation-per-class 0: expected 1 or more, or -1 for all")
    assert "cannot be read" in find(photos=str(tmp_path / "one"), labels=str(tmp_path / "labels.csv"))
    assert find_photos(build_config(IngestConfig, {}), run_dir=str(tmp_path / "run")) is None


def many_tables(folder: Path) -> Path:
    """Write Parquet files with a column of labels; the name of each file contains its split."""
    for split, start in (("train", 0), ("validation", 30), ("test", 40)):
        seeds = range(start, start + (30 if split == "train" else 10))
        names = ["Cat" if seed % 2 else "dog" for seed in seeds]
        table = pa.table({"image": [{"bytes": jpeg(seed), "path": f"{seed}.jpg"} for seed in seeds], "species": names})
        folder.mkdir(exist_ok=True)
        pq.write_table(table, folder / f"pets-{split}-00000-of-00001.parquet", row_group_size=4)
    return folder


def many_tars(folder: Path) -> Path:
    """Write tars of class folders."""
    folder.mkdir()
    for number in range(3):
        with tarfile.open(folder / f"{number}.tar", "w") as archive:
            for seed in range(12 * number, 12 * number + 12):
                add(archive, f"{('cat', 'dog')[seed % 2]}/{seed}.jpg", jpeg(seed))
    return folder


def webdataset(folder: Path) -> Path:
    """Write WebDataset shards, in which every photo except one has a `.cls` file."""
    folder.mkdir()
    for number in range(2):
        with tarfile.open(folder / f"train-{number:06d}.tar", "w") as archive:
            for seed in range(20 * number, 20 * number + 20):
                add(archive, f"{seed:03d}.jpg", jpeg(seed))
                if seed != 7:
                    add(archive, f"{seed:03d}.cls", b"cat" if seed % 2 else b"dog")
    return folder


def many_paths(folder: Path) -> Path:
    """Write photos in class folders, and a list of them."""
    write(folder, {f"{('cat', 'dog')[seed % 2]}/{seed}.jpg": jpeg(seed) for seed in range(24)})
    path = folder / "list.txt"
    path.write_text("".join(f"{('cat', 'dog')[seed % 2]}/{seed}.jpg\n" for seed in range(24)))
    return path


def many_files(folder: Path) -> Path:
    """Write a folder of class folders."""
    return write(folder, {f"{('cat', 'dog')[seed % 2]}/{seed}.jpg": jpeg(seed) for seed in range(24)})


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def lines_without_speed(output: str) -> list[str]:
    return [line for line in output.splitlines() if not line.startswith("Checking photos: ")]


@pytest.mark.parametrize("make", [many_files, many_tables, many_tars, webdataset, many_paths])
def test_many_photos_are_ingested_in_shards_as_they_are_in_one_table(
    make: Callable[[Path], Path], ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    photos, run_dir = make(tmp_path / "pets"), str(tmp_path / "run")
    config = build_config(
        IngestConfig, {"photos": str(photos), "label_column": "species" if make == many_tables else ""}
    )
    whole = ingest_module.ingest(config, run_dir=str(tmp_path / "whole"))
    told = lines_without_speed(capsys.readouterr().out)
    monkeypatch.setattr(ingest_module, "MAX_IN_ONE_PROCESS", 10)
    assert find_photos(config, run_dir=run_dir) is None
    manifest = ingest_module.ingest(config, run_dir=run_dir)
    assert isinstance(manifest, ShardedManifest)
    assert lines_without_speed(capsys.readouterr().out) == told
    assert manifest.sample(100).sort_by("path").equals(whole.table)
    assert (manifest.classes, manifest.counts()) == (("cat", "dog"), whole.counts())
    left = {"_COMPLETE.json", "manifest.json", "shards", *(["rejected"] if make == webdataset else [])}
    assert {path.name for path in (tmp_path / "run" / "manifest").iterdir()} == left
    assert ingest_module.ingest(config, run_dir=run_dir) == manifest


@pytest.mark.parametrize(
    ("column", "error"),
    [
        ("none", "--label-column none: found no such column in "),
        ("same", "expected labels of two classes or more in .*, found cat"),
        ("", "lay them out as .*, or name the column of the table by --label-column"),
    ],
)
def test_labels_of_many_tables_that_do_not_tell_classes_are_one_line(
    column: str, error: str, ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "MAX_IN_ONE_PROCESS", 10)
    pq.write_table(
        pa.table({"bytes": [jpeg(seed) for seed in range(12)], "same": ["cat"] * 12}), tmp_path / "t.parquet"
    )
    config = build_config(IngestConfig, {"photos": str(tmp_path / "t.parquet"), "label_column": column})
    with pytest.raises(UsageError, match=error):
        ingest_module.ingest(config, run_dir=str(tmp_path / "run"))
