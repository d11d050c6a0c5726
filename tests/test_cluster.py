import itertools

import pytest

from catdog.cluster import Resources, make_plan, root_cause
from catdog.config import ClusterConfig
from catdog.errors import UsageError


def test_a_laptop_of_two_cores_gets_one_worker_and_one_actor_of_two_threads() -> None:
    plan = make_plan(Resources(cpus=2, gpus=0), ClusterConfig())
    assert (plan.workers, plan.worker_cpus, plan.worker_gpus) == (1, 0.5, 0.0)
    assert (plan.trunk_actors, plan.trunk_cpus, plan.trunk_threads, plan.task_cpus) == (1, 1.0, 2, 0.5)
    assert plan.sentence() == "Plan: 1 train worker on CPU, 1 trunk actor (2 threads each)."


def test_gpus_are_taken_where_there_are_any_one_worker_each() -> None:
    plan = make_plan(Resources(cpus=64, gpus=4), ClusterConfig())
    assert (plan.workers, plan.trunk_actors) == (4, 4)
    assert plan.sentence() == "Plan: 4 train workers on GPU, 4 trunk actors (GPU)."


def test_two_train_workers_never_share_a_gpu_but_a_worker_and_an_actor_do() -> None:
    plan = make_plan(Resources(cpus=8, gpus=1), ClusterConfig())
    assert 2 * plan.worker_gpus > 1
    assert plan.worker_gpus + plan.trunk_gpus <= 1


def test_gpus_are_left_alone_on_request() -> None:
    assert make_plan(Resources(cpus=8, gpus=2), ClusterConfig(use_gpu="no")).worker_gpus == 0


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers", "actors"),
    list(itertools.product([1, 2, 3, 4, 7, 16, 96, 1000], [0, 1, 4], [0, 1, 2, 4], [0, 1, 3])),
)
def test_what_runs_at_the_same_time_always_fits(cpus: int, gpus: int, workers: int, actors: int) -> None:
    if gpus and workers > gpus:
        pytest.skip("refused")
    plan = make_plan(Resources(cpus=cpus, gpus=gpus), ClusterConfig(workers=workers, trunk_actors=actors))
    booked = plan.workers * plan.worker_cpus + plan.trunk_actors * plan.trunk_cpus + plan.task_cpus
    assert booked <= cpus
    assert plan.workers * plan.worker_gpus + plan.trunk_actors * plan.trunk_gpus <= gpus + 1e-9


@pytest.mark.parametrize(
    ("resources", "config", "message"),
    [
        (Resources(cpus=2, gpus=0), ClusterConfig(use_gpu="yes"), "--cluster.use-gpu yes: expected a GPU"),
        (Resources(cpus=2, gpus=0), ClusterConfig(workers=9), "--cluster.workers 9: expected at most 8"),
        (Resources(cpus=2, gpus=1), ClusterConfig(workers=2), "--cluster.workers 2: expected at most 1"),
        (Resources(cpus=1, gpus=0), ClusterConfig(trunk_actors=9), "--cluster.trunk-actors 9: expected at most 8"),
    ],
)
def test_more_than_the_cluster_has_is_refused(resources: Resources, config: ClusterConfig, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_plan(resources, config)


def test_the_root_cause_is_the_first_exception_that_is_not_ray_s() -> None:
    text = (
        "ray::Worker.run() (pid=1)\n  File 'x.py', line 3\nValueError: bad shape\n\n"
        "The above exception was the direct cause\nray.exceptions.UserCodeException: UDF failed\nTo change retry"
    )
    assert root_cause(RuntimeError(text)) == "ValueError: bad shape"
    assert root_cause(RuntimeError("plain words")) == "plain words"
    assert root_cause(RuntimeError()) == "RuntimeError"
