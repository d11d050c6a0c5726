"""The predict program of the measure `scale`: each step of a predict job whose photos and model cost nothing.

`python -m catdog.benchmark.scaling.free_job PHOTOS OUT` prints its figures as a line of JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from catdog.benchmark.scaling.many_photos import StepCost
from catdog.cluster.actors import map_in_order
from catdog.cluster.connection import connected
from catdog.cluster.plan import Plan, make_predict_plan
from catdog.config import PredictClusterConfig
from catdog.photos.decoding.framing import Framing
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.sources.listing.shards import SetDigest, Shard
from catdog.photos.sources.listing.tree import Tree, list_tree
from catdog.prediction import output
from catdog.prediction.evaluate import TrueLabels, evaluate_labels
from catdog.prediction.labelling.decoding import Decoding
from catdog.prediction.labelling.driver import label_shards
from catdog.prediction.labelling.pool import ActorPool
from catdog.prediction.results import commit
from catdog.prediction.results.joining import join_parts
from catdog.prediction.results.parts import photos_per_part
from catdog.prediction.results.proof import verify
from catdog.prediction.results.rows import LabelRule
from catdog.prediction.sorting.sort import sort_photos
from catdog.prediction.truth import find_truth
from catdog.storage.lease import Lease, hold_lease
from catdog.storage.ownership import mark_folder

_RULE = LabelRule(classes=("cat", "dog"), threshold=0.0, top_k=1, models=1)
_IMAGE_SIZE = 8
_IDLE_CALLS = 1000

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class FreeEngine:
    """Replaces an engines.EngineSpec and computes nothing: every other photo is a dog."""

    def load(self, *, batch_size: int, threads: int) -> FreeEngine:
        """Return the engine."""
        return self

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return (N, 2) probabilities."""
        return np.resize(np.array([[0.7, 0.3], [0.3, 0.7]], np.float32), (len(images), 2))


def decode_nothing(content: bytes, *, size: int, framing: Framing, limits: DecodeLimits) -> np.ndarray:
    """Return a black image."""
    return np.zeros((size, size, 3), np.uint8)


@dataclasses.dataclass(frozen=True)
class IdlePiece:
    """An empty piece of work for an IdleActor."""

    tries: int = 0

    def again(self) -> list[IdlePiece]:
        """Return this piece unchanged."""
        return [self]


class IdleActor:
    """An actor of an ActorPool that does nothing."""

    def load(self) -> None:
        """Do nothing."""

    def work(self, piece: IdlePiece) -> int:
        """Do nothing."""
        return 0

    def close(self) -> None:
        """Do nothing."""


class Meter:
    """Times steps, and counts the calls that this process submits to Ray."""

    def __init__(self) -> None:
        self.steps: list[StepCost] = []
        self._calls = 0

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count each call of a task or of an actor's method while the block runs."""
        import ray

        kinds = ((ray.remote_function.RemoteFunction, "_remote"), (ray.actor.ActorMethod, "_remote"))
        kept = [(kind, name, getattr(kind, name)) for kind, name in kinds]
        for kind, name, call in kept:
            setattr(kind, name, self._counted(call))
        try:
            yield
        finally:
            for kind, name, call in kept:
                setattr(kind, name, call)

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **settings: Any) -> Any:
            self._calls += 1
            return call(*arguments, **settings)

        return counted

    def take(self, step: str, action: Callable[[], T]) -> T:
        """Run a step, record its cost, and return its result."""
        calls, start = self._calls, time.monotonic()
        result = action()
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = round(time.monotonic() - start, 3)
        self.steps.append(StepCost(step=step, seconds=seconds, calls=self._calls - calls, driver_bytes=peak))
        return result


def main(photos: str, out: str) -> None:
    """Run the job on the folder `photos`, write its results to the new folder `out`, and print the figures.

    The last step moves the photos.
    """
    meter = Meter()
    with contextlib.ExitStack() as stack:
        resources = meter.take("start", lambda: stack.enter_context(connected()))
        stack.enter_context(meter.counting())
        plan = make_predict_plan(resources, PredictClusterConfig(), gpus=0)
        lease = stack.enter_context(hold_lease(out, flag="--out"))
        mark_folder(out, kind="labels")
        tree = Tree(path=photos, shards=commit.inputs_directory(out, owner=lease.owner))
        shards = meter.take("list", lambda: list_tree(tree, num_cpus=plan.task_cpus)).shards
        label(meter, shards, photos=photos, out=out, plan=plan, lease=lease)
        use(meter, shards, photos=photos, out=out, num_cpus=plan.task_cpus)
        each = seconds_a_call()
    found = {"steps": [dataclasses.asdict(step) for step in meter.steps], "seconds_a_call": each}
    print(json.dumps({**found, "shards": len(shards)}), flush=True)


def label(meter: Meter, shards: Sequence[Shard], *, photos: str, out: str, plan: Plan, lease: Lease) -> None:
    """Label the photos of `shards`, which are below the folder `photos`, and commit the result in `out`."""
    digest = SetDigest.total(shard.digest for shard in shards)
    output.write_job(out, {"photos": photos, "exclude": [], "inputs": output.set_name(digest)})
    part = photos_per_part(digest.files)

    def join() -> None:
        manifest = join_parts(
            out,
            shards,
            owner=lease.owner,
            rule=_RULE,
            format="parquet",
            photos_per_part=part,
            num_cpus=plan.task_cpus,
        )
        commit.finish_commit(out, manifest, lease=lease, replaces=False)

    meter.take(
        "label",
        lambda: label_shards(
            shards,
            out=out,
            rule=_RULE,
            engines=[FreeEngine()],
            decoding=Decoding(image_size=_IMAGE_SIZE, limits=DecodeLimits(), decode=decode_nothing),
            plan=plan,
            photos_per_part=part,
            progress=lambda done, total: None,
        ),
    )
    meter.take("commit", join)


def use(meter: Meter, shards: Sequence[Shard], *, photos: str, out: str, num_cpus: float) -> None:
    """Use the result in `out` as people do: verify it, evaluate it against the class folders, and sort the photos."""
    mapped = functools.partial(map_in_order, num_cpus=num_cpus)

    def evaluate() -> None:
        truth = find_truth(shards, classes=_RULE.labels, source=photos, mapped=mapped)
        true = TrueLabels(out, rule=_RULE, shards=shards, truth=truth, mapped=mapped)
        evaluate_labels(out, rule=_RULE, models=["free"], true=true, scored=True)

    meter.take("verify", lambda: verify(out))
    meter.take("evaluate", evaluate)
    folder = f"{Path(photos).parent}/sorted"  # on the same disk, where a move changes names but copies no content
    meter.take("sort", lambda: sort_photos(out, rule=_RULE, directory=folder, mode="move", num_cpus=num_cpus))


def seconds_a_call() -> float:
    """Return the seconds per call of an actor that does no work: the time of 1,000 calls divided by their number."""
    import ray

    idle = ray.remote(IdleActor).options(num_cpus=0)
    pool = ActorPool(idle.remote, name="idle actor", size=1, calls=3)
    try:
        start = time.monotonic()
        done = sum(1 for _ in pool.map((IdlePiece() for _ in range(_IDLE_CALLS)), look=lambda: None))
        return (time.monotonic() - start) / done
    finally:
        pool.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
