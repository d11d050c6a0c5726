"""What programs side by side are compared by; the programs themselves run in test_job.py."""

import pytest

from catdog.benchmark.end_to_end import TimeToAccuracy, TrialCosts, _time_to_accuracy


def test_an_epoch_that_is_not_reached_has_no_second() -> None:
    found = _time_to_accuracy([(10.0, 0.9), (12.0, 0.96), (15.0, 0.95)], seconds=20.0, extrapolated=False)
    assert found == TimeToAccuracy(
        reached={"0.95": 12.0, "0.98": None, "0.985": None}, best_accuracy=0.96, epochs=3, seconds=20.0,
        extrapolated=False,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="no epoch was seen"):
        _time_to_accuracy([], seconds=1.0, extrapolated=False)


def test_the_cost_of_more_trials_is_the_difference() -> None:
    costs = TrialCosts(train_job=60.0, trunk_pass=20.0, trials=17, one_trial=30.0, all_trials=45.0)
    assert costs.more_trials == 15.0
