import pytest

from catdog.command_line.settings import fields_of
from catdog.command_line.suggestions import suggest
from catdog.config import PredictConfig, TrainConfig

KNOWN = {
    config_class: {key: field.metadata["also"] for key, field in fields_of(config_class).items()}
    for config_class in (TrainConfig, PredictConfig)
}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--frozen.lr", "--frozen.learning-rate"),
        ("--lr", "--frozen.learning-rate or --unfrozen.learning-rate"),
        ("--learning-rate", "--frozen.learning-rate or --unfrozen.learning-rate"),
        ("--epochs", "--frozen.epochs or --unfrozen.epochs"),
        ("--batch_size", "--frozen.global-batch-size or --unfrozen.global-batch-size"),
        ("--gpus", "--cluster.use-gpu"),
        ("--num-workers", "--cluster.workers"),
        ("--data", "--photos"),
        ("--Input", "--photos"),
        ("--img-size", "--image-size"),
        ("--output-dir", "--run-dir"),
        ("--photoz", "--photos"),
        ("--frozen.epoch", "--frozen.epochs"),
        ("--augmentation.rotation", "--augmentation.rotation-degrees"),
        ("--rotation", "--augmentation.rotation-degrees"),
    ],
)
def test_what_people_type_is_answered_with_the_right_flag(typed: str, meant: str) -> None:
    assert suggest(typed, KNOWN[TrainConfig]) == f"; did you mean {meant}?"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--weights", "--model"),
        ("--batch-size", "--cluster.batch-size"),
        ("--run-dir", "--out"),
        ("--conf", "--threshold"),
    ],
)
def test_each_job_has_its_own_answer(typed: str, meant: str) -> None:
    assert suggest(typed, KNOWN[PredictConfig]) == f"; did you mean {meant}?"


@pytest.mark.parametrize("typed", ["--zzzzzz", "--threads", "--resume", "--network-name", "--cpus"])
def test_where_nothing_is_near_nothing_is_offered(typed: str) -> None:
    assert suggest(typed, KNOWN[PredictConfig]) == ""
