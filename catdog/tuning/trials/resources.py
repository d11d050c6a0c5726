"""The cluster resources that each trial books, and how many trials run at the same time. No Ray here."""

from __future__ import annotations

import dataclasses
import math

from catdog.cluster.plan import Plan
from catdog.cluster.resources import Resources
from catdog.errors import UsageError

TRIAL_CPUS = 1  # of a quick trial
_WAITING_CPUS = 0.05  # of a distributed trial's process; its workers book their own CPUs
_GPU_BYTES = 16 * 2**30  # of the smallest GPU that clouds rent out for training
_NETWORK_BYTES = 2 * 2**30  # TensorFlow, its kernels and the activations of a batch
_GPU_USED = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialResources:
    """The CPUs and GPUs that one trial's own process books, and how many trials run in parallel."""

    cpus: float
    gpus: float
    parallel: int

    def text(self) -> str:
        """Return what a trial books, in words."""
        cpus = f"{self.cpus:g} CPU{'' if self.cpus == 1 else 's'}"
        return f"{cpus} and {self.gpus:g} GPU" if self.gpus else cpus


def plan_trials(
    resources: Resources, plan: Plan, *, workers: int, trial_gpus: str, feature_bytes: int, needs_network: bool
) -> TrialResources:
    """Decide what one trial books.

    `workers` is the number of workers of a distributed trial, 0 for quick trials. `trial_gpus` is `auto` or a number.
    `auto` books the part of a GPU that lets as many trials share it as its memory and the node's CPUs allow. Each
    trial needs memory for a network and for `feature_bytes` of features. `auto` books no GPU if the cluster has none
    or the trials need no network. Raises UsageError for any other text, or for more GPUs than one node has.
    """
    if workers:
        return _share_workers(resources, plan, workers=workers)
    gpus = resources.gpus if plan.gpus else 0.0
    asked = _read_gpus(trial_gpus, resources, gpus=gpus)
    if asked is None:
        asked = _auto_gpus(resources, feature_bytes) if gpus and needs_network else 0.0
    parallel = sum(int(node.cpus) // TRIAL_CPUS for node in resources.nodes)
    if asked:
        on_gpus = int(gpus // asked) if asked >= 1 else int(gpus) * math.floor(1 / asked + 1e-9)
        parallel = min(parallel, on_gpus)
    return TrialResources(cpus=float(TRIAL_CPUS), gpus=asked, parallel=max(1, parallel))


def _share_workers(resources: Resources, plan: Plan, *, workers: int) -> TrialResources:
    if plan.worker_gpus:
        parallel = int(resources.gpus) // workers
    else:
        # The workers of all trials together leave a quarter of the CPUs to the waiting processes.
        parallel = int(0.75 * resources.cpus / (workers * plan.worker_cpus))
    return TrialResources(cpus=_WAITING_CPUS, gpus=0.0, parallel=max(1, parallel))


def _read_gpus(text: str, resources: Resources, *, gpus: float) -> float | None:
    if text == "auto":
        return None
    flag = f"--cluster.trial-gpus {text}"
    try:
        asked = float(text)
    except ValueError:
        asked = math.nan
    if not asked >= 0 or (asked > 1 and asked != int(asked)):
        raise UsageError(f"{flag}: expected auto, a part of a GPU such as 0.25, or a whole number of them")
    most = max((node.gpus for node in resources.nodes), default=0.0) if gpus else 0.0
    if asked > most:
        raise UsageError(f"{flag}: expected at most {most:g}, the GPUs of one node")
    return asked


def _auto_gpus(resources: Resources, feature_bytes: int) -> float:
    fit = int(_GPU_USED * _GPU_BYTES / (_NETWORK_BYTES + feature_bytes))
    served = int(min(node.cpus / node.gpus for node in resources.nodes if node.gpus) / TRIAL_CPUS)
    return int(100 / max(1, min(fit, served))) / 100
