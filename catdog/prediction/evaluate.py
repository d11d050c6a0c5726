"""Labels against the class folders, and two models against each other: evaluation.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catdog.console import counted, say
from catdog.errors import UsageError
from catdog.evaluation.metrics import Evaluation, evaluate
from catdog.evaluation.paired import Comparison, compare_models
from catdog.photos.annotations.class_layout import assign_classes
from catdog.photos.annotations.labelling import recorded_labels
from catdog.prediction.output import EVALUATION_FILE
from catdog.prediction.results import commit
from catdog.prediction.results.rows import LabelRule
from catdog.report.page import PAGE_FILE
from catdog.storage import files


def true_labels(inputs: pa.Table, *, classes: Sequence[str], source: str) -> np.ndarray:
    """Return the label of each of `inputs` (sources.INPUTS), -1 for none: its table's, its shard's, or its folder's.

    Raises UsageError when the folders, or what is recorded, are not classes of the model.
    """
    names = recorded_labels(inputs)
    if not names:
        _, assigned = assign_classes(inputs["relative"].to_pylist(), source=source, known=classes)
        names = [found[1] if found else "" for found in assigned]
    there = sorted({*names} - {""})
    if {*there} - {*classes}:
        raise UsageError(
            f"--evaluate: {source} has the classes {', '.join(there)}, the model "
            f"knows {', '.join(classes)}: give photos in folders of these names, or leave it out"
        )
    label_of = {name: label for label, name in enumerate(classes)}
    return np.array([label_of.get(name, -1) for name in names], np.int32)


def order_as_rows(inputs: pa.Table, out: str, *, rule: LabelRule) -> pa.Table:
    """Return `inputs` in the order of the committed rows of `out`, which are of the same photos.

    Earlier versions committed large folders in another order than that in which they are listed now.
    """
    rows = pa.concat_tables(table.select(["path"]) for table in commit.read_rows(out, rule=rule))["path"]
    if rows.equals(inputs["path"]):
        return inputs
    return inputs.take(pc.index_in(rows, value_set=inputs["path"].combine_chunks()))


def evaluate_labels(out: str, *, rule: LabelRule, models: Sequence[str], true: np.ndarray, scored: bool) -> None:
    """Compare the committed rows of `out` with `true` (rows,) where `scored`, and two models with each other.

    `models` are their directories, for the console and evaluation.json; `true` has -1 where no class is known.
    """
    probabilities = _read_probabilities(out, rule=rule)
    known = np.flatnonzero(~np.isnan(probabilities[0][:, 0]) & (true >= 0))
    found: dict[str, Any] = {}
    if scored:
        for path, of_model in zip(models, probabilities, strict=True):
            score = evaluate(true[known], of_model[known], classes=rule.labels, threshold=rule.threshold)
            found.setdefault("models", []).append({"path": path, **score.to_json()})
            _say_lines(f"{path} on {counted(len(known), 'photo')} of known class:", score)
    if len(probabilities) == 2:
        readable = np.flatnonzero(~np.isnan(probabilities[0][:, 0]))
        chosen = known if len(known) else readable
        comparison = compare_models(
            *(of_model[chosen] for of_model in probabilities), true=true[chosen] if len(known) else None
        )
        found["comparison"] = comparison.to_json()
        _say_lines("First model against second:", comparison)
    _write_evaluation(out, found)


def _write_evaluation(out: str, found: dict[str, Any]) -> None:
    path, found = files.join(out, EVALUATION_FILE), json.loads(json.dumps(found))
    if not files.exists(path) or files.read_json(path) != found:
        files.write_json(path, found)
        files.delete(files.join(out, PAGE_FILE))  # it shows another evaluation, or none


def _say_lines(title: str, result: Evaluation | Comparison) -> None:
    say("")
    for line in (title, *result.lines()):
        say(line)


def _read_probabilities(out: str, *, rule: LabelRule) -> list[np.ndarray]:
    """Return for each model the float32 (N, labels) probabilities of all rows, NaN for errors."""
    columns = [[f"{prefix}p_{name}" for name in rule.labels] for prefix in ("", "second_")]
    found: list[list[np.ndarray]] = [[] for _ in range(rule.models)]
    for table in commit.read_rows(out, rule=rule):
        for model, arrays in enumerate(found):
            arrays.append(np.stack([table[name].to_numpy() for name in columns[model]], axis=1))
    return [np.concatenate(arrays) for arrays in found]
