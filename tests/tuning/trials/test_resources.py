"""The CPUs and GPUs that a trial books, computed without Ray."""

from __future__ import annotations

import pytest

from catdog.cluster.plan import make_plan
from catdog.cluster.resources import Node, Resources
from catdog.config import ClusterConfig
from catdog.errors import UsageError
from catdog.tuning.trials.resources import TrialResources, plan_trials

CPUS = Resources(nodes=(Node(cpus=2), Node(cpus=4)))
GPUS = Resources(nodes=(Node(cpus=16, gpus=2),))


def booked(
    resources: Resources, *, trial_gpus: str = "auto", use_gpu: str = "auto", workers: int = 0, **rest: int
) -> TrialResources:
    plan = make_plan(resources, ClusterConfig(use_gpu=use_gpu, workers=workers))
    needs = {"feature_bytes": 0, "needs_network": True, **rest}
    return plan_trials(resources, plan, workers=workers, trial_gpus=trial_gpus, **needs)  # type: ignore[arg-type]


def test_without_gpus_a_trial_takes_a_cpu() -> None:
    assert booked(CPUS) == TrialResources(cpus=1, gpus=0, parallel=6)
    assert booked(GPUS, use_gpu="no") == TrialResources(cpus=1, gpus=0, parallel=16)


def test_several_trials_share_a_gpu_as_many_as_fit_and_as_its_cpus_serve() -> None:
    assert booked(GPUS) == TrialResources(cpus=1, gpus=0.14, parallel=14)  # seven networks of 2 GiB on 16 GiB
    assert booked(GPUS, feature_bytes=4 * 2**30) == TrialResources(cpus=1, gpus=0.5, parallel=4)
    assert booked(GPUS, feature_bytes=100 * 2**30) == TrialResources(cpus=1, gpus=1, parallel=2)
    assert booked(Resources(nodes=(Node(cpus=4, gpus=2),))) == TrialResources(cpus=1, gpus=0.5, parallel=4)


def test_a_head_that_is_solved_needs_no_gpu() -> None:
    assert booked(GPUS, needs_network=False) == TrialResources(cpus=1, gpus=0, parallel=16)


def test_gpus_are_booked_as_asked() -> None:
    assert booked(GPUS, trial_gpus="0.25") == TrialResources(cpus=1, gpus=0.25, parallel=8)
    assert booked(GPUS, trial_gpus="2") == TrialResources(cpus=1, gpus=2, parallel=1)
    assert booked(GPUS, trial_gpus="0") == TrialResources(cpus=1, gpus=0, parallel=16)


@pytest.mark.parametrize(
    ("resources", "text", "message"),
    [
        (GPUS, "some", "expected auto, a part of a GPU such as 0.25, or a whole number"),
        (GPUS, "1.5", "expected auto, a part of a GPU such as 0.25, or a whole number"),
        (GPUS, "-1", "expected auto, a part of a GPU such as 0.25, or a whole number"),
        (GPUS, "3", "expected at most 2, the GPUs of one node"),
        (CPUS, "0.5", "expected at most 0, the GPUs of one node"),
    ],
)
def test_what_cannot_be_booked_is_refused(resources: Resources, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"--cluster.trial-gpus {text}: {message}"):
        booked(resources, trial_gpus=text)


def test_the_process_of_a_distributed_trial_only_waits() -> None:
    found = booked(CPUS, workers=2)
    assert (found.cpus, found.gpus) == (0.05, 0)
    assert found.parallel >= 1
