"""Sections on how good the model is: headline numbers, stages compared, confusion matrix, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from catdog.console import counted, duration
from catdog.report.charts import legend, reliability
from catdog.report.evaluation_tables import (
    accuracy_cell,
    accuracy_interval,
    comparison_sentence,
    score_sentence,
    score_tables,
)
from catdog.report.markup import Child, Html, join, tag
from catdog.report.page import Section, details, figure, table, tiles

_UNEVEN = 1.2  # balanced accuracy is shown if the largest class is more than this times the smallest


def overview(report: Mapping[str, Any], diagnosis: Mapping[str, Any]) -> Html:
    """Return the headline numbers of the run's model."""
    stage, split = report["model"], report_split(report)
    scores, photos = report["stages"][stage][split], sum(report["counts"][split].values())
    trained = sum(report["counts"]["train"].values())
    balanced = _balanced_accuracy(report, diagnosis, stage, split)
    calibration = diagnosis.get("calibration") or {}
    final = calibration.get("after") or calibration.get("before")
    return tiles(
        (f"{split} accuracy", f"{scores['accuracy']:.4f}", _interval(scores["accuracy"], photos)),
        ("balanced accuracy", f"{balanced:.4f}", "mean recall of the classes") if balanced is not None else None,
        ("wrong", f"{photos - round(scores['accuracy'] * photos):,}", f"of {counted(photos, f'{split} photo')}"),
        ("log loss", f"{scores['loss']:.4f}", f"on {split} photos"),
        ("calibration error", f"{final['error']:.4f}", f"on {calibration['split']} photos; 0 is perfect")
        if final
        else None,
        ("stage", stage, "chosen on validation" if len(report["stages"]) > 1 else "the only one"),
        ("time", duration(report["seconds"]["total"]), counted(trained, "training photo")),
    )


def report_split(report: Mapping[str, Any]) -> str:
    """Return the split whose scores are reported: test if there are test photos, otherwise validation."""
    return "test" if "test" in report["stages"][report["model"]] else "validation"


def _interval(accuracy: float, photos: int) -> str:
    low, high = accuracy_interval(accuracy, photos)
    return f"95 %: {low:.4f} to {high:.4f}"


def _balanced_accuracy(report: Mapping[str, Any], diagnosis: Mapping[str, Any], stage: str, split: str) -> float | None:
    """Return the balanced accuracy; None if it is unknown, or adds nothing because classes have similar sizes."""
    evaluation = (diagnosis.get("evaluations") or {}).get(stage, {}).get(split, {})
    photos = report["counts"][split].values()
    if max(photos) <= _UNEVEN * min(photos) or "balanced_accuracy" not in evaluation:
        return None
    return float(evaluation["balanced_accuracy"])


def stages_table(report: Mapping[str, Any], diagnosis: Mapping[str, Any]) -> Html:
    """Return a table that compares the stages, and sentences on how they differ."""
    splits = [split for split in ("validation", "test") if split in report["stages"][report["model"]]]
    head: list[str] = []
    columns: list[list[Child]] = []
    for split in splits:
        photos = sum(report["counts"][split].values())
        found = {stage: scores.get(split) for stage, scores in report["stages"].items()}
        head += [f"{split} accuracy", f"{split} loss"]
        columns.append([accuracy_cell(scores["accuracy"], photos) if scores else "-" for scores in found.values()])
        columns.append([f"{scores['loss']:.4f}" if scores else "-" for scores in found.values()])
        balanced = [_balanced_accuracy(report, diagnosis, stage, split) for stage in found]
        if any(value is not None for value in balanced):
            head.insert(-1, "balanced")
            columns.insert(-1, ["-" if value is None else f"{value:.4f}" for value in balanced])
    rows: list[Sequence[Child]] = []
    for (name, stage), cells in zip(report["stages"].items(), zip(*columns, strict=True), strict=True):
        is_chosen = name == report["model"] and len(report["stages"]) > 1
        title = [name, tag("small", "chosen on validation")] if is_chosen else name
        epochs = ("solved", "-") if stage.get("head") else (str(stage["epochs"]), str(stage["best_epoch"]))
        rows.append((title, *epochs, *cells, duration(stage["seconds"])))
    sentences = [
        tag("p", _compare(comparison, where=f"{split} photos"))
        for split, comparison in (diagnosis.get("comparison") or {}).items()
        if comparison
    ]
    note = "Below each accuracy: its 95 % confidence interval (Wilson)."
    if (choice := report.get("choice")) and len(report["stages"]) > 1:
        sentences.insert(0, tag("p", f"Why this model: {choice}."))
    listing = table(("stage", "epochs", "best epoch", *head, "time"), rows)
    return join([listing, tag("p", note, class_="soft"), join(sentences), join(_penalties(report))])


