"""The labelling pass: turns photos into prediction rows on the whole cluster.

    shards of the inputs --stretches of thousands of photos--> model actors --parts of at most 256 photos--> OUT/parts

An actor reads, decodes, labels and writes on its own, so the driver and Ray's scheduler handle one call for thousands
of photos. A job that was killed at any moment resumes with the missing parts. A photo that kills the process which
decodes it is identified at the second or third attempt, and becomes an error row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from catdog.cluster import messages
from catdog.cluster.actors import share
from catdog.cluster.failures import root_cause
from catdog.cluster.plan import Plan
from catdog.console import Progress
from catdog.errors import FailureError
from catdog.photos.sources.listing.shards import Shard
from catdog.prediction.labelling.decoding import Decoding
from catdog.prediction.labelling.pool import ActorPool, LostProcessesError
from catdog.prediction.labelling.stretches import Stretch, Survey, photos_per_stretch, survey
from catdog.prediction.labelling.worker import Labeller
from catdog.prediction.results.rows import LabelRule

_RESUME = "; run the same command to resume"
CALLS = 3  # stretches in an actor at the same time: one read and decoded, one in the network, one written
_SHOWN_AT_ONCE = 200  # actors that post their progress per second
_MANY = 4  # up to so many shards are surveyed in this process, more by tasks


def label_shards(
    shards: Sequence[Shard],
    *,
    out: str,
    rule: LabelRule,
    engines: Sequence[Any],
    decoding: Decoding,
    plan: Plan,
    photos_per_part: int,
    progress: Progress,
    tta: str = "none",
) -> None:
    """Write the parts of the photos in `shards` that are not below `out` yet.

    `engines` are engines.EngineSpec, one for each model. `tta` is a value that with_augmentation takes.
    `progress` is called with (photos done, photos in total). Both include the photos of earlier commands.
    Raises FailureError if the pass fails. The parts written so far remain.
    """
    import ray

    total = sum(shard.rows for shard in shards)
    try:
        found = _survey(shards, out=out, total=total, plan=plan, photos_per_part=photos_per_part)
        done = sum(one.done for one in found)
        progress(done, total)
        stretches = [stretch for one in found for stretch in one.stretches]
        if stretches:
            start = _starter(
                {
                    "engines": share(list(engines)),
                    "out": out,
                    "rule": rule,
                    "tta": tta,
                    "batch_size": plan.batch_size,
                    "threads": plan.threads,
                    "decoding": decoding,
                    "decoders": plan.decoders,
                    "show_seconds": max(1.0, plan.actors / _SHOWN_AT_ONCE),
                },
                plan,
            )
            _label(stretches, start, actors=min(plan.actors, len(stretches)), done=done, total=total, progress=progress)
    except (ray.exceptions.RayError, LostProcessesError) as error:
        raise FailureError(f"labelling failed: {root_cause(error).removesuffix(_RESUME)}{_RESUME}") from error


def _survey(shards: Sequence[Shard], *, out: str, total: int, plan: Plan, photos_per_part: int) -> list[Survey]:
    """Return what is left to do of each shard; Ray tasks survey the shards if there are many."""
    import ray

    length = photos_per_stretch(total, actors=plan.actors, photos_per_part=photos_per_part)
    settings = {"photos_per_part": photos_per_part, "photos_per_stretch": length}
    shards = [shard.shared() for shard in shards]
    if len(shards) <= _MANY:
        return [survey(out, shard, **settings) for shard in shards]
    task = ray.remote(num_cpus=plan.task_cpus)(survey)
    found: list[Survey] = ray.get([task.remote(out, shard, **settings) for shard in shards])
    return found


def _starter(settings: dict[str, Any], plan: Plan) -> Callable[[], Any]:
    import ray

    labeller = ray.remote(Labeller).options(
        num_cpus=plan.actor_cpus,
        num_gpus=plan.actor_gpus or None,
        max_concurrency=CALLS + 1,
        max_restarts=0,
        max_task_retries=0,
        scheduling_strategy="SPREAD",
    )
    return lambda: labeller.remote(**settings)


def _label(
    stretches: Sequence[Stretch],
    start: Callable[[], Any],
    *,
    actors: int,
    done: int,
    total: int,
    progress: Progress,
) -> None:
    running, shown, most = set[str](), [time.monotonic()], [done]

    def tell(count: int) -> None:
        most[0] = min(total, max(most[0], count))
        progress(most[0], total)

    def look() -> None:
        if time.monotonic() - shown[0] < 1.0:
            return
        shown[0] = time.monotonic()
        # On a busy machine the message board may not answer in time. Then `tell` keeps the highest count so far.
        tell(done + sum(messages.shown(list(running))))

    def handed_out() -> Iterator[Stretch]:
        for stretch in stretches:
            running.add(stretch.name)
            yield stretch

    pool = ActorPool(start, name="model actor", size=actors, calls=CALLS)
    try:
        for stretch, rows in pool.map(handed_out(), look=look):
            running.discard(stretch.name)
            done = min(total, done + rows)
            tell(done)
    finally:
        pool.close()
    if done < total:  # possible after a stretch was retried
        progress(total, total)
