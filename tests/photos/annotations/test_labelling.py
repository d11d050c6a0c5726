"""Labels from tables, Parquet columns and .cls files, splits from names, and groups, up to a whole ingest."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from catdog.errors import UsageError
from catdog.photos.annotations.corrections import read_corrections
from catdog.photos.annotations.groups import read_groups
from catdog.photos.annotations.label_table import read_label_table
from catdog.photos.annotations.labelling import Annotations, label_photos
from catdog.photos.ingest import build_manifest
from catdog.photos.sources.containers.tables import TableColumns
from catdog.photos.sources.inputs import list_inputs


def jpeg(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noise).save(sink, "JPEG")
    return sink.getvalue()


def write(folder: Path, names: list[str]) -> None:
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(seed))


def labelled(source: Path, annotations: Annotations) -> dict[str, tuple[str | None, str]]:
    found = label_photos(list_inputs(str(source), columns=annotations.columns), source="x", annotations=annotations)
    return {row["path"].rpartition("/")[2]: (row["hint"], row["class"]) for row in found.table.to_pylist()}


NAMES = ["photos/a/1.jpg", "photos/a/2.jpg", "photos/3.jpg", "photos/4.jpg"]


@pytest.mark.parametrize(
    "text",
    [
        "path,label,split\na/1.jpg,Cat,train\na/2.jpg,dog,val\n3.jpg,DOG,testing\n",
        "filename;category\n1.jpg;cat\n2.jpg;dog\n3.jpg;dog\n",
        "id\tclass\n1\tcat\n2\tdog\n3\tdog\n",
        "image,label\nphotos\\a\\1.jpg,cat\nphotos\\a\\2.jpg,dog\nphotos\\3.jpg,dog\n",
        "image_id,breed\n./a/1.jpg,cat\n a/2.jpg ,dog\n./x/../3.jpg,dog\n",
    ],
)
def test_a_table_names_photos_as_people_write_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    write(tmp_path, NAMES)
    (tmp_path / "labels.csv").write_text(text)
    found = labelled(tmp_path / "photos", Annotations(labels=read_label_table(str(tmp_path / "labels.csv"))))
    assert {name: label for name, (_, label) in found.items()} == {"1.jpg": "cat", "2.jpg": "dog", "3.jpg": "dog"}
    hints = ["train", "validation", "test"] if "split" in text else [None] * 3
    assert [found[name][0] for name in ("1.jpg", "2.jpg", "3.jpg")] == hints
    assert capsys.readouterr().out.endswith("Labels: 3 of 4 photos have a label.\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n1.jpg,cat\n1.jpg,dog\n", "row 3: 1.jpg has another label in an earlier row"),
        ("path,label\n1.jpg,cat\n2.jpg,cat\n", "expected labels of two classes or more, found fewer in 2"),
        ("path,label,split\n1.jpg,cat,extra\n", "row 2: expected a split of train, validation or test, found extra"),
        (
            "path,label\n7.jpg,cat\n8.jpg,dog\n",
            "none of its 2 paths matches a photo, such as 7.jpg; paths",
        ),
    ],
)
def test_a_table_that_says_nothing_clear_is_refused(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, NAMES)
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UsageError) as caught:
        labelled(tmp_path / "photos", Annotations(labels=read_label_table(str(tmp_path / "labels.csv"))))
    assert message in str(caught.value)


def test_accents_of_a_table_and_of_the_files_may_be_composed_in_two_ways(tmp_path: Path) -> None:
    write(tmp_path / "photos", ["u\u0308.jpg", "\u00e4.jpg"])
    (tmp_path / "labels.csv").write_text("path,label\n\u00fc.jpg,cat\na\u0308.jpg,dog\n")
    found = labelled(tmp_path / "photos", Annotations(labels=read_label_table(str(tmp_path / "labels.csv"))))
    assert [label for _, label in found.values()] == ["cat", "dog"]


def test_a_photo_that_two_names_say_two_things_of_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "photos", ["a/1.jpg", "a/2.jpg"])
    (tmp_path / "t.csv").write_text("path,label,group\na/1.jpg,cat,x\n1.jpg,dog,y\n2.jpg,dog,y\n")
    table, groups = read_label_table(str(tmp_path / "t.csv")), read_groups(str(tmp_path / "t.csv"))
    with pytest.raises(UsageError, match=r"a/1\.jpg has two labels, one under the name 1\.jpg: keep one of them$"):
        labelled(tmp_path / "photos", Annotations(labels=table))
    (tmp_path / "l.csv").write_text("path,label\na/1.jpg,cat\n2.jpg,dog\n")
    with pytest.raises(UsageError, match=r"a/1\.jpg is in two groups, in one as 1\.jpg: keep one of them$"):
        labelled(tmp_path / "photos", Annotations(labels=read_label_table(str(tmp_path / "l.csv")), groups=groups))


def test_tables_of_another_encoding_or_without_a_group_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("path\tlabel\n1.jpg\tcat\n".encode("utf-16"))
    with pytest.raises(UsageError, match=r"expected a CSV file in UTF-8, found UTF-16: save it as CSV UTF-8$"):
        read_label_table(str(tmp_path / "t.csv"))
    (tmp_path / "g.csv").write_text("path,group\n1.jpg,\n")
    with pytest.raises(UsageError, match=r"expected a group of one photo at least, found none in 1 rows$"):
        read_groups(str(tmp_path / "g.csv"))


def test_groups_stay_together_and_strangers_are_refused(tmp_path: Path) -> None:
    write(tmp_path, NAMES)
    (tmp_path / "groups.csv").write_text("path,group\n1.jpg,tom\n3.jpg,tom\n")
    (tmp_path / "labels.csv").write_text("path,label\n1.jpg,cat\n2.jpg,cat\n3.jpg,dog\n4.jpg,dog\n")
    annotations = Annotations(
        labels=read_label_table(str(tmp_path / "labels.csv")), groups=read_groups(str(tmp_path / "groups.csv"))
    )
    found = label_photos(list_inputs(str(tmp_path / "photos")), source="x", annotations=annotations)
    groups = {row["path"].rpartition("/")[2]: row["group"] for row in found.table.to_pylist()}
    assert groups == {"1.jpg": "tom", "2.jpg": None, "3.jpg": "tom", "4.jpg": None}
    (tmp_path / "groups.csv").write_text("path,group\n9.jpg,tom\n")
    strange = read_groups(str(tmp_path / "groups.csv"))
    with pytest.raises(UsageError, match="none of its 1 paths matches a photo"):
        labelled(tmp_path / "photos", Annotations(groups=strange, labels=annotations.labels))


def test_groups_that_stand_in_several_split_folders_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "p", ["train/cat/1.jpg", "train/dog/2.jpg", "test/cat/3.jpg", "test/dog/4.jpg"])
    (tmp_path / "groups.csv").write_text("path,group\n1.jpg,tom\n3.jpg,tom\n2.jpg,rex\n")
    labelled(tmp_path / "p", Annotations(groups=read_groups(str(tmp_path / "groups.csv"))))
    assert capsys.readouterr().out == (
        "Groups: 3 of 4 photos are in 2 groups.\n"
        "Groups: 1 group in several split folders, such as tom (test, train): the folders decide.\n"
    )
    (tmp_path / "groups.csv").write_text("path,group\n1.jpg,tom\n2.jpg,tom\n")
    labelled(tmp_path / "p", Annotations(groups=read_groups(str(tmp_path / "groups.csv"))))
    assert capsys.readouterr().out == "Groups: 2 of 4 photos are in 1 group.\n"


def shard(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def test_the_class_of_a_photo_in_a_webdataset_shard_is_in_the_file_beside_it(tmp_path: Path) -> None:
    first = {"v1.0/a.jpg": b"a", "v1.0/a.cls": b"0\n", "v1.0/b.jpg": b"b", "v1.0/b.cls": b"1"}
    second = {"./c.seg.png": b"c", "./c.cls": b" Cat ", "./d.jpg": b"d", "./e.jpg": b"e", "./e.cls": b"0"}
    shard(tmp_path / "pets-train-00000.tar", first)
    shard(tmp_path / "pets-val-00000.tar", second)
    found = label_photos(list_inputs(str(tmp_path)), source="x", annotations=Annotations())
    assert {row["path"].rpartition("!")[2]: (row["hint"], row["class"]) for row in found.table.to_pylist()} == {
        "v1.0/a.jpg": ("train", "0"), "v1.0/b.jpg": ("train", "1"), "./c.seg.png": ("validation", "cat"),
        "./e.jpg": ("validation", "0"),
    }  # fmt: skip
    assert found.classes == ("0", "1", "cat")
    assert found.rejected == [
        (f"{tmp_path}/pets-val-00000.tar!./d.jpg", "no-class: the archive has no .cls next to it")
    ]
    one = label_photos(list_inputs(f"{tmp_path}/*-train-*.tar"), source="x", annotations=Annotations())
    assert one.table["hint"].to_pylist() == [None, None]


def test_the_name_of_an_archive_is_a_folder_where_it_is_a_split_s_or_there_is_no_other(tmp_path: Path) -> None:
    for split in ("train", "test"):
        shard(tmp_path / f"a/{split}.tar", {f"{name}/{split}.jpg": b"x" for name in ("cat", "dog")})
        shard(tmp_path / f"c/images_{split[:2]}.tar", {f"{name}/{split}.jpg": b"x" for name in ("cat", "dog")})
    for name in ("cat-0", "cat-1", "dog-0"):
        shard(tmp_path / f"b/{name}.tar", {f"{name}.jpg": b"x"})
    split = labelled(tmp_path / "a", Annotations())
    assert split == {"train.jpg": ("train", "dog"), "test.jpg": ("test", "dog")}
    assert [label for _, label in labelled(tmp_path / "b", Annotations()).values()] == ["cat", "cat", "dog"]
    assert set(labelled(tmp_path / "c", Annotations()).values()) == {(None, "dog")}


def test_tables_without_labels_are_told_what_names_their_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [jpeg(1)], "animal": ["cat"]}), tmp_path / "1.parquet")
    with pytest.raises(UsageError, match=r"by --labels FILE, or name the column of the table by --label-column$"):
        labelled(tmp_path, Annotations())
    pq.write_table(pa.table({"image": [jpeg(2)], "label": ["dog"]}), tmp_path / "2.parquet")
    with pytest.raises(UsageError, match=rf"a column of labels in each table, found none in {tmp_path}/1\.parquet"):
        labelled(tmp_path, Annotations())


def test_shards_of_one_class_or_of_none_are_refused(tmp_path: Path) -> None:
    shard(tmp_path / "0.tar", {"a.jpg": b"a", "a.cls": b"1", "b.jpg": b"b", "b.cls": b"1"})
    with pytest.raises(UsageError, match=r"two classes or more in the \.cls files, found only 1$"):
        labelled(tmp_path / "0.tar", Annotations())
    shard(tmp_path / "1.tar", {"a.jpg": b"a", "a.cls": bytes(2000)})
    with pytest.raises(UsageError, match=r"in the \.cls next to it: too-large: 2,000 bytes"):
        labelled(tmp_path / "1.tar", Annotations())


def test_a_parquet_file_is_trained_on_with_its_labels(ray_session: None, tmp_path: Path) -> None:
    table = {
        "photo": [jpeg(number) for number in range(40)],
        "thumb": [b"x"] * 40,
        "species": ["Cat", "dog"] * 20,
        "title": [f"n{number}" for number in range(40)],
    }
    pq.write_table(pa.table(table), tmp_path / "t.parquet", row_group_size=7)
    columns = TableColumns(content="photo", name="title")
    manifest = build_manifest(
        str(tmp_path / "t.parquet"), annotations=Annotations(columns=columns, label_column="species")
    )
    assert manifest.classes == ("cat", "dog")
    assert sum(sum(counts.values()) for counts in manifest.counts().values()) == 40
    row = manifest.table.to_pylist()[0]
    assert row["path"] == f"{tmp_path}/t.parquet!photo[0]!n0"
    assert row["class"] == "cat"


def test_the_splits_of_published_tables_are_in_their_names(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("a dataset card")
    for split in ("train-00000-of-00002", "train-00001-of-00002-0123456789abcdef", "validation-00000-of-00001"):
        table = pa.table({"image": [jpeg(1), jpeg(2)], "label": ["cat", "dog"]})
        pq.write_table(table, tmp_path / f"data/{split}.parquet")
    found = label_photos(list_inputs(str(tmp_path)), source="x", annotations=Annotations())
    assert found.table["hint"].to_pylist() == ["train"] * 4 + ["validation"] * 2
    assert found.table["class"].to_pylist() == ["cat", "dog"] * 3
    whole = label_photos(list_inputs(str(tmp_path)), source="x", annotations=Annotations(splits="none"))
    assert set(whole.table["hint"].to_pylist()) == {None}


def test_a_table_s_splits_are_kept(ray_session: None, tmp_path: Path) -> None:
    names = [f"photos/{number}.jpg" for number in range(24)]
    write(tmp_path, names)
    labels, splits = ["cat", "dog"] * 12, ["train"] * 8 + ["val"] * 8 + ["test"] * 8
    rows = [",".join(row) for row in zip(names, labels, splits, strict=True)]
    (tmp_path / "labels.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")
    manifest = build_manifest(
        str(tmp_path / "photos"), annotations=Annotations(labels=read_label_table(str(tmp_path / "labels.csv")))
    )
    counts = {split: sum(of_class.values()) for split, of_class in manifest.counts().items()}
    assert counts == {"train": 8, "validation": 8, "test": 8, "unused": 0}


def test_corrections_that_leave_out_everything_are_refused(tmp_path: Path) -> None:
    write(tmp_path, ["cat/1.jpg", "dog/1.jpg"])
    (tmp_path / "c.csv").write_text(f"path,label\n{tmp_path}/cat/1.jpg,-\n{tmp_path}/dog/1.jpg,-\n")
    with pytest.raises(UsageError, match="the corrections leave out all of them"):
        labelled(tmp_path, Annotations(corrections=read_corrections(str(tmp_path / "c.csv"))))
