from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_store import ObjectStore

from catdog.errors import ImageError, UsageError
from catdog.photos.sources import inputs as sources
from catdog.photos.sources.containers import archives
from catdog.photos.sources.containers.cells import forget_tables
from catdog.photos.sources.inputs import find_inputs, list_inputs, part_bounds, read_inputs


def write(folder: Path, names: list[str]) -> None:
    """Write files whose contents are their own names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def relatives(source: str, **options: list[str]) -> list[str]:
    return list_inputs(source, **options)["relative"].to_pylist()


def contents(inputs: pa.Table) -> list[str]:
    """Return the content of each photo, or the code of the error in its place."""
    found = [content for _, content in read_inputs(inputs)]
    return [content.code if isinstance(content, ImageError) else content.decode() for content in found]


# Folders, photos, archives


def test_a_folder_a_photo_and_a_zip_are_what_list_photos_finds(tmp_path: Path) -> None:
    write(tmp_path / "photos", ["b.jpg", "a/c.jpg"])
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("cat/1.jpg", "inside")
    assert relatives(str(tmp_path / "photos")) == ["a/c.jpg", "b.jpg"]
    assert relatives(str(tmp_path / "photos/b.jpg")) == ["b.jpg"]
    zipped = list_inputs(str(tmp_path / "x.zip"))
    assert zipped["path"].to_pylist() == [f"{tmp_path}/x.zip!cat/1.jpg"]
    assert contents(zipped) == ["inside"]


def test_what_the_job_itself_writes_below_the_photos_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, ["1.jpg", "labels/parts/part-0000000.parquet", "labels2/2.jpg", "sorted/cat/1.jpg"])
    exclude = [f"{tmp_path}/labels", f"{tmp_path}/sorted/"]
    assert relatives(str(tmp_path), exclude=exclude) == ["1.jpg", "labels2/2.jpg"]
    with pytest.raises(UsageError, match="found only what earlier jobs wrote there"):
        list_inputs(str(tmp_path / "labels"), exclude=exclude)


# Object stores


def packed(name: str) -> bytes:
    """Return a table or an archive of two photos with odd names, whose contents are their own names."""
    sink, names = io.BytesIO(), ["a?b.jpg", "c#d%20.jpg"]
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"name": names, "bytes": [one.encode() for one in names]}), sink)
    elif name.endswith(".zip"):
        with zipfile.ZipFile(sink, "w") as archive:
            for one in names:
                archive.writestr(one, one)
    else:
        with tarfile.open(fileobj=sink, mode="w:gz" if name.endswith("gz") else "w") as archive:
            for one in names:
                entry = tarfile.TarInfo(one)
                entry.size = len(one)
                archive.addfile(entry, io.BytesIO(one.encode()))
    return sink.getvalue()


@pytest.mark.parametrize(
    "source",
    [
        "file/a.parquet", "folder/x.parquet/", "file/a.zip", "file/a.tar", "file/a.tar.gz", "folder/x.tar/",
        "glob/*.tar", "glob/*.parquet", "list/list.txt", "list/list.csv",
    ],
)  # fmt: skip
def test_every_kind_of_source_is_read_by_a_uri_with_options(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path))
    place = f"kinds/{source}"
    if "list" in source:
        object_store.put(place, ("path\n" * place.endswith(".csv") + "a?b.jpg\nx/../c#d%20.jpg\n").encode())
        for one in ("a?b.jpg", "c#d%20.jpg"):
            object_store.put(f"kinds/list/{one}", one.encode())
    elif source.endswith("/"):
        object_store.put(place + "1" + Path(source).suffix, packed(place.rstrip("/")))
    else:
        object_store.put(place.replace("*", "1"), packed(place))
    inputs = list_inputs(object_store.uri(place.rstrip("/")))
    assert inputs["version"].null_count == (2 if "list" in source else 0)
    assert [relative.rpartition("/")[2] for relative in inputs["relative"].to_pylist()] == ["a?b.jpg", "c#d%20.jpg"]
    assert contents(inputs) == ["a?b.jpg", "c#d%20.jpg"]
    assert contents(find_inputs(inputs["path"].to_pylist())) == ["a?b.jpg", "c#d%20.jpg"]


# Versions


def pack_one(place: Path, content: bytes, *, modified: int) -> None:
    """Write a photo of this content to `place`, packed as its suffix says; set the modification time to `modified`."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.suffix == ".parquet":
        pq.write_table(pa.table({"name": ["a.jpg"], "bytes": [content]}), place)
    elif place.suffix == ".zip":
        with zipfile.ZipFile(place, "w") as archive:
            archive.writestr(zipfile.ZipInfo("a.jpg"), content)
    elif place.suffix in (".tar", ".gz"):
        with tarfile.open(place, "w:gz" if place.suffix == ".gz" else "w") as archive:
            entry = tarfile.TarInfo("a.jpg")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    else:
        place.write_bytes(content)
    os.utime(place, (modified, modified))


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("a.jpg", "a.jpg"), ("photos", "photos/a.jpg"), ("photos/*.jpg", "photos/a.jpg"), ("list.txt", "photos/a.jpg"),
        ("list.csv", "photos/a.jpg"), ("a.zip", "a.zip"), ("a.tar", "a.tar"), ("a.tar.gz", "a.tar.gz"),
        ("shards", "shards/a.tar"), ("a.parquet", "a.parquet"), ("tables", "tables/a.parquet"),
    ],
)  # fmt: skip
def test_another_photo_of_the_same_size_has_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, place: str
) -> None:
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "list.txt").write_text("photos/a.jpg\n")
    (tmp_path / "list.csv").write_text("path\nphotos/a.jpg\n")
    found = []
    for modified, content in enumerate([b"cat", b"cat", b"dog"]):
        pack_one(tmp_path / place, content, modified=10 + modified // 2)
        archives.forget_archives()
        found += list_inputs(str(tmp_path / source))["version"].to_pylist()
    before, same, after = found
    assert None not in found
    assert before == same
    assert before != after


# Globs


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.jpg", ["1.jpg", "2.jpg"]),
        ("?.jpg", ["1.jpg", "2.jpg"]),
        ("[!1].jpg", ["2.jpg"]),
        ("[0-1].*", ["1.jpg", "1.png"]),
        ("*/*.jpg", ["a/3.jpg"]),
        ("**/*.jpg", ["1.jpg", "2.jpg", "a/3.jpg", "a/b/4.jpg"]),
        ("a/**", ["3.jpg", "b/4.jpg"]),
        ("a/**/4.jpg", ["b/4.jpg"]),
    ],
)
def test_a_glob_matches_within_names_and_two_stars_across_folders(
    tmp_path: Path, pattern: str, found: list[str]
) -> None:
    write(tmp_path, ["1.jpg", "2.jpg", "1.png", "a/3.jpg", "a/b/4.jpg"])
    assert relatives(f"{tmp_path}/{pattern}") == found
    if "?" not in pattern:
        assert relatives(f"file://{tmp_path}/{pattern}") == found


