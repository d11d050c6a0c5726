from __future__ import annotations

import os
from pathlib import Path

import pytest

from catdog.errors import ImageError, UsageError
from catdog.photos.sources.inputs import list_inputs, read_inputs


def contents(source: Path) -> dict[str, str]:
    found = read_inputs(list_inputs(str(source)))
    return {
        path.rpartition("/")[2]: content.code if isinstance(content, ImageError) else content.decode()
        for path, content in found
    }


def test_a_line_is_its_whole_text(tmp_path: Path) -> None:
    names = ["a\u2028b.jpg", "trailing .jpg ", " leading.jpg", "form\x0cfeed.jpg", "next\x85line.jpg", "#1.jpg"]
    for name in names:
        (tmp_path / name).write_text(name)
    lines = [name for name in names if name != "#1.jpg"] + ["./#1.jpg"]
    (tmp_path / "list.txt").write_text("\r\n".join(lines), newline="")
    assert contents(tmp_path / "list.txt") == {name: name for name in names}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", 'id,path\n1,a.jpg\n2,"b,c.jpg"\n'),
        ("list.tsv", "file_name\tlabel\na.jpg\tcat\nb,c.jpg\tdog\n"),
        ("list.csv", "path;label\na.jpg;cat\nb,c.jpg;dog\n"),
    ],
)
def test_a_table_with_a_column_of_paths_is_a_list(tmp_path: Path, name: str, text: str) -> None:
    for photo in ("a.jpg", "b,c.jpg"):
        (tmp_path / photo).write_text(photo)
    (tmp_path / name).write_text(text)
    assert contents(tmp_path / name) == {"a.jpg": "a.jpg", "b,c.jpg": "b,c.jpg"}


def test_what_a_list_cannot_mean_is_a_row_each(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("a")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "list.txt").write_text('a.jpg\nfolder\npipe.jpg\nnu\0l.jpg\n"a.jpg"\nC:\\photos\\a.jpg\nA.jpg/\n')
    assert contents(tmp_path / "list.txt") == {
        "a.jpg": "a", "folder": "folder", "pipe.jpg": "not-a-file", "nu\0l.jpg": "missing", '"a.jpg"': "missing",
        "C:\\photos\\a.jpg": "missing", "A.jpg": "missing",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('"a.jpg"', "they are in quotes"),
        ("C:\\photos\\a.jpg", "they are Windows paths"),
        ('{"path": "a.jpg"}', "they are JSON"),
        ("a.jpg ", "they begin or end with a space"),
        ("b/a.jpg", "relative paths are relative to the folder of the list"),
    ],
)
def test_where_all_paths_are_missing_a_line_says_what_may_be_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, why: str
) -> None:
    (tmp_path / "a.jpg").write_text("a")
    (tmp_path / "list.txt").write_text(f"{line}\n")
    assert list(contents(tmp_path / "list.txt").values()) == ["missing"]
    assert why in capsys.readouterr().out


def test_a_list_of_an_old_mac_has_lines_too(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_text(name)
    (tmp_path / "list.txt").write_bytes(b"a.jpg\rb.jpg\r")
    assert contents(tmp_path / "list.txt") == {"a.jpg": "a.jpg", "b.jpg": "b.jpg"}


def test_a_list_with_a_password_in_it_is_refused_and_the_password_not_shown(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.jpg\ns3://AKIA:s3cr3t@bucket/b.jpg\n")
    with pytest.raises(UsageError, match="expected a URI without keys or passwords") as caught:
        list_inputs(str(tmp_path / "list.txt"))
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_a_list_that_cannot_be_read_is_one_line(tmp_path: Path, name: str) -> None:
    fails = Path("/sys/class/net/lo/speed")  # a file that can be opened but not read
    if not fails.exists():
        pytest.skip("no such file here")
    (tmp_path / name).symlink_to(fails)
    with pytest.raises(UsageError, match=rf"{name}: cannot be read: .*Invalid argument") as caught:
        list_inputs(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_folder_called_as_a_list_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x.txt").mkdir()
    (tmp_path / "x.txt/1.jpg").write_text("1")
    assert contents(tmp_path / "x.txt") == {"1.jpg": "1"}


def test_a_table_without_paths_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="expected a header with path, found a,b"):
        list_inputs(str(tmp_path / "list.csv"))


def test_a_list_may_name_files_that_are_no_utf_8_by_their_bytes_or_by_their_keys(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_text("latin")
    (tmp_path / "bytes.txt").write_bytes(b"caf\xe9.jpg\n")
    (tmp_path / "keys.txt").write_text("caf\\x{e9}.jpg\n")
    for name in ("bytes.txt", "keys.txt"):
        assert contents(tmp_path / name) == {"caf\\x{e9}.jpg": "latin"}
    (tmp_path / "utf16.txt").write_bytes("a.jpg\n".encode("utf-16"))
    with pytest.raises(UsageError, match="found UTF-16: save it as UTF-8"):
        list_inputs(str(tmp_path / "utf16.txt"))
