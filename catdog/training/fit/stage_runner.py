"""Runs the stages of a job in order on one classifier, both in train workers and in a sweep's trials.

Each stage writes a directory below the run directory: model, history.csv, predictions.parquet and, last, its
completion mark. A stage that has its mark is not trained again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from catdog.config import FrozenStageConfig
from catdog.errors import FailureError
from catdog.evaluation.held_out import build_outcomes, read_outcomes, select_split, write_outcomes
from catdog.evaluation.paired import paired_test
from catdog.features.rows import CachedRows, RowSource, StreamedRows, StreamSource
from catdog.model.saved_model import spec_to_card
from catdog.storage import artifacts, files
from catdog.training.fit.checkpoint import StageState, write_history
from catdog.training.fit.head.frozen_head import fit_frozen_head
from catdog.training.fit.marks import best_stage, finished_marks
from catdog.training.fit.networks import Networks, Trained
from catdog.training.fit.stage_job import StageJob, TrainJob
from catdog.training.fit.train_loop import Observer, Scored, StageRows, fit_stage, score_splits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """The rank of this process among the workers of a training."""

    rank: int = 0
    workers: int = 1


def train_stages(
    job: TrainJob,
    networks: Trained,
    *,
    place: Place,
    open_rows: Callable[[StageJob], StageRows],
    observe: Callable[[StageJob], Observer],
) -> None:
    """Train every stage of `job` that is not finished; each one starts from the weights of the previous stage.

    Every worker calls this; rank 0 writes. `open_rows` returns this worker's share of a stage, `observe` its Observer.
    Raises DivergedError when a loss is no longer a number.
    """
    for stage in job.stages:
        directory = files.join(job.run_dir, stage.name)
        if files.exists(files.join(directory, artifacts.COMPLETE)):
            networks.load(files.join(directory, "model"))
            continue
        rows, observer = open_rows(stage), observe(stage)
        state = _fit(job, stage, networks, rows, observer)
        scored = score_splits(networks, cut=stage.cut, splits=rows.held_out())
        if place.rank == 0:
            _write_stage(job, stage, networks, state, scored)
        observer.on_end()


def _fit(job: TrainJob, stage: StageJob, networks: Trained, rows: StageRows, observer: Observer) -> StageState:
    if isinstance(stage.settings, FrozenStageConfig) and stage.is_logistic:
        head = networks.head(stage.cut)
        return fit_frozen_head(head, stage.settings, rows, observer, class_weights=job.class_weights)
    assert isinstance(networks, Networks)  # a stage that trains in epochs needs TensorFlow
    given: dict[str, Any] = {"cut": stage.cut, "class_weights": job.class_weights}
    return fit_stage(networks, stage.settings, rows, observer, **given)


def open_share(job: TrainJob, stage: StageJob, *, place: Place, pretrained: Any, memory_bytes: int) -> StageRows:
    """Return this worker's share of the rows of `stage`; `pretrained` has the weights that compute a stream."""

    def cached(cache: Any, **options: Any) -> CachedRows:
        return CachedRows(cache, rank=place.rank, workers=place.workers, memory_bytes=memory_bytes, **options)

    if isinstance(stage.train, StreamSource):
        train: RowSource = StreamedRows(
            stage.train,
            rank=place.rank,
            workers=place.workers,
            seed=job.seed,
            epochs=stage.epochs,
            pretrained=pretrained,
            plan=job.plan,
        )
    else:
        train = cached(stage.train, seed=job.seed, equal=True)
    return StageRows(train=train, validation=cached(stage.validation), test=cached(stage.test) if stage.test else None)


def _write_stage(
    job: TrainJob, stage: StageJob, networks: Trained, state: StageState, scored: dict[str, Scored]
) -> None:
    directory = files.join(job.run_dir, stage.name)
    outcomes = _make_outcomes(job, stage, scored)
    mark = {
        "name": stage.name,
        "epochs": state.epoch,
        "best_epoch": state.best_epoch,
        "train_seconds": round(sum(row["seconds"] for row in state.history), 3),
        **({"head": state.note} if state.note else {}),
        **{split: found.scores for split, found in scored.items()},
        **_compare_with_best(job, outcomes),
    }
    card = {**spec_to_card(job.spec), **job.card, "stage": mark}
    with files.staged_directory(files.join(directory, "model")) as folder:
        networks.save(folder, card)
    write_history(directory, state.history)
    write_outcomes(directory, outcomes)
    artifacts.mark_complete(directory, inputs={}, summary=mark)


def _make_outcomes(job: TrainJob, stage: StageJob, scored: dict[str, Scored]) -> pa.Table:
    """Return the prediction rows of all splits in one table."""
    caches = {"validation": stage.validation, "test": stage.test}
    tables = []
    for split, found in scored.items():
        cache = caches[split]
        assert cache is not None
        tables.append(
            build_outcomes(
                cache.read_paths(),
                split=split,
                labels=found.labels,
                probabilities=found.probabilities,
                classes=job.spec.classes,
            )
        )
    return pa.concat_tables(tables)


def _compare_with_best(job: TrainJob, outcomes: pa.Table) -> dict[str, Any]:
    """Return the paired test on validation of a new stage against the best finished one, or {} if none is possible."""
    marks = finished_marks(job.run_dir, [stage.name for stage in job.stages])
    if not marks:
        return {}
    best, classes = best_stage(marks), job.spec.classes
    try:
        earlier = read_outcomes(files.join(job.run_dir, best), classes=classes)
    except FailureError:
        return {}  # without the test, the losses decide
    if earlier is None:
        return {}
    correct = []
    for rows in (earlier, outcomes):
        labels, probabilities = select_split(rows.sort_by("path"), "validation", classes=classes)
        correct.append(probabilities.argmax(axis=1) == labels)
    if len(correct[0]) != len(correct[1]):
        return {}
    return {"against": {"stage": best, **dataclasses.asdict(paired_test(*correct))}}
