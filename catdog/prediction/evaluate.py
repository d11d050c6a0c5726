"""Compares labels with the class folders, and two models with each other, and writes evaluation.json.

result files + the shards of their photos --sums of each file--> scores of all photos
"""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catdog.cluster.actors import Map
from catdog.console import counted, say
from catdog.evaluation.metrics import Evaluation, evaluate_sums
from catdog.evaluation.paired import Comparison, PairSums, compare_sums, pair_sums
from catdog.evaluation.sums import ScoreSums, score_sums
from catdog.photos.sources.listing.shards import Shard, cut_into_shards, read_all
from catdog.prediction.output import EVALUATION_FILE
from catdog.prediction.results.commit import ResultFile, read_rows, result_files
from catdog.prediction.results.matching import Photos, match
from catdog.prediction.results.rows import LabelRule
from catdog.prediction.truth import Truth
from catdog.report.page import PAGE_FILE
from catdog.storage import files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled:
    """The rows of one result file, and the photos that they label."""

    result: ResultFile
    photos: Photos

    def read(self) -> tuple[pa.Table, pa.Table | None]:
        """Return the rows and their photos (schema inputs.INPUTS), or None for photos that do not match the rows."""
        rows, photos = self.result.read(), self.photos.read()
        return rows, photos if rows["path"].equals(photos["path"]) else None


class TrueLabels:
    """The true labels of the committed rows of `out`, found by `truth`; without one, all are -1."""

    def __init__(self, out: str, *, rule: LabelRule, shards: Sequence[Shard], truth: Truth | None, mapped: Map) -> None:
        self._out, self._rule, self._mapped = out, rule, mapped
        self.truth = truth
        self._shards = shards
        self._labelled = self._matched()

    def _matched(self) -> list[Labelled]:
        results = result_files(self._out, rule=self._rule)
        photos = match([result.rows for result in results], self._shards)
        return [Labelled(result=result, photos=some) for result, some in zip(results, photos, strict=True)]

    def over(self, function: Callable[[Labelled, Truth | None], Any]) -> Iterator[Any]:
        """Yield what `function` returns for each result file and the truth, in order.

        `function` returns None if the photos do not match the rows. This happens with results of earlier versions,
        which committed large folders in a different order. The photos are then put into that order, all in this
        process.
        """
        found = self._mapped(function, ((one, self.truth) for one in self._labelled))
        done = 0
        for result in found:
            if result is None:
                break
            done += 1
            yield result
        else:
            return
        ordered = order_as_rows(read_all(self._shards), self._out, rule=self._rule)
        self._shards = cut_into_shards(ordered)
        self._labelled = self._matched()
        yield from (function(one, self.truth) for one in self._labelled[done:])

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the labels of the rows of each file, (N,) int32."""
        return self.over(labels_of_file)


def order_as_rows(inputs: pa.Table, out: str, *, rule: LabelRule) -> pa.Table:
    """Return `inputs` in the order of the committed rows of `out`, which label the same photos."""
    rows = pa.concat_tables(table.select(["path"]) for table in read_rows(out, rule=rule))["path"]
    return inputs.take(pc.index_in(rows, value_set=inputs["path"].combine_chunks()))


def labels_of_file(labelled: Labelled, truth: Truth | None) -> np.ndarray | None:
    """Return the true labels of the rows of a file, or None if its photos do not match the rows."""
    if truth is None:
        return np.full(labelled.result.rows, -1, np.int32)
    _, inputs = labelled.read()
    return None if inputs is None else truth.labels_of(inputs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sums:
    """What the rows of one file add to the scores of each model, and to the comparison of two models."""

    scores: tuple[ScoreSums, ...]
    pair: PairSums

    def __add__(self, other: Sums) -> Sums:
        """Return the sums of both sets of rows."""
        scores = tuple(one + more for one, more in zip(self.scores, other.scores, strict=True))
        return Sums(scores=scores, pair=self.pair + other.pair)


def sums_of_file(labelled: Labelled, truth: Truth | None) -> Sums | None:
    """Return the sums of the rows of a file, or None if its photos do not match the rows."""
    rows, inputs = labelled.read() if truth else (labelled.result.read(), None)
    if truth and inputs is None:
        return None
    rule = labelled.result.rule
    readable = np.flatnonzero(rows["error"].is_null().to_numpy())
    rows = rows.take(pa.array(readable))
    true = np.full(len(readable), -1, np.int32)
    if truth and inputs is not None:
        true = truth.labels_of(inputs.take(pa.array(readable)))
    known = np.flatnonzero(true >= 0)
    probabilities = [
        np.stack([rows[f"{prefix}p_{name}"].to_numpy() for name in rule.labels], axis=1)
        for prefix in ("", "second_")[: rule.models]
    ]
    return Sums(
        scores=tuple(score_sums(true[known], one[known], threshold=rule.threshold) for one in probabilities),
        pair=pair_sums(probabilities[0], probabilities[1], true) if rule.models == 2 else PairSums(),
    )


def evaluate_labels(out: str, *, rule: LabelRule, models: Sequence[str], true: TrueLabels, scored: bool) -> None:
    """Compare the committed rows of `out` with `true` if `scored`, and two models with each other.

    `models` are the model directories, for the console and evaluation.json. Raises UsageError if there is no photo to
    evaluate or to compare.
    """
    sums: Sums = functools.reduce(operator.add, true.over(sums_of_file))
    found: dict[str, Any] = {}
    if scored:
        for path, of_model in zip(models, sums.scores, strict=True):
            score = evaluate_sums(of_model, classes=rule.labels)
            found.setdefault("models", []).append({"path": path, **score.to_json()})
            _say_lines(f"{path} on {counted(score.photos, 'photo')} of known class:", score)
    if rule.models == 2:
        comparison = compare_sums(sums.pair)
        found["comparison"] = comparison.to_json()
        _say_lines("First model against second:", comparison)
    _write_evaluation(out, found)


def _write_evaluation(out: str, found: dict[str, Any]) -> None:
    path, found = files.join(out, EVALUATION_FILE), json.loads(json.dumps(found))
    if not files.exists(path) or files.read_json(path) != found:
        files.write_json(path, found)
        files.delete(files.join(out, PAGE_FILE))  # the old page shows another evaluation, or none


def _say_lines(title: str, result: Evaluation | Comparison) -> None:
    say("")
    for line in (title, *result.lines()):
        say(line)
