import math

import pytest

from catdog.command_line.arguments import parse_arguments
from catdog.config import TrainConfig, TuneConfig
from catdog.errors import UsageError
from catdog.tuning.space import DEFAULT_SPACE, check_trials, draw_trial, parse_space


def draws(texts: dict[str, str], trials: int, *, seed: int = 0) -> list[dict[str, object]]:
    space = parse_space(TrainConfig, texts)
    return [draw_trial(space, number, seed=seed) for number in range(trials)]


def test_the_default_space_is_the_two_learning_rates_and_dropout() -> None:
    found = draws(DEFAULT_SPACE, 500)
    assert all(set(trial) == {"frozen.learning_rate", "unfrozen.learning_rate", "dropout"} for trial in found)
    assert all(0 <= trial["dropout"] <= 0.5 and 3e-4 <= trial["frozen.learning_rate"] <= 3e-2 for trial in found)


def test_a_uniform_range_is_even_and_a_logarithmic_one_even_in_its_exponent() -> None:
    found = draws({"dropout": "uniform:0,0.4", "frozen.learning_rate": "loguniform:1e-4,1e-2"}, 2000)
    assert sum(trial["dropout"] < 0.1 for trial in found) == pytest.approx(500, abs=80)
    assert sum(math.log10(trial["frozen.learning_rate"]) < -3 for trial in found) == pytest.approx(1000, abs=100)


def test_a_trial_s_values_depend_on_seed_and_number_alone() -> None:
    assert draws(DEFAULT_SPACE, 8)[:4] == draws(DEFAULT_SPACE, 4)
    assert draws(DEFAULT_SPACE, 4) != draws(DEFAULT_SPACE, 4, seed=1)
    shuffled = dict(reversed(DEFAULT_SPACE.items()))
    assert draws(shuffled, 4) == draws(DEFAULT_SPACE, 4)


def test_a_choice_is_drawn_and_a_grid_is_gone_through() -> None:
    texts = {
        "frozen.optimizer": "choice:adam,sgd",
        "frozen.global_batch_size": "grid:16,32",
        "frozen.epochs": "grid:2,3,4",
    }
    found = draws(texts, 12)
    assert {trial["frozen.optimizer"] for trial in found} == {"adam", "sgd"}
    points = [(trial["frozen.global_batch_size"], trial["frozen.epochs"]) for trial in found]
    assert points == [(16, 2), (16, 3), (16, 4), (32, 2), (32, 3), (32, 4)] * 2
    with pytest.raises(UsageError, match="--trials 5: expected at least 6, the points of the grid"):
        check_trials(parse_space(TrainConfig, texts), 5)


def test_whole_numbers_and_switches_keep_their_type() -> None:
    texts = {"frozen.epochs": "uniform:2,9", "unfrozen.train_batch_norm": "choice:true,false"}
    found = draws(texts, 50)
    assert {type(trial["frozen.epochs"]) for trial in found} == {int}
    assert {trial["unfrozen.train_batch_norm"] for trial in found} == {True, False}


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("droput", "uniform:0,1", "--space.droput: there is no setting droput; did you mean --space.dropout?"),
        ("dropout", "normal:0,1", "--space.dropout: expected uniform:LOW,HIGH, loguniform:LOW,HIGH"),
        ("dropout", "0.5", "--space.dropout: expected uniform:LOW,HIGH"),
        ("dropout", "uniform:0.5", "--space.dropout: expected two numbers, LOW,HIGH, found 'uniform:0.5'"),
        ("dropout", "uniform:0.5,0.1", "--space.dropout: expected LOW below HIGH, found"),
        ("dropout", "uniform:0,2", "--space.dropout: expected a number from 0 to 0.99, found 2.0"),
        ("dropout", "uniform:a,b", "--space.dropout: expected a number, found 'a'"),
        ("dropout", "grid:0.1,0.1", "--space.dropout: expected different values"),
        ("dropout", "loguniform:0,0.5", "--space.dropout: expected LOW below HIGH, both over 0"),
        (
            "frozen.optimizer",
            "choice:adam,adm",
            "--space.frozen.optimizer: expected one of adam, rmsprop, sgd, found 'adm'",
        ),
        ("photos", "choice:a,b", "--space.photos: all trials of a sweep share it"),
        ("cluster.workers", "choice:1,2", "--space.cluster.workers: all trials of a sweep share it"),
    ],
)
def test_a_domain_that_is_none_is_refused_in_one_line(key: str, text: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_space(TrainConfig, {key: text})
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_the_command_line_takes_a_domain_for_any_knob() -> None:
    arguments = [
        "--space.dropout",
        "uniform:0,0.5",
        "--space.frozen.learning-rate=loguniform:1e-5,1e-2",
        "--trials",
        "4",
    ]
    config = parse_arguments(TuneConfig, arguments, description="tune")
    assert config.space == ("dropout=uniform:0,0.5", "frozen.learning_rate=loguniform:1e-5,1e-2")
    assert config.trials == 4
    with pytest.raises(UsageError, match="--trials: expected a number from 1 to 100000, found 0"):
        parse_arguments(TuneConfig, ["--trials", "0"], description="tune")
