import json
import subprocess
import sys
from pathlib import Path

import pytest
from heard import heard

from catdog.command_line.arguments import parse_arguments
from catdog.command_line.settings import build_config
from catdog.config import IngestConfig, TrainConfig
from catdog.errors import UsageError
from catdog.photos.annotations.corrections import apply_corrections, read_corrections
from catdog.photos.annotations.labelling import read_annotations
from catdog.photos.ingest import ingest
from catdog.storage.run_directory import open_run

ASSIGNED = [(None, "cat"), ("train", "dog"), None]
PATHS = ["/p/a.jpg", "/p/b.jpg", "/p/c.jpg"]


def written(folder: Path, text: str | bytes) -> str:
    path = folder / "corrections.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        "path,label\n/p/a.jpg,dog\n/p/b.jpg,-\n",
        '\ufeffpath,label\r\n"/p/a.jpg","dog"\r\n"/p/b.jpg",""\r\n\r\n',
        "Label;probability;Path\n Dog ;0.9;/p/a.jpg\n'-;0.1;/p/b.jpg\n/",
    ],
)
def test_a_file_of_a_page_or_a_spreadsheet_is_read(tmp_path: Path, text: str) -> None:
    found = read_corrections(written(tmp_path, text.removesuffix("/")))
    assert found.classes == {"/p/a.jpg": "dog", "/p/b.jpg": None}


def test_odd_names_are_read_as_they_are(tmp_path: Path) -> None:
    found = read_corrections(
        written(tmp_path, 'path,label\n"/p/a,""b"".jpg",cat\n\'=x.jpg,cat\n"/p/two\nlines.jpg",cat\n')
    )
    assert list(found.classes) == ['/p/a,"b".jpg', "=x.jpg", "/p/two\nlines.jpg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photo,class\n/p/a.jpg,dog\n", "expected a header with path,label, found photo,class"),
        ("", "expected a header with path,label, found nothing"),
        ("path,label\n", "expected one photo per row, found no row"),
        ("path,label\n/p/a.jpg\n", "row 2: expected 2 columns, found 1"),
        ("path,label\n/p/a.jpg,cat\n/p/a.jpg,dog\n", "row 3: /p/a.jpg has another label in an earlier row"),
        (b"path,label\n\xff\xfe,cat\n", "expected a CSV file in UTF-8"),
    ],
)
def test_a_file_that_says_nothing_clear_is_refused_in_one_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_corrections(written(tmp_path, text))
    assert str(caught.value).startswith(f"--corrections {tmp_path}/corrections.csv: {message}")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_corrections(str(tmp_path / "none.csv"))


def test_classes_are_replaced_photos_left_out_and_strange_paths_counted(tmp_path: Path) -> None:
    text = "path,label\n/p/a.jpg,dog\n/p/b.jpg,dog\n/p/c.jpg,Cat\n/q/z.jpg,cat\n"
    found = apply_corrections(read_corrections(written(tmp_path, text)), PATHS, ASSIGNED, classes=("cat", "dog"))
    assert found.assigned == [(None, "dog"), ("train", "dog"), (None, "cat")]
    assert found.line == (
        "Corrections: 2 photos have another class now, 0 left out; 1 path is not among the photos, such as /q/z.jpg."
    )
    left = read_corrections(written(tmp_path, "path,label\n/p/b.jpg,-\n"))
    assert apply_corrections(left, PATHS, ASSIGNED, classes=("cat", "dog")).left_out == {1}


def test_unknown_classes_and_only_strange_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected labels of cat, dog or -, found bird"):
        apply_corrections(
            read_corrections(written(tmp_path, "path,label\n/p/a.jpg,bird\n")), PATHS, ASSIGNED, classes=("cat", "dog")
        )
    message = r"none of its 1 paths matches a photo, such as x\.jpg; paths of photos look like"
    with pytest.raises(UsageError, match=message):
        apply_corrections(
            read_corrections(written(tmp_path, "path,label\nx.jpg,cat\n")), PATHS, ASSIGNED, classes=("cat", "dog")
        )


def test_an_ingest_with_corrections_has_them_in_its_manifest(
    ray_session: None, photo_folder: Path, tmp_path: Path
) -> None:
    cats = sorted(str(path) for path in (photo_folder / "Cat").glob("*.jpg") if path.stat().st_size)[:3]
    text = f"path,label\n{cats[0]},dog\n{cats[1]},-\n"
    values = {"photos": str(photo_folder), "run_dir": str(tmp_path / "run"), "corrections": written(tmp_path, text),
              "train_per_class": 4, "validation_per_class": 2, "test_per_class": 2}  # fmt: skip
    config = build_config(IngestConfig, values)
    lines: list[str] = []
    manifest = heard(
        lines, ingest, config, run_dir=open_run(config, fingerprints=read_annotations(config).fingerprints())
    )
    classes = dict(zip(manifest.table["path"].to_pylist(), manifest.table["class"].to_pylist(), strict=True))
    assert classes[cats[0]] == "dog"
    assert cats[1] not in classes
    assert classes[cats[2]] == "cat"
    rejected = dict(zip(manifest.rejected["path"].to_pylist(), manifest.rejected["reason"].to_pylist(), strict=True))
    assert rejected[cats[1]] == "left-out: the corrections say so"
    assert lines[0] == "Corrections: 1 photo has another class now, 1 left out."

    def reopen(**changes: str) -> None:
        config = build_config(TrainConfig, {**values, **changes})
        open_run(config, fingerprints=read_annotations(config).fingerprints())

    # A train job on the same run accepts the same file at any path, and no other file.
    moved = tmp_path / "moved.csv"
    moved.write_text(text)
    reopen(corrections=str(moved))
    moved.write_text(f"{text}{cats[2]},dog\n")
    with pytest.raises(UsageError, match=r"was made with other settings \(corrections_fingerprint was"):
        reopen(corrections=str(moved))
    with pytest.raises(UsageError, match=r"was made with other settings \(corrections_fingerprint was"):
        reopen(corrections="")


def test_the_command_ends_with_2_and_one_line_for_a_file_that_is_not_there(photo_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "jobs/ingest.py", "--photos", photo_folder, "--run-dir", tmp_path / "run",
               "--corrections", tmp_path / "none.csv"]  # fmt: skip
    job = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert (job.returncode, job.stderr.count("\n")) == (2, 1)
    assert "none.csv: cannot be read" in job.stderr
    assert not (tmp_path / "run").exists()


def test_the_config_of_an_earlier_version_had_no_name_of_the_file_and_goes_on_with_it(tmp_path: Path) -> None:
    file = written(tmp_path, "path,label\n/p/a.jpg,dog\n")
    fingerprint = read_corrections(file).fingerprint
    recorded = {"photos": "/p", "seed": 0, "train_per_class": 10, "corrections": fingerprint}
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(json.dumps(recorded))
    flags = ["--config", f"{tmp_path}/run/config.json", "--run-dir", f"{tmp_path}/run"]
    with pytest.raises(
        UsageError, match=rf"^--corrections {fingerprint}: .*an earlier version.*give --corrections FILE"
    ):
        read_annotations(parse_arguments(IngestConfig, flags, description=""))
    config = parse_arguments(IngestConfig, [*flags, "--corrections", file], description="")
    assert open_run(config, fingerprints=read_annotations(config).fingerprints()) == f"{tmp_path}/run"
