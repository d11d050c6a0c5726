"""A manifest in shards has the same content as one that a single process makes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from catdog.errors import UsageError
from catdog.photos.annotations.corrections import Corrections
from catdog.photos.annotations.labelling import Annotations
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.ingest import build_manifest
from catdog.photos.inspection import Inspector
from catdog.photos.manifest import read_manifest
from catdog.photos.sharded import driver
from catdog.photos.sharded.manifest import ShardedManifest, write_sharded
from catdog.photos.sources.inputs import list_inputs
from catdog.photos.sources.listing.shards import cut_into_shards
from catdog.storage.schemas import MANIFEST

ALL = {"train": -1, "validation": -1, "test": -1}
LIMITS = DecodeLimits(max_pixels=10_000)


def jpeg(seed: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(content, "JPEG")
    return content.getvalue()


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in split folders: some are copies, also across classes, some are broken, some are in no class folder."""
    root = tmp_path_factory.mktemp("pets")
    random = np.random.default_rng(0)
    for number in range(150):
        name = "cat" if number % 3 else "dog"
        folder = root / ("test" if number % 5 == 0 else "train") / name
        folder.mkdir(parents=True, exist_ok=True)
        seed = int(random.integers(0, 110))
        content = jpeg(seed if random.random() < 0.4 else 1000 + 2 * seed + number % 3 % 2)
        (folder / f"{number}.jpg").write_bytes(content if number % 17 else content[:40])
    (root / "train" / "loose.jpg").write_bytes(jpeg(5000))
    (root / "train" / "another.jpg").write_bytes(jpeg(5001))
    (root / "train" / "cat" / "readme.txt").write_text("no photo")
    return root


def in_shards(
    source: Path, directory: Path, monkeypatch: pytest.MonkeyPatch, *, annotations: Annotations, inspector: Inspector
) -> ShardedManifest:
    inputs, size = list_inputs(str(source)), 60
    shards = [
        shard for start in range(0, inputs.num_rows, size) for shard in cut_into_shards(inputs.slice(start, size))
    ]
    monkeypatch.setattr(driver, "photos_per_task", lambda photos: 25)
    return driver.ingest_shards(
        shards, source=str(source), directory=str(directory), inspector=inspector, per_class=ALL, seed=1,
        annotations=annotations, progress=None, ranges=3,
    )  # fmt: skip


def rows_of(manifest: ShardedManifest) -> pa.Table:
    return manifest.sample(1 << 40).sort_by("path")


def test_shards_have_the_rows_of_one_table(
    ray_session: None, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {
        str(pets / "train/cat/1.jpg"): "dog", str(pets / "train/dog/3.jpg"): None, str(pets / "train/loose.jpg"): "cat",
        "/elsewhere.jpg": "cat",
    }  # fmt: skip
    annotations = Annotations(corrections=Corrections(classes=named, fingerprint="", where="fixes.csv"))
    inspector = Inspector(limits=LIMITS, keep=str(tmp_path / "inspected"))
    whole = build_manifest(str(pets), per_class=ALL, seed=1, limits=LIMITS, annotations=annotations)
    told = capsys.readouterr().out
    found = in_shards(pets, tmp_path, monkeypatch, annotations=annotations, inspector=inspector)
    assert capsys.readouterr().out == told
    assert rows_of(found).cast(MANIFEST).equals(whole.table)
    assert (found.counts(), found.summary_lines()) == (whole.counts(), whole.summary_lines())
    assert {one.code for one in found.reasons} >= {"conflict", "duplicate", "no-class", "left-out", "truncated"}
    assert sum(bool(shard.rows) for shard in found.shards) == 3
    for split in ("train", "validation", "test"):
        photos, expected = found.photos(split), whole.photos(split)
        assert photos.read(0, photos.count).to_pylist() == expected.read(0, expected.count).to_pylist()
    write_sharded(found)
    assert read_manifest(str(tmp_path)) == found


def test_a_killed_ingest_in_shards_resumes_with_what_was_inspected(
    ray_session: None, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspector = Inspector(limits=LIMITS, keep=str(tmp_path / "inspected"))
    first = in_shards(pets, tmp_path, monkeypatch, annotations=Annotations(), inspector=inspector)
    rows = rows_of(first)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "inspected").iterdir()}
    assert len(kept) == 8
    again = in_shards(pets, tmp_path, monkeypatch, annotations=Annotations(), inspector=inspector)
    assert rows_of(again).equals(rows)
    assert kept == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "inspected").iterdir()}


def test_a_class_without_usable_photos_is_named_as_it_is_in_one_process(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, contents in {"cat": [jpeg(seed) for seed in range(9)], "dog": [b"", jpeg(0), b"text", b""]}.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number, content in enumerate(contents):
            (tmp_path / "photos" / name / f"{number}.jpg").write_bytes(content)
    with pytest.raises(UsageError) as whole:
        build_manifest(str(tmp_path / "photos"), limits=LIMITS)
    inspector = Inspector(limits=LIMITS, keep=str(tmp_path / "inspected"))
    with pytest.raises(UsageError) as sharded:
        in_shards(
            tmp_path / "photos", tmp_path / "out", monkeypatch, annotations=Annotations(), inspector=inspector
        )  # fmt: skip
    assert str(sharded.value) == str(whole.value)
