import re

import pytest

from catdog.command_line.arguments import as_flags, parse_arguments
from catdog.command_line.settings import fields_of, flag_of
from catdog.config import TrainConfig
from catdog.errors import UsageError


def parse(*arguments: str) -> TrainConfig:
    return parse_arguments(TrainConfig, arguments, description="train")


def test_a_flag_wins_over_its_recipe() -> None:
    config = parse("--recipe", "article", "--frozen.epochs", "3", "--no-augmentation.horizontal-flip")
    assert (config.frozen.epochs, config.unfrozen.epochs) == (3, 200)
    assert config.augmentation.horizontal_flip is False


def test_the_command_line_of_a_config_builds_it_again() -> None:
    arguments = ["--recipe", "article", "--photos", "a b", "--unfrozen.patience", "4", "--no-augment-validation"]
    config = parse(*arguments)
    assert as_flags(config) == [
        "--recipe", "article", "--photos", "a b", "--no-augment-validation", "--unfrozen.patience", "4",
    ]  # fmt: skip
    assert parse(*as_flags(config)) == config


def test_a_value_may_begin_with_a_dash() -> None:
    config = parse("--input-scaling", "-1..1", "--train-per-class", "-1", "--photos", "-odd name")
    assert (config.input_scaling, config.train_per_class, config.photos) == ("-1..1", -1, "-odd name")
    assert parse(*as_flags(config)) == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--photoz", "x"], "there is no argument --photoz; did you mean --photos? (--help lists them all)"),
        (["--versoin"], "there is no argument --versoin; did you mean --version? (--help lists them all)"),
        (["PetImages"], "expected flags, found 'PetImages'; did you mean --photos PetImages?"),
        (["\u2014photos", "x"], "found \u2014photos, which begins with a typographic dash: write --photos"),
        (["--dropout", "2"], "--dropout: expected a number from 0 to 0.99, found 2.0"),
        (["--dropout", "nan"], "--dropout: expected a number from 0 to 0.99, found nan"),
        (["--dropout", "much"], "--dropout: expected a number, found 'much'"),
        (["--dropout"], "--dropout: expected one argument"),
        (["--train-per-class", "-2"], "--train-per-class: expected a number at least -1, found -2"),
        (["--pooling", "mx"], "--pooling: expected one of max, avg, found 'mx'; did you mean max?"),
        (["--cluster.use-gpu", "maybe"], "--cluster.use-gpu: expected one of auto, yes, no, found 'maybe'"),
        (["--recipe", "nonsense"], "--recipe: expected one of default, accurate, fast, article, found 'nonsense'"),
        (["--recipe"], "--recipe: expected one argument"),
    ],
)
def test_a_wrong_flag_is_one_line_that_says_what_to_do(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(*arguments)
    assert str(caught.value) == message


def shown_by(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        parse(*arguments)
    assert stopped.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_shows_the_defaults_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert "0: a fresh one every epoch [1]" in shown_by(capsys, "--help")
    assert "0: a fresh one every epoch [0]" in shown_by(capsys, "--recipe", "article", "--help")


def test_help_has_a_line_for_every_setting_under_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown_by(capsys, "--help")
    for key, field in fields_of(TrainConfig).items():
        assert flag_of(key) in text
        assert field.metadata["help"] in text
    titles = ["photos", "output", "model", "features", "augmentation", "frozen", "unfrozen", "cluster", "this command"]
    assert [title for title in titles if f" {title}: --" in text] == titles


def test_the_version_is_told_with_those_of_ray_and_tensorflow(capsys: pytest.CaptureFixture[str]) -> None:
    three = r"\d+\.\d+\.\d+"
    assert re.fullmatch(
        rf"catdog {three} \(Python {three}, Ray {three}, TensorFlow {three}\)", shown_by(capsys, "--version")
    )
