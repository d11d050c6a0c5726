import json
from pathlib import Path

import pytest
from object_store import ObjectStore

from catdog.errors import UsageError
from catdog.storage.ownership import MARK_FILE, Kind, check_folder, is_ours, mark_folder


def check(folder: Path | str, kind: Kind = "labels") -> None:
    check_folder(str(folder), kind=kind, flag="--out")


def test_a_new_and_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    check(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    check(tmp_path)
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".DS_Store").write_bytes(b"")
    check(tmp_path)


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_marked_folder_is_used_again_whatever_else_it_holds(tmp_path: Path, prefix: str) -> None:
    mark_folder(f"{prefix}{tmp_path}/out", kind="labels")
    (tmp_path / "out/notes.txt").write_text("mine")
    check(f"{prefix}{tmp_path}/out")
    assert json.loads((tmp_path / "out" / MARK_FILE).read_text())["kind"] == "labels"


def test_somebody_else_s_folder_is_refused_in_one_line_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.py").write_text("x")
    (tmp_path / "report.html").write_text("x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError) as caught:
        check(tmp_path)
    assert str(caught.value) == (
        f"--out {tmp_path}: expected a new or empty folder or a folder of labels, "
        "found 2 entries that catdog did not write, such as model: give another --out"
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_another_job_is_refused_by_its_kind(tmp_path: Path) -> None:
    mark_folder(str(tmp_path), kind="run")
    with pytest.raises(UsageError, match=r"or a folder of labels, found a run directory: give another --out$"):
        check(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("out", "out/below", "link", "x" * 300):
        with pytest.raises(UsageError, match=r"expected a folder, found a file or a name that .*: give another --out$"):
            check(tmp_path / name)


@pytest.mark.parametrize(
    ("kind", "name", "content"),
    [
        ("labels", "predict.json", {"photos": "/p", "model": ["1234"], "inputs": "3 files 0123"}),
        ("run", "config.json", {"photos": "/p", "seed": 0, "train_per_class": 1000}),
        ("run", "manifest/_COMPLETE.json", {"inputs": {}, "summary": {}}),
    ],
)
def test_a_folder_of_an_earlier_version_is_known_by_the_file_of_its_job(
    kind: Kind, name: str, content: object, tmp_path: Path
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(json.dumps(content))
    check(tmp_path, kind)
    for other in ("{}", "[1]", "no JSON", "[" * 100_000):
        (tmp_path / name).write_text(other)
        with pytest.raises(UsageError, match="that catdog did not write"):
            check(tmp_path, kind)


@pytest.mark.parametrize(
    ("names", "ours"),
    [
        ({MARK_FILE, "cat", "dog"}, True),
        ({"predict.json", "predictions", "summary.json"}, True),
        ({"config.json", "manifest"}, True),
        ({"config.json", "cat", "dog"}, False),
        (set(), False),
    ],
)
def test_results_are_told_from_photos_by_the_names_in_a_folder(names: set[str], ours: bool) -> None:
    assert is_ours(names) is ours


def test_a_prefix_of_an_object_store_is_a_folder(object_store: ObjectStore) -> None:
    out = object_store.uri("owners/out")
    check(out)
    object_store.put("owners/out/parts/mine.step", b"x")
    with pytest.raises(UsageError, match="found 1 entry that catdog did not write, such as parts"):
        check(out)
    mark_folder(out, kind="labels")
    check(out)
