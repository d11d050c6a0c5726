"""What a person should know about a finished train run besides its scores: diagnosis.json and thumbnails.parquet.

    predictions.parquet of each stage --> evaluations, comparison, calibration, worst, least sure
    cached head features              --> likely label errors
    the manifest's hashes             --> near-duplicates across splits

`worst` and `least_sure` are validation and test photos, with the calibrated probabilities of the run's model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catdog.evaluation.calibration import Temperature, apply_temperature, choose_temperature
from catdog.evaluation.held_out import Outcomes, brief, find_outcomes, probabilities_of, select_split
from catdog.evaluation.label_errors import find_label_errors
from catdog.evaluation.metrics import evaluate_sums, expected_calibration_error, reliability_bins
from catdog.evaluation.near_duplicates import find_near_duplicates
from catdog.evaluation.paired import PairSums, compare_sums, pair_sums
from catdog.evaluation.sums import ScoreSums, score_sums
from catdog.features.cache import FeatureCache
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.manifest import AnyManifest
from catdog.report.thumbnails import make_thumbnails, read_pictures, write_pictures
from catdog.storage import files
from catdog.storage.schemas import PICTURES, SPLITS, outcome_schema

DIAGNOSIS_FILE, PICTURES_FILE = "diagnosis.json", "thumbnails.parquet"
SHOWN = 24  # photos or pairs of each list
_MAX_CALIBRATED = 500_000  # validation photos that the temperature is fitted to; more would not change it
_MAX_TRAIN_PHOTOS = 20_000  # searched for likely label errors: 50 MB of features
_MAX_COMPARED_PHOTOS = 500_000  # searched for near-duplicates, if the manifest is sharded
_HELD_OUT = ("validation", "test")


def choose_run_temperature(stage_dir: str, *, classes: Sequence[str]) -> Temperature:
    """Return the temperature for the model of a stage, fitted to its validation rows; 1.0 if it has no predictions."""
    outcomes = find_outcomes(stage_dir, classes=classes)
    if outcomes is None:
        return Temperature(value=1.0, reason="the stage left no predictions")
    return choose_temperature(*outcomes.first("validation", rows=_MAX_CALIBRATED))


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

    `best` is the stage whose model the run uses. `train_features` is the cache of pooled features of the training
    photos. `heatmaps` is a file of heatmap pictures (schemas.PICTURES), which need not exist.
    """
    found = {stage: find_outcomes(files.join(run_dir, stage), classes=manifest.classes) for stage in stages}
    outcomes = {stage: each for stage, each in found.items() if each is not None}
    sums = {stage: _sums_by_split(each) for stage, each in outcomes.items()}
    diagnosis = {
        "evaluations": {stage: _evaluations(each, manifest.classes) for stage, each in sums.items()},
        "comparison": _comparison(list(outcomes.values())),
        **(_of_model(outcomes[best], sums[best], temperature) if best in outcomes else {}),
        "label_errors": _label_errors(train_features, manifest.classes),
        **_near_duplicates(manifest),
    }
    _write_pictures(run_dir, diagnosis, heatmaps=heatmaps, limits=limits, task_cpus=task_cpus)
    files.write_json(files.join(run_dir, DIAGNOSIS_FILE), diagnosis)
    return _lines(diagnosis, temperature)


def _sums_by_split(outcomes: Outcomes, temperature: float = 1.0) -> dict[str, ScoreSums]:
    """Return the score sums of each split, with the logits divided by `temperature`."""
    sums: dict[str, ScoreSums] = {}
    for split, true, probabilities in outcomes.by_split():
        shown = probabilities if temperature == 1.0 else apply_temperature(probabilities, temperature)
        found = score_sums(true, shown)
        sums[split] = sums[split] + found if split in sums else found
    return sums


def _evaluations(sums: Mapping[str, ScoreSums], classes: Sequence[str]) -> dict[str, Any]:
    return {split: evaluate_sums(sums[split], classes=classes).to_json() for split in _HELD_OUT if split in sums}


def _comparison(stages: Sequence[Outcomes]) -> dict[str, Any]:
    """Compare the first stage with the last one on the photos for which both have predictions."""
    if len(stages) < 2:
        return {}
    sums, classes = dict.fromkeys(_HELD_OUT, PairSums()), stages[0].classes
    for first, last in _joined(stages[0], stages[-1]):
        for split in _HELD_OUT:
            true, before = select_split(first, split, classes=classes)
            sums[split] += pair_sums(before, select_split(last, split, classes=classes)[1], true)
    return {split: compare_sums(found).to_json() for split, found in sums.items() if found.photos}


def _joined(first: Outcomes, last: Outcomes) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield rows of both stages for the same photos, in the same order.

    Both stages have their photos in the same order, so only rows that the other stage has not yet yielded are buffered.
    """
    nothing = outcome_schema(first.classes).empty_table()
    waiting = [nothing, nothing]
    for more in itertools.zip_longest(first.stretches(), last.stretches(), fillvalue=nothing):
        rows = [pa.concat_tables(pair) for pair in zip(waiting, more, strict=True)]
        places = pc.index_in(rows[0]["path"], rows[1]["path"].combine_chunks())
        yield rows[0].filter(places.is_valid()), rows[1].take(places.drop_null())
        alone = pc.invert(pc.is_in(rows[1]["path"], rows[0]["path"].combine_chunks()))
        waiting = [rows[0].filter(places.is_null()), rows[1].filter(alone)]


def _of_model(outcomes: Outcomes, sums: Mapping[str, ScoreSums], temperature: Temperature) -> dict[str, Any]:
    """Return calibration, worst and least_sure of the run's model, from the `outcomes` and `sums` of its stage."""
    # The temperature was fitted on validation photos, so only test photos show what it is worth.
    split = "test" if "test" in sums else "validation"
    helps = temperature.value != 1.0
    return {
        "calibration": {
            "split": split,
            "temperature": temperature.value,
            "reason": temperature.reason,
            "before": _reliability(sums[split].bins),
            "after": _reliability(_sums_by_split(outcomes, temperature.value)[split].bins) if helps else None,
        },
        "worst": _as_calibrated(outcomes.worst(limit=SHOWN), temperature, outcomes.classes, reverse=True),
        "least_sure": _as_calibrated(
            outcomes.least_confident(limit=SHOWN), temperature, outcomes.classes, reverse=False
        ),
    }


def _reliability(bins: np.ndarray) -> dict[str, Any]:
    return {"error": expected_calibration_error(bins), "bins": reliability_bins(bins)}


def _as_calibrated(
    rows: pa.Table, temperature: Temperature, classes: Sequence[str], *, reverse: bool
) -> list[dict[str, Any]]:
    """Return `rows` in brief with the probabilities of the calibrated model, sorted by these."""
    shown = brief(rows)
    if temperature.value == 1.0 or not shown:
        return shown
    tops = apply_temperature(probabilities_of(rows, classes=classes), temperature.value).max(axis=1)
    calibrated = [{**row, "probability": float(top)} for row, top in zip(shown, tops, strict=True)]
    return sorted(calibrated, key=lambda row: row["probability"], reverse=reverse)


def _label_errors(cache: FeatureCache | None, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the training photos whose label is likely wrong; `label` and `probability` are predicted."""
    if cache is None:
        return []
    # Rows are sorted by digest, so the first ones are a random sample.
    features, labels, paths = cache.read_first(_MAX_TRAIN_PHOTOS)
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
    table = manifest.sample(_MAX_COMPARED_PHOTOS)
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
