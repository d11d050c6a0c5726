import json
from pathlib import Path

import pytest
from pyarrow import fs

from catdog.errors import FailureError, UsageError
from catdog.storage import artifacts


def test_a_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert artifacts.fingerprint({"a": 1, "b": [2, 3]}) == artifacts.fingerprint({"b": [2, 3], "a": 1})
    assert artifacts.fingerprint({"a": 1}) != artifacts.fingerprint({"a": 2})
    assert artifacts.fingerprint({"a": 1}) == "015abd7f5cc57a2d"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "file.bin")
    artifacts.write_bytes(path, b"first")
    artifacts.write_bytes(path, b"second")
    assert artifacts.read_bytes(path) == b"second"
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["file.bin"]


def test_paths_may_be_uris(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/deep/file.json"
    artifacts.write_json(uri, {"a": "ü"})
    assert artifacts.exists(uri)
    assert artifacts.read_json(str(tmp_path / "deep" / "file.json")) == {"a": "ü"}


def test_a_uri_that_no_file_system_opens_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot open nowhere://bucket/x"):
        artifacts.open_filesystem("nowhere://bucket/x")


def test_a_staged_directory_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "model"

    def write_half() -> None:
        with artifacts.staged_directory(str(target)) as folder:
            (folder / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_staged_directory_replaces_what_was_there(tmp_path: Path, prefix: str) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("old")
    with artifacts.staged_directory(f"{prefix}{target}") as folder:
        (folder / "new").write_text("new")
    assert [entry.name for entry in target.iterdir()] == ["new"]


def test_a_finished_artifact_is_found_with_its_summary(tmp_path: Path) -> None:
    directory = str(tmp_path / "step")
    assert artifacts.completed(directory, inputs={"seed": 1}) is None
    artifacts.mark_complete(directory, inputs={"seed": 1}, summary={"rows": 3})
    assert artifacts.completed(directory, inputs={"seed": 1}) == {"rows": 3}


def test_an_artifact_of_other_inputs_is_refused_with_the_difference(tmp_path: Path) -> None:
    directory = str(tmp_path / "step")
    artifacts.mark_complete(directory, inputs={"seed": 1, "views": 3}, summary={})
    with pytest.raises(UsageError) as caught:
        artifacts.completed(directory, inputs={"seed": 2, "views": 3})
    assert str(caught.value) == (
        f"{directory} was made with other settings (seed was 1, is now 2): "
        "give the settings it was made with, or another --run-dir"
    )


def test_json_that_somebody_broke_is_a_failure_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(FailureError, match=r"x.json is not JSON .* delete it and run the command again"):
        artifacts.read_json(str(tmp_path / "x.json"))
    (tmp_path / "y.json").write_text(json.dumps([1]))
    with pytest.raises(FailureError, match="expected a JSON object, found list"):
        artifacts.read_json(str(tmp_path / "y.json"))


def test_a_store_that_does_not_answer_is_a_failure_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreachable:
        def __getattr__(self, name: str) -> object:
            raise OSError("Could not connect\nto the server")

    monkeypatch.setattr(artifacts, "open_filesystem", lambda path: (Unreachable(), path))
    message = "s3://bucket/run: Could not connect to the server"
    for ask in (artifacts.exists, artifacts.delete):
        with pytest.raises(FailureError, match=f"^cannot reach {message}$"):
            ask("s3://bucket/run")
    with pytest.raises(FailureError, match=f"^cannot read {message}$"):
        artifacts.read_json("s3://bucket/run")


def test_a_bucket_that_does_not_exist_is_the_user_s_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    class Store:
        type_name = "s3"

        def get_file_info(self, bucket: str) -> fs.FileInfo:
            if bucket == "secret":
                raise OSError("access denied")
            return fs.FileInfo(bucket, fs.FileType.Directory if bucket == "mine" else fs.FileType.NotFound)

    monkeypatch.setattr(artifacts, "open_filesystem", lambda path: (Store(), path.partition("://")[2]))
    for path in ("s3://mine/run", "s3://secret/run", "/local/run"):
        artifacts.require_bucket(path, flag="--run-dir")
    message = "--run-dir s3://yours/run: expected a place in a bucket that exists, found no bucket yours"
    with pytest.raises(UsageError, match=f"^{message}$"):
        artifacts.require_bucket("s3://yours/run", flag="--run-dir")


def test_a_place_that_cannot_be_written_is_a_failure_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FailureError, match="cannot make the directory"):
        artifacts.write_bytes(str(tmp_path / "file" / "below"), b"x")
