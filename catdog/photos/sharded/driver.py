"""The ingest of many photos, step by step. The driver holds the names of shards, counts, and a rule for splits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from catdog.cluster.actors import run_in_tasks, share
from catdog.cluster.failures import root_cause
from catdog.errors import CatdogError, FailureError, UsageError
from catdog.photos.annotations.labelling import Annotations
from catdog.photos.inspection import Inspector, Progress, follow, photos_per_task
from catdog.photos.sharded.labels import correction_names, decide_labels, share_labels, survey
from catdog.photos.sharded.manifest import ShardedManifest
from catdog.photos.sharded.ranges import Steps, WrittenShard, recorded_folder
from catdog.photos.sharded.split_rule import Counts, SplitRule, add_places, asked_of, make_rule, small_classes
from catdog.photos.sharded.summary import empty_counts
from catdog.photos.sharded.tally import NO_CLASS, Tally, add_tallies, by_frequency, require_classes
from catdog.photos.sources.containers.packed import MorePhotosError
from catdog.photos.sources.listing.packed_tasks import list_many
from catdog.photos.sources.listing.shards import SHARD_ROWS, Shard
from catdog.storage import files

# Folders that `ingest_shards` makes anew; the kept inspections are not among them.
_MADE = ("recorded", "merged", "ranges", "shards", "rejected")


def ingest_many(
    more: MorePhotosError,
    *,
    directory: str,
    inspector: Inspector,
    per_class: Mapping[str, int],
    seed: int,
    annotations: Annotations,
    progress: Progress | None,
) -> ShardedManifest:
    """Make the manifest of a source with many photos in `directory`, in Ray tasks.

    `more` is the error by which `list_inputs` reports that it does not list the source. Raises what
    ingest.build_manifest raises.
    """
    return ingest_shards(
        list_many(more, shards=files.join(directory, "inputs"), num_cpus=1),
        source=str(more),
        directory=directory,
        inspector=inspector,
        per_class=per_class,
        seed=seed,
        annotations=annotations,
        progress=progress,
    )


def ingest_shards(
    shards: Sequence[Shard],
    *,
    source: str,
    directory: str,
    inspector: Inspector,
    per_class: Mapping[str, int],
    seed: int,
    annotations: Annotations,
    progress: Progress | None,
    ranges: int = 0,
) -> ShardedManifest:
    """Make the manifest of photos that are already listed.

    It has `ranges` shards, by default one for every SHARD_ROWS photos.
    """
    count = sum(shard.rows for shard in shards)
    for name in _MADE:
        files.delete(files.join(directory, name))
    names = share(correction_names(annotations.corrections))
    look = functools.partial(survey, label_column=annotations.label_column, directory=recorded_folder(directory))
    labels = decide_labels(
        (found for _, found in _run(lambda shard, _: look(shard, names), shards)),
        source=source,
        annotations=annotations,
        photos=count,
        first=min(shard.first for shard in shards),
    )
    steps = Steps(
        directory=directory,
        labels=share_labels(labels),
        inspector=inspector,
        photos_per_task=photos_per_task(count),
        ranges=ranges or -(-count // SHARD_ROWS),
        seed=seed,
    )
    pieces = (stretch for shard in shards for stretch in steps.stretches(shard))
    for _ in follow(steps.inspect, pieces, count=count, size=lambda one: one.stop - one.start, progress=progress):
        pass
    counts, tally = _reject(steps, shards)
    if not counts and all(label == NO_CLASS for label, _ in tally):
        raise UsageError(f"expected photos with a class in {source}, found none: the corrections leave out all of them")
    usable = [sum(number for (_, of), number in counts.items() if of == label) for label in range(len(labels.classes))]
    require_classes(labels.classes, usable=usable, tally=tally, source=source)
    written, totals = _write(steps, _make_rule(steps, counts, per_class))
    return ShardedManifest(
        directory=directory,
        classes=labels.classes,
        totals=totals,
        shards=tuple(written),
        reasons=tuple(by_frequency(tally.values())),
    )


def _reject(steps: Steps, shards: Sequence[Shard]) -> tuple[Counts, Tally]:
    """Partition the inspected photos by range, without unusable ones and copies; count kept and rejected photos."""
    tallies = [add_tallies(found for _, found in _run(steps.merge, shards))]
    counts = Counts()
    reduce = functools.partial(_reduce, steps=steps, shards=share([shard.name for shard in shards]))
    for _, (found, rejected) in _run(reduce, range(steps.ranges)):
        tallies = [add_tallies([*tallies, rejected])]
        for key, number in found.items():
            counts[key] = counts.get(key, 0) + number
    return counts, tallies[0]


def _write(steps: Steps, rule: SplitRule) -> tuple[list[WrittenShard], dict[str, dict[str, int]]]:
    """Write the shards of the manifest; return them in order, and the number of photos by split and class name."""
    written: dict[int, WrittenShard] = {}
    shared, totals = share(rule), empty_counts(steps.labels.classes)
    for number, (shard, found) in _run(lambda number, _: steps.write(number, shared.get()), range(steps.ranges)):
        written[number] = shard
        for (split, name), photos in found.items():
            totals[split][name] += photos
    return [written[number] for number in range(steps.ranges)], totals


def _reduce(number: int, tries: int, *, steps: Steps, shards: Any) -> Any:
    return steps.reduce(number, shards.get())


def _make_rule(steps: Steps, counts: Counts, per_class: Mapping[str, int]) -> SplitRule:
    """Return the rule for splits, made from what all ranges report about their photos."""
    asked, classes = asked_of(counts, per_class), steps.labels.classes
    looked = (found for _, found in _run(lambda number, _: steps.find_places(number, asked), range(steps.ranges)))
    places = add_places(looked, asked)
    small = small_classes(places, asked, classes=len(classes))
    chosen: dict[str, list[pa.Table]] = {pool: [] for pool in small}
    if small:
        for _, found in _run(lambda number, _: steps.select(number, small), range(steps.ranges)):
            for pool, rows in found.items():
                chosen[pool].append(rows)
    few = {pool: (small[pool], pa.concat_tables(rows).sort_by("path")) for pool, rows in chosen.items()}
    return make_rule(places, asked, few, classes=classes, seed=steps.seed)


def _run(function: Callable[[Any, int], Any], pieces: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    try:
        yield from run_in_tasks(function, pieces, num_cpus=1)
    except CatdogError:
        raise
    except Exception as error:  # raised by Ray itself, in its own classes
        raise FailureError(f"the manifest cannot be made: {root_cause(error)}") from error
