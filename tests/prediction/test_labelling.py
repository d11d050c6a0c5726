"""The labelling pass on a real Ray. Its engine tells red from blue, so that no test waits for TensorFlow."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from made_photos import draw_photo
from PIL import Image

from catdog.cluster import actors
from catdog.cluster.plan import Plan
from catdog.errors import FailureError
from catdog.photos.decoding.decode import decode_image
from catdog.photos.decoding.formats import readable_formats
from catdog.photos.decoding.framing import Framing
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.sources import files as photos
from catdog.photos.sources.inputs import list_inputs
from catdog.photos.sources.listing.shards import cut_into_shards
from catdog.prediction.labelling.decoding import Decode, Decoder, Decoding, ImageBlock
from catdog.prediction.labelling.driver import label_shards
from catdog.prediction.labelling.stretches import Stretch, photos_per_stretch
from catdog.prediction.labelling.worker import with_augmentation
from catdog.prediction.results.parts import finished_parts, photos_per_part
from catdog.prediction.results.rows import LabelRule

# Workers cannot import this file, so what it defines is pickled with the call.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.usefixtures("ray_session")

RULE = LabelRule(classes=("blue", "red"), threshold=0.0, top_k=1, models=1)
PLAN = Plan(actors=1, actor_cpus=1.0, actor_gpus=0.0, threads=1, decoders=1, batch_size=32, task_cpus=0.5)
PART = 8


@dataclasses.dataclass(frozen=True)
class RedOrBlue:
    """Stand-in for engines.EngineSpec. A call kills its process: the first with `dies_once`, all with `dies_always`."""

    dies_once: str = ""
    dies_always: bool = False

    def load(self, *, batch_size: int, threads: int) -> RedOrBlue:
        return self

    def __call__(self, images: np.ndarray) -> np.ndarray:
        if self.dies_always or (self.dies_once and not Path(self.dies_once).exists()):
            if self.dies_once:
                Path(self.dies_once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        means = images.reshape(len(images), -1, 3).mean(axis=1, dtype=np.float64) / 255
        red = (means[:, 0] / (means[:, 0] + means[:, 2])).astype(np.float32)
        return np.stack([1 - red, red], axis=1)


SMALL = Decoding(image_size=32, limits=DecodeLimits(max_pixels=10_000))


def decode_or_die(content: bytes, *, size: int, framing: Framing, limits: DecodeLimits) -> np.ndarray:
    """Decode `content`, or kill this process, as a crash in a native decoder would."""
    if content == b"poison":
        os.kill(os.getpid(), signal.SIGKILL)
    return decode_image(content, size=size, framing=framing, limits=limits)


def draw_folder(folder: Path, *, count: int) -> Path:
    for index in range(count):
        colour = (200, 60, 60) if index % 2 else (60, 60, 200)
        draw_photo(folder / f"{index:03d}.jpg", seed=index, colour=colour)
    return folder


def label(folder: Path, out: Path, *, engine: RedOrBlue | None = None, decode: Decode = decode_image) -> list[int]:
    """Label `folder`; return the counts that were reported as progress."""
    seen: list[int] = []
    label_shards(
        cut_into_shards(list_inputs(str(folder))),
        out=str(out),
        rule=RULE,
        engines=[engine or RedOrBlue()],
        decoding=Decoding(image_size=32, limits=DecodeLimits(max_pixels=1_000_000), decode=decode),
        plan=PLAN,
        photos_per_part=PART,
        progress=lambda done, total: seen.append(done),
    )
    assert seen == sorted(seen)
    return seen


def rows_below(out: Path) -> list[dict[str, object]]:
    return [row for path in sorted((out / "parts").glob("*/*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_every_photo_gets_the_label_of_its_own_pixels_and_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    folder, out = draw_folder(tmp_path / "photos", count=20), tmp_path / "out"
    assert label(folder, out)[-1] == 20
    rows = rows_below(out)
    assert [row["path"] for row in rows] == [str(folder / f"{index:03d}.jpg") for index in range(20)]
    assert [row["label"] for row in rows] == ["blue", "red"] * 10
    (shard,) = (out / "parts").iterdir()
    names = sorted(path.name for path in shard.iterdir())
    assert [name[:12] for name in names] == ["part-0000000", "part-0000001", "part-0000002"]
    assert finished_parts(str(out), shard.name) == {f"{shard.name}/{name}" for name in names}

    before = {path.name: path.stat().st_mtime_ns for path in shard.iterdir()}
    (shard / names[1]).unlink()
    (shard / "part-0000002-00000000.parquet.deadbeef.part").write_bytes(b"half a part of a killed process")
    seen = label(folder, out)
    assert (seen[0], seen[-1]) == (12, 20)
    after = {path.name: path.stat().st_mtime_ns for path in shard.glob("*.parquet")}
    assert {name for name in after if after[name] != before[name]} == {names[1]}


def test_a_mirrored_photo_counts_as_much_as_the_photo_itself() -> None:
    def share_on_the_left(images: np.ndarray) -> np.ndarray:
        left = images[:, :, :1].mean(axis=(1, 2, 3)).astype(np.float32) / 255
        return np.stack([left, 1 - left], axis=1)

    images = np.zeros((2, 4, 4, 3), np.uint8)
    images[0, :, 0] = 255  # white on the left, black elsewhere
    assert share_on_the_left(images).tolist() == [[1, 0], [0, 1]]
    assert with_augmentation(share_on_the_left, "flip")(images).tolist() == [[0.5, 0.5], [0, 1]]
    assert with_augmentation(share_on_the_left, "none") is share_on_the_left
    assert with_augmentation(share_on_the_left, "flip")(images[:1]).shape == (1, 2)


def hostile_files(folder: Path) -> dict[str, str | None]:
    """Write difficult files of the kinds that users have; return the error code of each by name, None for a photo."""
    good = draw_folder(folder, count=1) / "000.jpg"
    content = good.read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 4), np.uint8)
    Image.fromarray(noise[..., :3]).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(noise[..., :3]).convert("P").save(folder / "palette.gif")
    Image.fromarray(noise).save(folder / "transparent.png")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(folder / "sixteen.png")
    frames = [Image.fromarray(noise[..., :3]), Image.fromarray(255 - noise[..., :3])]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    Image.new("RGB", (1, 1), "red").save(folder / "pixel.png")
    Image.new("RGB", (2000, 1), "red").save(folder / "line.png")
    (folder / "SHOUTED.JPG").write_bytes(content)
    (folder / "wrong.txt").write_bytes(content)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    (folder / "header.jpg").write_bytes(content[:3])
    (folder / "page.jpg").write_text("<!DOCTYPE html><html>404</html>")
    # The header claims 60,000 x 60,000 pixels, like that of a decompression bomb.
    bomb = bytearray((folder / "pixel.png").read_bytes())
    bomb[16:24] = (60_000).to_bytes(4) * 2
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4)
    (folder / "bomb.png").write_bytes(bomb)
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    codes = {
        "empty.jpg": "empty", "cut.jpg": "truncated", "header.jpg": "truncated", "page.jpg": "not-an-image",
        "bomb.png": "too-large", "gone.jpg": "missing",
    }  # fmt: skip
    return {path.name: codes.get(path.name) for path in folder.iterdir() if path.name != "loop"}


def test_hostile_files_are_rows_with_a_label_or_an_error_and_nothing_else_suffers(tmp_path: Path) -> None:
    wanted = hostile_files(tmp_path / "photos")
    label(tmp_path / "photos", tmp_path / "out")
    rows = rows_below(tmp_path / "out")
    found = {Path(str(row["path"])).name: row["error"] and str(row["error"]).partition(":")[0] for row in rows}
    assert found == wanted
    assert len(rows) == len(wanted)
    assert all((row["label"] is None) == (row["error"] is not None) for row in rows)


def test_a_photo_that_kills_its_process_is_one_error_row(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "photos", count=5)
    (folder / "001.jpg").write_bytes(b"poison")
    (folder / "002.jpg").write_text("not a photo")  # its error is also reported from another process
    label(folder, tmp_path / "out", decode=decode_or_die)
    rows = rows_below(tmp_path / "out")
    crashed = "crash: the process that decoded it died in both attempts"
    no_photo = f"not-an-image: the content is none of {', '.join(readable_formats())}"
    assert [row["error"] for row in rows] == [None, crashed, no_photo, None, None]
    assert [row["label"] for row in rows] == ["blue", None, None, "red", "blue"]


def test_a_model_process_that_dies_once_costs_nothing(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "photos", count=20)
    label(folder, tmp_path / "out", engine=RedOrBlue(dies_once=str(tmp_path / "died")))
    assert (tmp_path / "died").exists()
    assert [row["label"] for row in rows_below(tmp_path / "out")] == ["blue", "red"] * 10


def test_a_model_process_that_always_dies_ends_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "MAX_RESTARTS", 1)
    folder = draw_folder(tmp_path / "photos", count=2)
    with pytest.raises(FailureError, match=r"labelling failed: .*run the same command to resume"):
        label(folder, tmp_path / "out", engine=RedOrBlue(dies_always=True))


def decoded(inputs: pa.Table) -> ImageBlock:
    decoder = Decoder(SMALL, threads=2, job="a test's")
    try:
        return decoder.decode(inputs, part="part", tries=0)
    finally:
        decoder.close()


def test_a_photo_that_vanishes_after_the_listing_is_an_error_row(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "photos", count=3)
    inputs = list_inputs(str(folder))
    (folder / "001.jpg").unlink()
    found = decoded(inputs)
    assert found.errors == ["", "missing: no such file", ""]
    assert [bool(image.any()) for image in found.images] == [True, False, True]


def test_a_fault_that_passes_is_retried_and_counted_and_one_that_stays_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = draw_folder(tmp_path / "photos", count=3)
    faults = {"000.jpg": 1, "002.jpg": 99}
    read = photos._read

    def read_badly(path: str, *, max_bytes: int) -> bytes:
        name = Path(path).name
        faults[name] = faults.get(name, 0) - 1
        if faults[name] >= 0:
            raise OSError(5, "Input/output error")
        return read(path, max_bytes=max_bytes)

    monkeypatch.setattr(photos, "_read", read_badly)
    monkeypatch.setattr(photos, "RETRY_PAUSES_SECONDS", (0.0, 0.0, 0.0))
    found = decoded(list_inputs(str(folder)))
    assert found.retried == 1
    assert found.errors == ["", "", "io: [Errno 5] Input/output error"]


def test_the_second_try_suspects_only_the_photos_that_were_decoded_when_a_process_died(tmp_path: Path) -> None:
    """A process that is killed while it decodes photos leaves a record of which photos they were."""
    code = (
        "import os, signal\n"
        "from catdog.photos.decoding.isolation import Journal\n"
        "journal = Journal('killed')\n"
        "with journal.at_work_on('part#6'):\n"
        "    pass\n"
        "with journal.at_work_on('part#7'):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == -signal.SIGKILL
    program = (
        "from catdog.photos.decoding.isolation import Journal\n"
        "journal = Journal('killed')\n"
        "print(sorted(journal.suspects()), sorted(Journal('other').suspects()))\n"
        "journal.delete()\n"
    )
    said = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    assert said.stdout == "['part#7'] []\n"
    assert len(list(tmp_path.iterdir())) == 1  # the record of the other job


def test_a_stretch_that_lost_its_process_is_tried_again_part_by_part(tmp_path: Path) -> None:
    (shard,) = cut_into_shards(list_inputs(str(draw_folder(tmp_path, count=3))))
    stretch = Stretch(shard=shard, start=0, stop=20, rows=20, photos_per_part=8)
    again = stretch.again()
    assert [(one.start, one.stop, one.rows, one.tries) for one in again] == [
        (0, 8, 8, 1), (8, 16, 8, 1), (16, 20, 4, 1),
    ]  # fmt: skip
    assert [one.tries for one in again[0].again()] == [2]


def test_a_million_photos_are_some_250_calls_and_few_photos_are_shared_out() -> None:
    assert 1_000_000 // photos_per_stretch(1_000_000, actors=16, photos_per_part=256) == 244
    assert photos_per_stretch(3000, actors=1, photos_per_part=125) == 375
    assert photos_per_stretch(20, actors=100, photos_per_part=32) == 32


def test_parts_are_small_where_photos_are_few_and_never_large() -> None:
    assert [photos_per_part(count) for count in (1, 370, 5_000, 16_384, 10_000_000)] == [32, 32, 208, 256, 256]
