"""Which of Ray Tune's schedulers a sweep uses."""

from __future__ import annotations

from catdog.tuning.trials.run import make_scheduler


def test_each_scheduler_is_ray_tune_s_own_and_goes_by_the_objective() -> None:
    for name, kind in (("asha", "AsyncHyperBandScheduler"), ("median", "MedianStoppingRule")):
        scheduler = make_scheduler(name, epochs=8, screened=False)
        assert type(scheduler).__name__ == kind
        assert type(scheduler).__module__.startswith("ray.tune.schedulers")
        assert scheduler.metric == "objective"
    assert make_scheduler("none", epochs=8, screened=False) is None


def test_asha_never_stops_a_trial_at_its_last_epoch_and_short_stages_have_it_too() -> None:
    for epochs in (1, 8):
        for screened in (True, False):
            scheduler = make_scheduler("asha", epochs=epochs, screened=screened)
            assert scheduler._max_t > 1 + epochs
