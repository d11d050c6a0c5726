"""How much each setting mattered, on objectives with a known answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from catdog.config import TrainConfig
from catdog.tuning.report import importance
from catdog.tuning.report.importance import measure_importance
from catdog.tuning.space import draw_trial, parse_space

SPACE = parse_space(
    TrainConfig, {"frozen.c": "loguniform:1e-4,1", "dropout": "uniform:0,0.5", "pooling": "choice:avg,max"}
)


def trials(count: int) -> list[dict[str, Any]]:
    found = []
    for number in range(1, count + 1):
        values = draw_trial(SPACE, number, seed=0)
        loss = (np.log10(values["frozen.c"]) + 2) ** 2 + (0.1 if values["pooling"] == "max" else 0.0)
        scores = {"loss": float(loss), "accuracy": 0.9}
        found.append({"number": number, "values": values, "status": "finished", "validation": scores})
    return found


@pytest.mark.parametrize("installed", [True, False])
def test_the_setting_that_decides_has_the_greatest_share(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if installed:
        pytest.importorskip("optuna")
    else:
        monkeypatch.setattr(importance.importlib.util, "find_spec", lambda name: None)
    default = {"frozen.c": 0.0, "dropout": 0.2, "pooling": "avg"}  # outside the logarithmic range
    first = {"number": 0, "values": default, "validation": {"loss": 0.0, "accuracy": 0.9}}
    chosen = {**first, "number": 41, "stages": {"frozen": {"c": 0.01}}}
    found = measure_importance([first, *trials(40), chosen], SPACE, metric="val_loss")
    assert found is not None
    assert found["method"] == ("fANOVA" if installed else "permutation")
    assert next(iter(found["shares"])) == "frozen.c"
    assert found["shares"]["frozen.c"] > 0.7
    assert sum(found["shares"].values()) == pytest.approx(1, abs=0.01)


def test_few_trials_or_equal_ones_say_nothing() -> None:
    assert measure_importance(trials(7), SPACE, metric="val_loss") is None
    assert measure_importance(trials(12), SPACE, metric="val_accuracy") is not None  # the loss breaks ties
    same = [{**one, "validation": {"loss": 0.1, "accuracy": 0.9}} for one in trials(12)]
    assert measure_importance(same, SPACE, metric="val_loss") is None