def _penalties(report: Mapping[str, Any]) -> list[Html]:
    """Return, for each stage whose head was cross-validated, how the strength of its penalty was chosen."""
    found = []
    for name, stage in report["stages"].items():
        if losses := (stage.get("head") or {}).get("losses"):
            rows = [(f"{float(c):g}", f"{loss:.4f}") for c, loss in losses.items()]
            text = f"The {name} stage is a logistic regression: C = {stage['head']['c']:g}, by cross-validation"
            found.append(details(text, table(("C", "cross-validated loss"), rows)))
    return found


def _compare(comparison: Mapping[str, Any], *, where: str) -> str:
    return comparison_sentence(comparison, first="the frozen stage", second="the unfrozen stage", where=where)


def confusion_section(report: Mapping[str, Any], diagnosis: Mapping[str, Any]) -> Section | None:
    """Return the confusion matrix and the scores by class of the run's model, the test split first."""
    evaluations = (diagnosis.get("evaluations") or {}).get(report["model"]) or {}
    parts: list[Child] = []
    for split in ("test", "validation"):
        if evaluation := evaluations.get(split):
            body = join([tag("p", score_sentence(evaluation)), score_tables(evaluation)])
            parts.append(details(f"On the {split} photos", body) if parts else join([_on(split, report), body]))
    return Section(name="confusion", title="Confusion matrix", body=join(parts)) if parts else None


def _on(split: str, report: Mapping[str, Any]) -> Html:
    return tag("p", f"The {report['model']} stage's model on the {split} photos.", class_="soft")


def calibration_section(diagnosis: Mapping[str, Any]) -> Section | None:
    """Return the reliability diagram, before and after temperature scaling."""
    found = diagnosis.get("calibration") or {}
    before, after = found.get("before"), found.get("after")
    if not before or not before["bins"]:
        return None
    split, temperature = found.get("split", "validation"), found.get("temperature", 1.0)
    text = (
        f"Of the photos with confidence 0.9, nine in ten should be correct. On the {split} photos the expected "
        f"calibration error is {before['error']:.4f}"
    )
    if after:
        text += (
            f"; with temperature scaling it is {after['error']:.4f}. The logits are divided by {temperature:.3g}, and "
            "the saved model includes this."
        )
    else:
        text += ". The probabilities are the network's own, without temperature scaling"
        text += f": {found['reason']}." if found.get("reason") else "."
    series = {"as trained": before["bins"], **({"with temperature": after["bins"]} if after and after["bins"] else {})}
    key = legend(*((f"dot s{index}", name) for index, name in enumerate(series)))
    chart = reliability(series, title="Reliability diagram: accuracy against confidence")
    note = (
        "Each dot is one of 15 bins of confidence; a small dot stands for few photos and is unreliable. A perfectly "
        "calibrated model lies on the dashed line."
    )
    body = tag("div", figure(note, key, chart), tag("p", text), class_="columns")
    return Section(name="calibration", title="Calibration", body=body)
