import math

import pytest

from catdog.command_line.arguments import parse_arguments
from catdog.config import TrainConfig, TuneConfig
from catdog.errors import UsageError
from catdog.tuning.space import check_trials, draw_trial, parse_space

TEXTS = {"dropout": "uniform:0,0.5", "frozen.learning_rate": "loguniform:3e-4,3e-2"}


def draws(texts: dict[str, str], trials: int, *, seed: int = 0) -> list[dict[str, object]]:
    space = parse_space(TrainConfig, texts)
    return [draw_trial(space, number, seed=seed) for number in range(1, trials + 1)]


def test_a_uniform_range_is_even_and_a_logarithmic_one_even_in_its_exponent() -> None:
    found = draws({"dropout": "uniform:0,0.4", "frozen.learning_rate": "loguniform:1e-4,1e-2"}, 2000)
    assert sum(trial["dropout"] < 0.1 for trial in found) == pytest.approx(500, abs=80)
    assert sum(math.log10(trial["frozen.learning_rate"]) < -3 for trial in found) == pytest.approx(1000, abs=100)


def test_a_trial_s_values_depend_on_seed_and_number_alone() -> None:
    assert draws(TEXTS, 8)[:4] == draws(TEXTS, 4)
    assert draws(TEXTS, 4) != draws(TEXTS, 4, seed=1)
    shuffled = dict(reversed(TEXTS.items()))
    assert draws(shuffled, 4) == draws(TEXTS, 4)


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
    with pytest.raises(UsageError, match="--trials 6: expected at least 7, the points of the grid and the default"):
        check_trials(parse_space(TrainConfig, texts), 6)


def test_whole_numbers_steps_and_switches_keep_their_type() -> None:
    texts = {
        "frozen.epochs": "randint:2,4",
        "frozen.global_batch_size": "lograndint:8,64",
        "unfrozen.patience": "quniform:2,10,4",
        "dropout": "quniform:0.1,0.5,0.2",
        "unfrozen.train_batch_norm": "choice:true,false",
    }
    found = draws(texts, 300)
    assert {trial["frozen.epochs"] for trial in found} == {2, 3, 4}
    assert {trial["unfrozen.patience"] for trial in found} == {2, 6, 10}
    assert {trial["dropout"] for trial in found} == {0.1, 0.3, 0.5}
    assert {trial["unfrozen.train_batch_norm"] for trial in found} == {True, False}
    sizes = [trial["frozen.global_batch_size"] for trial in found]
    assert {type(size) for size in sizes} == {int}
    assert (min(sizes), max(sizes)) >= (8, 60)
    assert sum(size < 23 for size in sizes) == pytest.approx(150, abs=30)


def test_a_conditional_setting_is_there_only_where_it_matters() -> None:
    texts = {
        "frozen.optimizer": "choice:adam,rmsprop,sgd",
        "frozen.learning_rate": "loguniform:1e-2,1 if frozen.optimizer=sgd|rmsprop",
    }
    found = draws(texts, 60)
    assert all(("frozen.learning_rate" in trial) == (trial["frozen.optimizer"] != "adam") for trial in found)
    assert {trial["frozen.optimizer"] for trial in found} == {"adam", "rmsprop", "sgd"}


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("droput", "uniform:0,1", "--space.droput: there is no setting droput; did you mean --space.dropout?"),
        ("dropout", "normal:0,1", "--space.dropout: expected one of uniform:LOW,HIGH, loguniform:LOW,HIGH"),
        ("dropout", "0.5", "--space.dropout: expected one of uniform:LOW,HIGH"),
        ("dropout", "uniform:0.5", "--space.dropout: expected two numbers, LOW,HIGH, found 'uniform:0.5'"),
        ("dropout", "quniform:0,0.5", "--space.dropout: expected three numbers, LOW,HIGH,STEP, found"),
        ("dropout", "quniform:0,0.5,0", "--space.dropout: expected a STEP between 0 and HIGH - LOW, found"),
        ("dropout", "randint:0,0.5", "--space.dropout: expected uniform or loguniform, because it is not a whole"),
        ("dropout", "uniform:0.5,0.1", "--space.dropout: expected LOW below HIGH, found"),
        ("dropout", "uniform:0,2", "--space.dropout: expected a number from 0 to 0.99, found 2.0"),
        ("dropout", "uniform:a,b", "--space.dropout: expected a number, found 'a'"),
        ("dropout", "grid:0.1,0.1", "--space.dropout: expected different values"),
        ("dropout", "loguniform:0,0.5", "--space.dropout: expected LOW below HIGH, both over 0"),
        ("dropout", "uniform:0,0.5 if", "--space.dropout: expected a number, found '0.5 if'"),
        ("dropout", "uniform:0,0.5 if views", "--space.dropout: expected DOMAIN if SETTING=VALUE"),
        ("dropout", "uniform:0,0.5 if pooling=avg", "--space.dropout: expected pooling to vary too, as choice"),
        (
            "pooling",
            "uniform:0,1",
            "--space.pooling: expected choice:A,B,… or grid:A,B,…, because the setting is not a number",
        ),
        (
            "frozen.optimizer",
            "choice:adam,adm",
            "--space.frozen.optimizer: expected one of adam, rmsprop, sgd, found 'adm'",
        ),
        ("photos", "choice:a,b", "--space.photos: it cannot vary within a sweep"),
        ("cluster.workers", "choice:1,2", "--space.cluster.workers: it cannot vary within a sweep"),
    ],
)
def test_a_domain_that_is_none_is_refused_in_one_line(key: str, text: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_space(TrainConfig, {key: text})
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_the_command_line_takes_a_domain_for_any_setting() -> None:
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
