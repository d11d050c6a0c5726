"""What a person should know of a finished train run besides its scores: diagnosis.json and thumbnails.parquet.

    predictions.parquet of each stage --> evaluations, comparison, calibration, worst, least sure
    cached head features              --> likely label errors
    the manifest's hashes             --> near-duplicates across splits

`worst` and `least_sure` are photos of validation and test as the run's model sees them, calibration included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catdog.evaluation.calibration import Temperature, apply_temperature, choose_temperature
from catdog.evaluation.held_out import least_confident_outcomes, read_outcomes, select_split, worst_outcomes
from catdog.evaluation.label_errors import find_label_errors
from catdog.evaluation.metrics import evaluate, expected_calibration_error, reliability_bins
from catdog.evaluation.near_duplicates import find_near_duplicates
from catdog.evaluation.paired import compare_models
from catdog.features.cache import FeatureCache
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.manifest import AnyManifest
from catdog.report.thumbnails import make_thumbnails, read_pictures, write_pictures
from catdog.storage import files
from catdog.storage.schemas import PICTURES, SPLITS

DIAGNOSIS_FILE, PICTURES_FILE = "diagnosis.json", "thumbnails.parquet"
SHOWN = 24  # photos or pairs of each list
_MOST_TRAIN_PHOTOS = 20_000  # of which likely label errors are sought: 50 MB of features
_MOST_COMPARED_PHOTOS = 500_000  # among which near-duplicates are sought, where a manifest is in shards
_HELD_OUT = ("validation", "test")


def choose_run_temperature(stage_dir: str, *, classes: Sequence[str]) -> Temperature:
    """Return the temperature for the model of a stage, from its validation rows; 1.0 where there are none."""
    rows = read_outcomes(stage_dir, classes=classes)
    if rows is None:
        return Temperature(value=1.0, reason="the stage left no predictions")
    return choose_temperature(*select_split(rows, "validation", classes=classes))


def diagnose(
    run_dir: str,
    manifest: AnyManifest,
    *,
    stages: Sequence[str],
    best: str,
    temperature: Temperature,
    train_features: FeatureCache | None,
    heatmaps: str,
    limits: DecodeLimits,
    task_cpus: float,
) -> list[str]:
    """Write diagnosis.json and thumbnails.parquet into `run_dir`; return the lines that a person should read.

    `best` is the stage whose model the run's is, `train_features` the cache of pooled features of the training photos,
    `heatmaps` a file of pictures (schemas.PICTURES) of where the model looked, which need not exist.
    """
    found = {stage: read_outcomes(files.join(run_dir, stage), classes=manifest.classes) for stage in stages}
    outcomes = {stage: rows for stage, rows in found.items() if rows is not None}
    diagnosis = {
        "evaluations": {stage: _evaluations(rows, manifest.classes) for stage, rows in outcomes.items()},
        "comparison": _comparison(list(outcomes.values()), manifest.classes),
        **(_of_model(outcomes[best], temperature, manifest.classes) if best in outcomes else {}),
        "label_errors": _label_errors(train_features, manifest.classes),
        **_near_duplicates(manifest),
    }
    _write_pictures(run_dir, diagnosis, heatmaps=heatmaps, limits=limits, task_cpus=task_cpus)
    files.write_json(files.join(run_dir, DIAGNOSIS_FILE), diagnosis)
    return _lines(diagnosis, temperature)


def _evaluations(rows: pa.Table, classes: Sequence[str]) -> dict[str, Any]:
    present = set(rows["split"].to_pylist())
    return {
        split: evaluate(*select_split(rows, split, classes=classes), classes=classes).to_json()
        for split in _HELD_OUT
        if split in present
    }


def _comparison(stages: Sequence[pa.Table], classes: Sequence[str]) -> dict[str, Any]:
    """Compare the first stage with the last one on the photos that both have rows of."""
    if len(stages) < 2:
        return {}
    shared = pa.array(sorted(set(stages[0]["path"].to_pylist()) & set(stages[-1]["path"].to_pylist())))
    first, last = (rows.filter(pc.is_in(rows["path"], shared)).sort_by("path") for rows in (stages[0], stages[-1]))
    compared = {}
    for split in _HELD_OUT:
        true, before = select_split(first, split, classes=classes)
        if len(true):
            compared[split] = compare_models(before, select_split(last, split, classes=classes)[1], true=true).to_json()
    return compared


def _of_model(rows: pa.Table, temperature: Temperature, classes: Sequence[str]) -> dict[str, Any]:
    """Return calibration, worst and least_sure of the run's model, whose stage left `rows`."""
    # The temperature was fitted on validation: what it is worth shows on test.
    split = "test" if "test" in rows["split"].to_pylist() else "validation"
    true, probabilities = select_split(rows, split, classes=classes)
    helps = temperature.value != 1.0
    return {
        "calibration": {
            "split": split,
            "temperature": temperature.value,
            "reason": temperature.reason,
            "before": _reliability(true, probabilities),
            "after": _reliability(true, apply_temperature(probabilities, temperature.value)) if helps else None,
        },
        "worst": _as_calibrated(worst_outcomes(rows, limit=SHOWN), rows, temperature, classes, reverse=True),
        "least_sure": _as_calibrated(
            least_confident_outcomes(rows, limit=SHOWN), rows, temperature, classes, reverse=False
        ),
    }


