from pathlib import Path

import pytest

from catdog.command_line.arguments import parse_arguments
from catdog.command_line.config_file import read_config_file
from catdog.config import PredictConfig, TrainConfig, TuneConfig
from catdog.errors import UsageError
from catdog.storage.run_directory import record_config


def write(folder: Path, text: str) -> str:
    path = folder / "settings.yaml"
    path.write_text(text)
    return str(path)


def test_settings_may_be_dotted_or_nested_and_are_read_as_flags_are(tmp_path: Path) -> None:
    text = "photos: ünter/2024\nfrozen.epochs: 3\ncluster:\n  use_gpu: no\n"
    text += "unfrozen: {learning-rate: 3e-4, train_batch_norm: yes}\n"
    assert read_config_file(write(tmp_path, text), TrainConfig) == {
        "photos": "ünter/2024",
        "frozen.epochs": 3,
        "unfrozen.learning_rate": 3e-4,
        "unfrozen.train_batch_norm": True,
        "cluster.use_gpu": "no",
    }


def test_a_space_is_a_table_in_the_file(tmp_path: Path) -> None:
    text = "space:\n  dropout: uniform:0,0.5\n  frozen.learning-rate: loguniform:1e-4,1e-2\n"
    assert read_config_file(write(tmp_path, text), TuneConfig)["space"] == (
        "dropout=uniform:0,0.5",
        "frozen.learning_rate=loguniform:1e-4,1e-2",
    )


def test_a_list_may_be_one_text(tmp_path: Path) -> None:
    assert read_config_file(write(tmp_path, "model: runs/a"), PredictConfig) == {"model": ("runs/a",)}
    assert read_config_file(write(tmp_path, "model: [a, b]"), PredictConfig) == {"model": ("a", "b")}


def test_a_flag_wins_over_the_file_and_the_file_over_the_recipe(tmp_path: Path) -> None:
    path = write(tmp_path, "recipe: article\nviews: 2\ndropout: 0.3\n")
    config = parse_arguments(TrainConfig, ["--config", path, "--dropout", "0.4"], description="")
    assert (config.backbone, config.views, config.dropout) == ("efficientnet-b0", 2, 0.4)


def test_what_a_run_records_builds_the_same_config_again(tmp_path: Path) -> None:
    flags = ["--recipe", "article", "--space.dropout", "uniform:0,1", "--frozen.epochs", "3"]
    config = parse_arguments(TuneConfig, [*flags, "--corrections", f"{tmp_path}/wrong.csv"], description="")
    record_config(config, run_dir=str(tmp_path), fingerprints={"corrections": "ab12"})
    assert "ab12" in (tmp_path / "config.json").read_text()
    assert parse_arguments(TuneConfig, ["--config", f"{tmp_path}/config.json"], description="") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dropuot: 1", "there is no setting dropuot; did you mean dropout?"),
        ("frozen: {lr: 1}", "there is no setting frozen.lr; did you mean frozen.learning_rate?"),
        ("dropout: 2", "dropout: expected a number from 0 to 0.99, found 2.0"),
        ("dropout: [1, 2]", "dropout: expected a number, found ['1', '2']"),
        ("frozen: 3", "there is no setting frozen; did you mean frozen."),
        ("- a", "expected a table of settings such as `dropout: 0.3`, found no table"),
        ("", "expected a table of settings such as `dropout: 0.3`, found no table"),
        ("[" * 600, "expected YAML of settings: maximum recursion depth exceeded"),
        ("frozen.epochs: 3\nfrozen: {epochs: 4}", "frozen.epochs is set twice: keep one of them"),
        ("image-size: 64\nimage_size: 96", "image_size is set twice: keep one of them"),
        ("a: [", "expected YAML of settings: while parsing a flow node"),
    ],
)
def test_a_wrong_file_is_one_line_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        read_config_file(path, TrainConfig)
    assert str(caught.value).startswith(f"--config {path}: {message}")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    Path(tmp_path, "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("missing", "", "binary"):
        with pytest.raises(UsageError, match=r"--config .*: cannot be read"):
            read_config_file(f"{tmp_path}/{name}", TrainConfig)