def test_a_folder_whose_name_looks_like_a_glob_is_a_folder(tmp_path: Path) -> None:
    write(tmp_path, ["[1]*/a.jpg", "1/b.jpg"])
    assert relatives(f"{tmp_path}/[1]*") == ["a.jpg"]


def test_a_glob_without_a_match_says_so(tmp_path: Path) -> None:
    write(tmp_path, ["1.jpg"])
    with pytest.raises(UsageError, match="no file matches: check the pattern and its quotes"):
        list_inputs(f"{tmp_path}/*.png")


# Lists


def test_a_list_counts_from_its_own_folder_and_keeps_what_is_missing(tmp_path: Path) -> None:
    write(tmp_path, ["lists/in.jpg", "up.jpg"])
    lines = ["# photos", "in.jpg", "", "../up.jpg", "in.jpg", f"{tmp_path}/gone.jpg", f"file://{tmp_path}/up.jpg"]
    (tmp_path / "lists/all.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    inputs = list_inputs(str(tmp_path / "lists/all.txt"))
    assert inputs["path"].to_pylist() == [
        f"{tmp_path}/gone.jpg", f"{tmp_path}/lists/in.jpg", f"{tmp_path}/up.jpg", f"file://{tmp_path}/up.jpg",
    ]  # fmt: skip
    assert contents(inputs) == ["missing", "lists/in.jpg", "up.jpg", "up.jpg"]


def test_a_list_s_relative_places_begin_below_the_common_folder(tmp_path: Path) -> None:
    (tmp_path / "all.txt").write_text("cat/1.jpg\ncat/2.jpg\ndog/1.jpg\n")
    assert relatives(str(tmp_path / "all.txt")) == ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"]


@pytest.mark.parametrize("content", [b"", b"# nothing\n\n", b"\xff\xfe\x00"])
def test_a_list_without_a_path_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "all.txt").write_bytes(content)
    with pytest.raises(UsageError, match=r"expected (one path per line|a list of paths in UTF-8) "):
        list_inputs(str(tmp_path / "all.txt"))