def _reliability(true: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    correct = probabilities.argmax(axis=1) == true
    bins = [
        {
            "low": one["low"],
            "high": one["high"],
            "photos": one["count"],
            "confidence": one["probability"],
            "accuracy": one["accuracy"],
        }
        for one in reliability_bins(probabilities, correct)
    ]
    return {"error": expected_calibration_error(probabilities, correct), "bins": bins}


def _as_calibrated(
    shown: list[dict[str, Any]], rows: pa.Table, temperature: Temperature, classes: Sequence[str], *, reverse: bool
) -> list[dict[str, Any]]:
    """Return `shown` with the probabilities of the calibrated model, in the order of those."""
    if temperature.value == 1.0 or not shown:
        return shown
    chosen = rows.filter(pc.is_in(rows["path"], pa.array([row["path"] for row in shown])))
    probabilities = np.stack([chosen[f"p_{name}"].to_numpy() for name in classes], axis=1)
    tops = dict(
        zip(chosen["path"].to_pylist(), apply_temperature(probabilities, temperature.value).max(axis=1), strict=True)
    )
    calibrated = [{**row, "probability": float(tops[row["path"]])} for row in shown]
    return sorted(calibrated, key=lambda row: row["probability"], reverse=reverse)


def _label_errors(cache: FeatureCache | None, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the training photos whose label is likely wrong; `label` and `probability` are predicted."""
    if cache is None:
        return []
    # Rows are in the order of digests, so the first ones are a random sample.
    features, labels, paths = cache.read_first(_MOST_TRAIN_PHOTOS)
    found = find_label_errors(features, labels, classes=len(classes), limit=SHOWN)
    return [
        {
            "path": paths[position],
            "split": "train",
            "true": classes[labels[position]],
            "label": classes[label],
            "probability": float(probability),
        }
        for position, label, probability in zip(found.positions, found.labels, found.probabilities, strict=True)
    ]


def _near_duplicates(manifest: AnyManifest) -> dict[str, Any]:
    table = manifest.sample(_MOST_COMPARED_PHOTOS)
    table = table.filter(pc.is_in(table["split"], pa.array(SPLITS)))
    table = table.filter(pc.is_valid(table["perceptual_hash"]))
    paths, splits = table["path"].to_pylist(), table["split"].to_pylist()
    found = find_near_duplicates(table["perceptual_hash"].to_numpy(), np.array(splits, object).astype(str), limit=SHOWN)
    pairs = [
        {
            "first": paths[first],
            "first_split": splits[first],
            "second": paths[second],
            "second_split": splits[second],
            "distance": int(distance),
        }
        for first, second, distance in zip(found.first, found.second, found.distance, strict=True)
    ]
    return {"near_duplicates": pairs, "near_duplicate_count": found.count}


def _write_pictures(
    run_dir: str, diagnosis: dict[str, Any], *, heatmaps: str, limits: DecodeLimits, task_cpus: float
) -> None:
    listed = [row["path"] for key in ("worst", "least_sure", "label_errors") for row in diagnosis.get(key, [])]
    listed += [pair[side] for pair in diagnosis["near_duplicates"] for side in ("first", "second")]
    made = make_thumbnails(listed, limits=limits, task_cpus=task_cpus)
    photos = [{"name": name, "kind": "photo", "jpeg": jpeg} for name, jpeg in made.items()]
    pictures = pa.concat_tables([pa.Table.from_pylist(photos, PICTURES), read_pictures(heatmaps)])
    write_pictures(files.join(run_dir, PICTURES_FILE), pictures)


def _lines(diagnosis: dict[str, Any], temperature: Temperature) -> list[str]:
    lines = []
    if temperature.value != 1.0:
        lines.append(f"Calibration: temperature {temperature.value:.2f} in the model; {temperature.reason}.")
    if suspects := diagnosis["label_errors"]:
        first = suspects[0]
        count = f"{len(suspects)}{'' if len(suspects) < SHOWN else ' or more'}"
        lines.append(
            f"{count} training photo{'' if len(suspects) == 1 else 's'} may have a wrong label, "
            f"such as {first['path']}: labelled {first['true']}, predicted {first['label']}."
        )
    if count := diagnosis["near_duplicate_count"]:
        pair = diagnosis["near_duplicates"][0]
        what = "1 pair of photos looks" if count == 1 else f"{count} pairs of photos look"
        lines.append(
            f"Warning: {what} the same across splits; this inflates the scores. For example "
            f"{pair['first']} ({pair['first_split']}) and {pair['second']} ({pair['second_split']})."
        )
    return lines
