"""The sources of the values of trials: the plan and the searchers."""

from __future__ import annotations

from typing import Any

import pytest
from ray.tune.search import Searcher

from catdog.config import TrainConfig
from catdog.tuning.search import TrialSource, make_searcher
from catdog.tuning.space import parse_space

SPACE = parse_space(
    TrainConfig,
    {
        "frozen.c": "loguniform:1e-3,1",
        "frozen.epochs": "randint:2,5",
        "frozen.head": "choice:logistic,epochs",
        "frozen.learning_rate": "loguniform:1e-4,1e-2 if frozen.head=epochs",
    },
)


def suggest(source: TrialSource, count: int) -> list[dict[str, Any]]:
    found = []
    for index in range(count):
        values = source.suggest(f"trial{index}")
        assert isinstance(values, dict)
        found.append(values["values"])
        source.on_trial_complete(f"trial{index}", {"objective": found[-1]["frozen.c"], "stage": "frozen"})
    return found


def test_planned_trials_come_first_by_number_and_then_the_source_ends() -> None:
    source = TrialSource(SPACE, {3: {"frozen.c": 0.1}, 5: {"frozen.c": 0.2}})
    assert suggest(source, 2) == [{"frozen.c": 0.1}, {"frozen.c": 0.2}]
    assert source.numbers == {"trial0": 3, "trial1": 5}
    assert source.suggest("trial2") == Searcher.FINISHED


@pytest.mark.parametrize("name", ["optuna", "hyperopt"])
def test_a_searcher_stays_in_the_space_in_values_that_can_be_typed_and_is_seeded(name: str) -> None:
    pytest.importorskip(name)

    def draw(seed: int) -> list[dict[str, Any]]:
        searcher = make_searcher(name, SPACE, done={}, seed=seed, metric="val_loss")
        source = TrialSource(SPACE, {0: {"frozen.c": 0.0}}, searcher=searcher, numbers=range(1, 21))
        return suggest(source, 21)

    found = draw(0)
    assert found == draw(0)
    assert found != draw(1)
    for values in found[1:]:
        assert 1e-3 <= values["frozen.c"] <= 1
        assert len(f"{values['frozen.c']:g}".replace("0.", "").lstrip("0")) <= 6
        assert values["frozen.epochs"] in (2, 3, 4, 5)
        assert ("frozen.learning_rate" in values) == (values["frozen.head"] == "epochs")
    # The searcher has learnt that a small C gives a better objective here.
    assert sum(values["frozen.c"] < 0.1 for values in found[11:]) >= 6


def test_a_search_by_optuna_resumes_from_the_records() -> None:
    pytest.importorskip("optuna")
    space = {"frozen.c": SPACE["frozen.c"]}
    done = {
        number: {"number": number, "values": {"frozen.c": c}, "validation": {"loss": c, "accuracy": 0.5}}
        for number, c in enumerate([0.0, 0.9, 0.5, 0.1, 0.01, 0.002, 0.0011, 0.3, 0.7, 0.8])
    }
    searcher = make_searcher("optuna", space, done=done, seed=0, metric="val_loss")
    found = suggest(TrialSource(space, {}, searcher=searcher, numbers=range(10, 20)), 10)
    assert sum(values["frozen.c"] < 0.05 for values in found) >= 7