# Parquet


def write_table(path: Path, columns: dict[str, list[object]], *, rows_a_group: int = 2) -> str:
    pq.write_table(pa.table(columns), path, row_group_size=rows_a_group)
    return str(path)


def test_a_table_of_bytes_is_read_in_its_order_by_its_names(tmp_path: Path) -> None:
    path = write_table(
        tmp_path / "t.parquet", {"id": [3, 1, 2], "name": ["c", "a", "b"], "content": [b"C", None, b"B"]}
    )
    inputs = list_inputs(path)
    assert inputs["path"].to_pylist() == [f"{path}!c", f"{path}!a", f"{path}!b"]
    assert (inputs["row_group"].to_pylist(), inputs["row"].to_pylist()) == ([0, 0, 1], [0, 1, 0])
    assert contents(inputs) == ["C", "missing", "B"]


def test_a_name_that_several_rows_have_or_none_is_made_the_row_s_own(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.parquet", {"path": ["a", "b", "a", None], "bytes": [b"A", b"B", b"C", b"D"]})
    assert relatives(path) == ["a#0", "b", "a#2", "#3"]
    nameless = write_table(tmp_path / "u.parquet", {"path": pa.nulls(2, pa.string()), "bytes": [b"A", b"B"]})
    assert relatives(nameless) == ["0", "1"]


def test_hugging_face_s_image_column_is_understood(tmp_path: Path) -> None:
    images = [{"bytes": b"A", "path": "x/1.jpg"}, {"bytes": b"B", "path": "x/2.jpg"}]
    path = write_table(tmp_path / "t.parquet", {"label": [0, 1], "image": images}, rows_a_group=1)
    inputs = list_inputs(path)
    assert inputs["relative"].to_pylist() == ["x/1.jpg", "x/2.jpg"]
    assert contents(inputs) == ["A", "B"]


def test_a_glob_of_tables_is_all_their_rows(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_table(tmp_path / f"{name}.parquet", {"bytes": [name.encode(), b"2"]})
    assert contents(list_inputs(f"{tmp_path}/*.parquet")) == ["a", "2", "b", "2"]


def test_a_row_group_is_read_once_for_all_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_table(tmp_path / "t.parquet", {"bytes": [b"%d" % row for row in range(10)]}, rows_a_group=5)
    reads, read = [], pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda *args, **options: reads.append(args[1]) or read(*args, **options)
    )
    forget_tables()
    assert contents(list_inputs(path)) == [str(row) for row in range(10)]
    assert reads == [0, 1]


def test_a_table_that_vanishes_is_an_error_for_each_of_its_rows(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.parquet", {"bytes": [b"A", b"B"]})
    inputs = list_inputs(path)
    Path(path).unlink()
    forget_tables()
    assert contents(inputs) == ["missing", "missing"]


def test_tables_without_photos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a column of bytes in .*, found a int64, b string"):
        list_inputs(write_table(tmp_path / "t.parquet", {"a": [1], "b": ["x"]}))
    with pytest.raises(UsageError, match="a table without rows"):
        list_inputs(write_table(tmp_path / "u.parquet", {"bytes": pa.array([], pa.binary())}))
    (tmp_path / "v.parquet").write_bytes(b"no table")
    with pytest.raises(UsageError, match="expected a Parquet file"):
        list_inputs(str(tmp_path / "v.parquet"))


# Parts


def test_parts_cover_every_row_and_never_cross_a_row_group(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_table(tmp_path / f"{name}.parquet", {"bytes": [b"x"] * 7}, rows_a_group=5)
    inputs = list_inputs(f"{tmp_path}/*.parquet")
    assert part_bounds(inputs, photos_per_part=3) == [(0, 3), (3, 5), (5, 7), (7, 10), (10, 12), (12, 14)]


def test_a_million_files_are_cut_into_parts() -> None:
    count = 1_000_000
    inputs = pa.table(
        [
            pa.array(["p"] * count),
            pa.array(["p"] * count),
            *[pa.nulls(count, pa.string())] * 2,
            *[pa.nulls(count, pa.int32())] * 2,
            pa.nulls(count, pa.string()),
        ],
        schema=sources.INPUTS,
    )
    bounds = part_bounds(inputs, photos_per_part=256)
    assert (len(bounds), bounds[-1]) == (3907, (999_936, 1_000_000))
