import errno
import json
import os
import tempfile
from pathlib import Path

import pytest
from object_store import ObjectStore
from pyarrow import fs

from catdog.errors import FailureError, UsageError
from catdog.storage import files, outages


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "file.bin")
    files.write_bytes(path, b"first")
    files.write_bytes(path, b"second")
    assert files.read_bytes(path) == b"second"
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["file.bin"]


def test_paths_may_be_uris(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/deep/file.json"
    files.write_json(uri, {"a": "ü"})
    assert files.exists(uri)
    assert files.read_json(str(tmp_path / "deep" / "file.json")) == {"a": "ü"}


def test_a_uri_that_no_file_system_opens_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot open nowhere://bucket/x"):
        files.open_filesystem("nowhere://bucket/x")


def test_a_uri_keeps_its_query_last() -> None:
    run = "s3://bucket/run?region=eu-central-1"
    assert files.join(run, "model", "card.json") == "s3://bucket/run/model/card.json?region=eu-central-1"
    assert files.absolute("s3://bucket/run/?region=eu-central-1") == run
    assert files.join("/data/what?", "x") == "/data/what?/x"


@pytest.mark.parametrize("inside", ["", "/run", "/run/a%20b.jpg", "/run/50%25"])
def test_a_file_system_is_opened_once_for_all_paths_of_a_host(inside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    from_uri = fs.FileSystem.from_uri
    counting = type("Counting", (), {"from_uri": lambda uri: opened.append(uri) or from_uri(uri)})
    monkeypatch.setattr(files.fs, "FileSystem", counting)
    host, query = f"s3://bucket-{len(inside)}", "?region=us-east-1&endpoint_override=127.0.0.1:1"
    system, found = files.open_filesystem(host + inside + query)
    assert found == from_uri(host + inside + query)[1]
    assert files.open_filesystem(f"{host}/other{query}")[0] is system
    assert opened == [f"{host}/{query}&allow_delayed_open=true"]


@pytest.mark.parametrize(
    ("uri", "shown", "instead"),
    [
        ("s3://AKIA:s3cr3t@bucket/run", "s3://…@bucket: ", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("s3://bucket/run?secret_key=s3cr3t&region=x", "s3://…@bucket: ", "AWS_ACCESS_KEY_ID"),
        ("abfss://account:s3cr3t@host/run", "abfss://…@host: ", "AZURE_STORAGE_KEY"),
    ],
)
def test_a_uri_that_holds_a_key_is_refused_and_not_shown(uri: str, shown: str, instead: str) -> None:
    for use in (files.open_filesystem, files.exists, files.read_json):
        with pytest.raises(UsageError, match="expected a URI without keys or passwords") as caught:
            use(uri)
        assert str(caught.value).startswith(shown)
        assert instead in str(caught.value).partition("give them as ")[2]
        assert "s3cr3t" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_a_write_that_fails_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(FailureError, match=r"cannot write .*/x\.bin: \[Errno 28\] No space left on device"):
        files.write_bytes(str(tmp_path / "x.bin"), b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_durable_write_is_synced_before_and_after_its_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink()))
    files.write_bytes(str(tmp_path / "x.bin"), b"x")
    assert synced == []
    files.write_bytes(str(tmp_path / "x.bin"), b"y", durable=True)
    assert [path.name[:6] for path in synced] == ["x.bin.", tmp_path.name[:6]]
    assert synced[1] == tmp_path


def test_a_staged_directory_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "model"

    def write_half() -> None:
        with files.staged_directory(str(target)) as folder:
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
    with files.staged_directory(f"{prefix}{target}") as folder:
        (folder / "new").write_text("new")
    assert [entry.name for entry in target.iterdir()] == ["new"]


def test_json_that_somebody_broke_is_a_failure_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(FailureError, match=r"x.json is not JSON .* delete it and run the command again"):
        files.read_json(str(tmp_path / "x.json"))
    (tmp_path / "y.json").write_text(json.dumps([1]))
    with pytest.raises(FailureError, match="expected a JSON object, found list"):
        files.read_json(str(tmp_path / "y.json"))


def test_a_store_that_does_not_answer_is_a_failure_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreachable:
        def __getattr__(self, name: str) -> object:
            raise OSError("Could not connect\nto the server")

    monkeypatch.setattr(files, "open_filesystem", lambda path: (Unreachable(), path))
    message = "s3://bucket/run: Could not connect to the server"
    for ask in (files.exists, files.delete):
        with pytest.raises(FailureError, match=f"^cannot reach {message}$"):
            ask("s3://bucket/run")
    with pytest.raises(FailureError, match=f"^cannot read {message}$"):
        files.read_json("s3://bucket/run")


def test_a_bucket_that_does_not_exist_is_the_user_s_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    class Store:
        type_name = "s3"

        def get_file_info(self, bucket: str) -> fs.FileInfo:
            if bucket == "secret":
                raise OSError("access denied")
            return fs.FileInfo(bucket, fs.FileType.Directory if bucket == "mine" else fs.FileType.NotFound)

    monkeypatch.setattr(files, "open_filesystem", lambda path: (Store(), path.partition("://")[2]))
    for path in ("s3://mine/run", "s3://secret/run", "/local/run"):
        files.require_bucket(path, flag="--run-dir")
    message = "--run-dir s3://yours/run: expected a place in a bucket that exists, found no bucket yours"
    with pytest.raises(UsageError, match=f"^{message}$"):
        files.require_bucket("s3://yours/run", flag="--run-dir")


def test_a_place_that_cannot_be_written_is_a_failure_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FailureError, match=r"^cannot write .*/file/below: .*File exists"):
        files.write_bytes(str(tmp_path / "file" / "below"), b"x")


# Object stores


def test_a_small_file_is_one_request_to_write_and_two_to_read(object_store: ObjectStore) -> None:
    path = object_store.uri("files/small.bin")
    files.write_bytes(path, b"x" * 300_000)
    object_store.requests.clear()
    files.write_bytes(path, b"y" * 300_000)
    assert object_store.requests == {"PUT": 1}
    object_store.requests.clear()
    assert files.read_bytes(path) == b"y" * 300_000
    assert object_store.requests == {"HEAD": 1, "GET": 1}


def test_an_object_store_is_written_to_without_markers_of_directories(object_store: ObjectStore) -> None:
    files.make_directory(object_store.uri("nothing/below"))
    files.write_json(object_store.uri("json/a/b.json"), {"a": "ü"})
    with files.staged_directory(object_store.uri("json/model")) as folder:
        (folder / "card.json").write_text("{}")
    assert object_store.keys("nothing") == []
    assert object_store.keys("json") == ["a/b.json", "model/card.json"]
    assert list(files.list_directory(object_store.uri("json"))) == ["a", "model"]
    assert files.is_object_store(object_store.uri("json"))
    files.delete(object_store.uri("json/model"))
    assert not files.exists(object_store.uri("json/model"))


def test_a_busy_object_store_is_asked_again(object_store: ObjectStore) -> None:
    with object_store.busy():
        for number in range(10):
            files.write_bytes(object_store.uri(f"busy/{number}"), str(number).encode())
        assert [files.read_bytes(object_store.uri(f"busy/{number}")) for number in range(10)] == [
            str(number).encode() for number in range(10)
        ]


def test_an_object_store_that_is_gone_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "PATIENCE_SECONDS", 0.0)
    store = ObjectStore()
    store.close()
    message = r"cannot reach s3://\S+ for 0 s: .*NETWORK_CONNECTION.*; run the same command to resume$"
    with pytest.raises(FailureError, match=message) as caught:
        files.write_bytes(store.uri("x"), b"x")
    assert "\n" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_told_by_the_store_itself(object_store: ObjectStore) -> None:
    files.require_bucket(object_store.uri("run"), flag="--run-dir")
    with pytest.raises(UsageError, match=r"found no bucket photos-of-nobody$"):
        files.require_bucket(object_store.uri("run").replace("photos-of-pets", "photos-of-nobody"), flag="--run-dir")


def test_a_full_folder_of_temporary_files_is_one_line(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def stage() -> None:
        with files.staged_directory(object_store.uri("full/model")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(FailureError, match=rf"cannot write to the folder {tmp_path}: .* set TMPDIR to another folder$"):
        stage()
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_deleted_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Guarded:
        type_name = "local"

        def get_file_info(self, path: str) -> fs.FileInfo:
            return fs.FileInfo(path, fs.FileType.Directory)

        def delete_dir(self, path: str) -> None:
            raise PermissionError("no\npermission")

    monkeypatch.setattr(files, "open_filesystem", lambda path: (Guarded(), path))
    with pytest.raises(FailureError, match=r"^cannot delete /run: no permission$"):
        files.delete("/run")


def test_json_keeps_arguments_that_are_no_utf_8(tmp_path: Path) -> None:
    for text in ("café", "caf\udce9"):
        files.write_json(str(tmp_path / "x.json"), {"photos": text})
        assert files.read_json(str(tmp_path / "x.json")) == {"photos": text}
        assert ("é" in (tmp_path / "x.json").read_text()) == (text == "café")
