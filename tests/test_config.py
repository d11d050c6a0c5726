import subprocess
import sys

import pytest

from catdog.config import IngestConfig, TrainConfig, build_config, command_line, flatten_config, parse_arguments
from catdog.errors import UsageError


def parse(*arguments: str) -> TrainConfig:
    return parse_arguments(TrainConfig, arguments, description="train")


def test_the_article_recipe_is_the_article_s() -> None:
    config = parse("--recipe", "article")
    assert (config.backbone, config.input_scaling, config.pooling) == ("efficientnet-b0", "1/255", "max")
    assert (config.train_per_class, config.validation_per_class, config.test_per_class) == (1000, 500, 0)
    assert (config.dropout, config.views, config.augment_validation) == (0.2, 0, True)
    for stage, epochs in ((config.frozen, 100), (config.unfrozen, 200)):
        assert (stage.epochs, stage.optimizer, stage.learning_rate, stage.global_batch_size) == (
            epochs,
            "rmsprop",
            2e-5,
            16,
        )
    assert config.unfrozen.unfreeze_from == "block7a_project_conv"
    augmentation = config.augmentation
    assert (augmentation.rotation_degrees, augmentation.shear_degrees, augmentation.zoom_fraction) == (40.0, 0.2, 0.2)
    assert (augmentation.width_shift_fraction, augmentation.height_shift_fraction) == (0.2, 0.2)
    assert augmentation.horizontal_flip is True


def test_a_flag_wins_over_its_recipe() -> None:
    config = parse("--recipe", "article", "--frozen.epochs", "3", "--no-augmentation.horizontal-flip")
    assert (config.frozen.epochs, config.unfrozen.epochs) == (3, 200)
    assert config.augmentation.horizontal_flip is False


def test_the_command_line_of_a_config_builds_it_again() -> None:
    arguments = ["--recipe", "article", "--photos", "a b", "--unfrozen.patience", "4", "--no-augment-validation"]
    config = parse(*arguments)
    assert command_line(config) == [
        "--recipe", "article", "--photos", "a b", "--no-augment-validation", "--unfrozen.patience", "4",
    ]  # fmt: skip
    assert parse(*command_line(config)) == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--photoz", "x"], "there is no argument --photoz; did you mean --photos? (--help lists them all)"),
        (["--dropout", "2"], "--dropout: expected a number from 0 to 0.99, found 2.0"),
        (["--dropout", "nan"], "--dropout: expected a number from 0 to 0.99, found nan"),
        (["--dropout", "much"], "argument --dropout: invalid float value: 'much'"),
        (["--train-per-class", "0"], "--train-per-class: expected a number at least 1, found 0"),
        (
            ["--pooling", "mx"],
            "--pooling: expected one of max, avg, found 'mx'; did you mean max?",
        ),
        (["--cluster.use-gpu", "maybe"], "--cluster.use-gpu: expected one of auto, yes, no, found 'maybe'"),
    ],
)
def test_a_wrong_flag_is_one_line_that_says_what_to_do(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(*arguments)
    assert str(caught.value) == message


def test_an_unknown_knob_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match=r"there is no setting --frozen\.epoch; did you mean --frozen\.epochs\?"):
        build_config(TrainConfig, {"frozen.epoch": 3})


def test_where_a_run_goes_and_what_of_the_cluster_it_uses_do_not_change_its_identity() -> None:
    identity = flatten_config(TrainConfig(), identity_only=True)
    assert not {"run_dir", "verbose", "cluster.workers", "cache_budget_gib"} & identity.keys()
    assert {"dropout", "frozen.learning_rate", "seed", "augmentation.zoom_fraction"} <= identity.keys()


def test_every_knob_has_a_reason_in_help() -> None:
    shown = subprocess.run(
        [sys.executable, "jobs/train.py", "--help"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    for key in flatten_config(TrainConfig()):
        assert "--" + key.replace("_", "-") in shown
    assert "ingest" not in flatten_config(IngestConfig())


def test_help_never_imports_tensorflow_or_ray() -> None:
    program = (
        "import runpy, sys; sys.argv = ['train.py', '--help']\n"
        "try: runpy.run_path('jobs/train.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({'tensorflow', 'ray', 'cv2', 'pyarrow'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.splitlines()[-1] == "[]"
