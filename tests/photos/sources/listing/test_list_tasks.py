"""Long lists, read by tasks: rows and digest are those of one process, and the shards are the same each time."""

from __future__ import annotations

import csv
import os
import random
from pathlib import Path

import pytest

from catdog.errors import UsageError
from catdog.photos.sources.inputs import list_inputs
from catdog.photos.sources.listing import list_tasks
from catdog.photos.sources.listing.list_tasks import Lines
from catdog.photos.sources.listing.lists import MoreLinesError
from catdog.photos.sources.listing.packed_tasks import list_many
from catdog.photos.sources.listing.shards import SetDigest, Shard, read_all


def list_both_ways(source: str, place: str, *, exclude: tuple[str, ...] = ()) -> list[Shard]:
    """List `source` in this process and by tasks; check that both find the same, and return the shards."""
    wanted = list_inputs(source, exclude=exclude)
    with pytest.raises(MoreLinesError) as raised:
        list_inputs(source, exclude=exclude, at_most=1)
    found = list_many(raised.value, exclude=exclude, shards=place, num_cpus=0.5)
    assert read_all(found).equals(wanted)
    assert SetDigest.total(shard.digest for shard in found) == SetDigest.of(wanted)
    again = list_many(raised.value, exclude=exclude, num_cpus=0.5)
    assert again == [Shard(first=shard.first, digest=shard.digest) for shard in found]
    return found


@pytest.fixture
def _small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tasks small: about 30 lines, and 25 keys."""
    small = {"_MAX_BYTES": 500, "_NAMES_PER_PIECE": 30, "_KEYS_PER_TASK": 25, "_KEYS_PER_SAMPLE": 2}
    for name, value in small.items():
        monkeypatch.setattr(list_tasks, name, value)


@pytest.mark.usefixtures("_small_tasks")
def test_a_long_list_is_the_same_photos(ray_session: None, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.jpg").write_bytes(bytes(number))
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_text("latin")
    lines = [b"photos/%d.jpg" % number for number in range(60)] * 2
    lines += [
        b"photos/caf\xe9.jpg",
        b"photos/../photos/7.jpg",
        "photos/caf\u00e9 50%.jpg".encode(),
        b"photos/left/out.jpg",
        b"# none",
        b"",
        b" ",
    ]
    random.Random(0).shuffle(lines)
    content = b"\xef\xbb\xbf" + b"\n".join(lines) + b"\r\n" + b"photos/" + b"long" * 100 + b".jpg\nphotos/last\r1.jpg"
    (tmp_path / "list.txt").write_bytes(content)
    found = list_both_ways(str(tmp_path / "list.txt"), str(tmp_path / "shards"), exclude=(f"{folder}/left",))
    assert len(found) == 5
    assert sum(shard.rows for shard in found) == 64
    assert read_all(found)["relative"].to_pylist()[:3] == ["0.jpg", "1.jpg", "10.jpg"]
    uris = "".join(f"s3://bucket/{number % 2}/a%20{number % 30}.jpg\n" for number in range(100))
    (tmp_path / "uris.txt").write_text(f"{uris}beside.jpg\n")
    found = list_both_ways(f"file://{tmp_path}/uris.txt", str(tmp_path / "shards"))
    assert sum(shard.rows for shard in found) == 31


@pytest.mark.usefixtures("_small_tasks")
@pytest.mark.parametrize(("name", "delimiter"), [("list.csv", ","), ("list.csv", ";"), ("list.tsv", "\t")])
def test_a_long_table_is_the_same_photos(ray_session: None, tmp_path: Path, name: str, delimiter: str) -> None:
    names = [f"photos/{number}.jpg" for number in range(60)] * 2
    names += [
        "photos/two\nlines.jpg",
        'photos/"quoted", 1.jpg',
        "'=1.jpg",
        "photos/left/out.jpg",
        "",
        "s3://bucket/1.jpg",
    ]
    random.Random(0).shuffle(names)
    with (tmp_path / name).open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["label", "Path"])
        writer.writerows(["cat", text] for text in names)
    found = list_both_ways(str(tmp_path / name), str(tmp_path / "shards"), exclude=(f"{tmp_path}/photos/left",))
    assert len(found) == 5
    paths = read_all(found)["path"].to_pylist()
    assert len(paths) == 64
    assert {f"{tmp_path}/photos/two\nlines.jpg", f"{tmp_path}/=1.jpg", "s3://bucket/1.jpg"} <= {*paths}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n", "expected a header with path, found a,b"),
        (b"label,path\n" + b"cat,1.jpg\n" * 50 + b"cat\n", "row 52: expected 2 columns, found 1"),
        (b"path\n" + b"1.jpg\n" * 50 + b"caf\xe9.jpg\n", "expected a CSV file in UTF-8, found other bytes"),
        (b"path\n\n", "expected one path per line in .*, found none"),
    ],
)
@pytest.mark.usefixtures("_small_tasks")
def test_what_is_wrong_with_a_long_table_is_said_in_one_line(
    ray_session: None, tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        list_many(MoreLinesError(str(tmp_path / "list.csv")), num_cpus=0.5)


def test_what_may_be_wrong_with_a_long_list_is_said_as_of_a_short_one(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text("".join(f"C:\\photos\\{number}.jpg\n" for number in range(30)))
    list_both_ways(str(tmp_path / "list.txt"), str(tmp_path / "shards"))
    said = capsys.readouterr().out.splitlines()
    assert said == 3 * [
        "None of the first 20 paths in the list exists, such as C:\\photos\\0.jpg: they are Windows paths."
    ]
    (tmp_path / "list.txt").write_text("#\n" * 5)
    with pytest.raises(UsageError, match=r"^expected one path per line in .*/list\.txt, found none"):
        list_many(MoreLinesError(str(tmp_path / "list.txt")), num_cpus=0.5)
    (tmp_path / "list.txt").write_text("a.jpg\nb.jpg\ns3://AKIA:s3cr3t@bucket/b.jpg\n")
    with pytest.raises(UsageError, match="expected a URI without keys or passwords"):
        list_many(MoreLinesError(str(tmp_path / "list.txt")), num_cpus=0.5)
    with pytest.raises(UsageError, match=r"expected a list of paths at .*/gone\.txt: cannot be read"):
        list_many(MoreLinesError(str(tmp_path / "gone.txt")), num_cpus=0.5)


@pytest.mark.parametrize("content", [b"a\nbb\n\nccc\r\nd", b"\na\n", b"aaaa\n"])
def test_each_line_is_in_one_range_of_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    wanted = content.decode().split()
    for step in range(1, len(content) + 1):
        ranges = [
            Lines(path=str(path), start=at, stop=min(at + step, len(content))) for at in range(0, len(content), step)
        ]
        assert [name for lines in ranges for name in lines.names()] == wanted


def test_short_lists_of_paths_and_those_of_tables_are_read_here(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.jpg\nb.jpg\nc.jpg\n")
    assert list_inputs(str(tmp_path / "list.txt"), at_most=3).num_rows == 3
    (tmp_path / "list.txt").write_text("a.parquet\n# tables\n\nb.PARQUET\nc.parquet\n")
    with pytest.raises(UsageError, match="expected a Parquet file"):
        list_inputs(str(tmp_path / "list.txt"), at_most=2)
    (tmp_path / "list.txt").write_bytes("a.jpg\nb.jpg\nc.jpg\n".encode("utf-16"))
    with pytest.raises(UsageError, match="found UTF-16"):
        list_inputs(str(tmp_path / "list.txt"), at_most=2)
