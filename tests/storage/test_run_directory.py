import json
from pathlib import Path

import pytest

from catdog.command_line.arguments import parse_arguments
from catdog.command_line.settings import build_config, flatten_config
from catdog.config import TrainConfig
from catdog.errors import CatdogError, UsageError
from catdog.storage.run_directory import Stopwatch, default_run_dir, hold_run, open_run


def opened(run_dir: Path) -> str:
    return open_run(build_config(TrainConfig, {"run_dir": str(run_dir)}))


def test_counts_stand_apart_from_seconds_and_both_survive(tmp_path: Path) -> None:
    watch = Stopwatch(str(tmp_path))
    watch.add("trunk", 1.5)
    watch.count("trunk_rows", 100)
    watch.save()
    again = Stopwatch(str(tmp_path))
    again.add("trunk", 0.5)
    again.count("trunk_rows", 28)
    assert (again.seconds, again.counts) == ({"trunk": 2.0}, {"trunk_rows": 128})


def test_a_run_of_an_earlier_version_had_the_count_among_the_seconds(tmp_path: Path) -> None:
    (tmp_path / "seconds.json").write_text('{"start": 2.0, "trunk_rows": 64, "trunk": 1.0}')
    watch = Stopwatch(str(tmp_path))
    assert (watch.seconds, watch.counts) == ({"start": 2.0, "trunk": 1.0}, {"trunk_rows": 64})


def test_somebody_else_s_folder_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.py").write_text("kept")
    with pytest.raises(UsageError, match=rf"^--run-dir {tmp_path}: expected a new or empty folder or a run directory"):
        opened(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "mine.py"]


@pytest.mark.parametrize("content", ["[]", "no JSON", '{"seed": {"mine": [1]}}'])
def test_somebody_else_s_config_in_a_run_directory_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / ".catdog.json").write_text('{"kind": "run"}')
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CatdogError, match=str(tmp_path)) as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "config.json").read_text() == content


def test_a_second_job_on_a_run_directory_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with hold_run(str(tmp_path)):
        with pytest.raises(UsageError, match=r"--run-dir .*: another job is using it"), hold_run(str(tmp_path)):
            pass
        assert json.loads((tmp_path / ".catdog.json").read_text())["kind"] == "run"
    with hold_run(str(tmp_path)):
        pass
    assert opened(tmp_path) == str(tmp_path)


def test_a_run_of_an_earlier_version_resumes_with_its_own_config_and_not_with_the_new_defaults(tmp_path: Path) -> None:
    recorded = flatten_config(TrainConfig(), identity_only=True)
    for name in ("frozen.head", "class_weights", "resize", "resampling", "image_size", "augmentation.mirror_pairs"):
        del recorded[name]
    (tmp_path / "config.json").write_text(json.dumps({**recorded, "photos": "", "corrections": ""}))
    with pytest.raises(
        UsageError, match=r'frozen.head was "epochs", is now "logistic".*--config .*/config.json'
    ) as told:
        open_run(parse_arguments(TrainConfig, ["--run-dir", str(tmp_path)], description=""))
    assert 'resize was "squash", is now "crop"' in str(told.value)
    flags = ["--config", f"{tmp_path}/config.json", "--run-dir", str(tmp_path)]
    assert open_run(parse_arguments(TrainConfig, flags, description="")) == str(tmp_path)


def test_a_run_without_a_name_is_called_as_its_photos_are() -> None:
    photos = ("a/Pets.zip", "s3://b/pets?region=x.y/z", "")
    found = [default_run_dir(build_config(TrainConfig, {"photos": one})) for one in photos]
    assert found == ["runs/Pets", "runs/pets", "runs/sample"]
