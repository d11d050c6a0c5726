"""Evaluations as pages show them: accuracy with interval, confusion matrix, scores by class, comparison of models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from catdog.console import counted
from catdog.evaluation.metrics import wilson_interval
from catdog.report.markup import Child, Html, join, tag
from catdog.report.page import details, figure, table
from catdog.storage.schemas import UNSURE

_MATRIX = 24  # classes; nobody reads a larger matrix
_PAIRS = 12
_WORST = 12  # classes shown if there are many; a folded table has all of them

Evaluation = Mapping[str, Any]  # as Evaluation.to_json has it


def accuracy_interval(accuracy: float, photos: int) -> tuple[float, float]:
    """Return the 95 % interval (Wilson) of `accuracy` on `photos` photos."""
    return wilson_interval(round(accuracy * photos), photos)


def accuracy_cell(accuracy: float, photos: int) -> Html:
    """Return an accuracy with its 95 % interval below it."""
    low, high = accuracy_interval(accuracy, photos)
    return join([f"{accuracy:.4f}", tag("small", f"{low:.3f} to {high:.3f}")])


def score_sentence(evaluation: Evaluation) -> str:
    """Return accuracy with interval, balanced accuracy, log loss and calibration error of one model in a sentence."""
    low, high = evaluation["accuracy_low"], evaluation["accuracy_high"]
    text = f"{evaluation['correct']:,} of {evaluation['photos']:,} photos are correct: accuracy "
    text += f"{evaluation['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f})"
    if evaluation["sure"] < evaluation["photos"] and evaluation["accuracy_of_sure"] is not None:
        text += f", {evaluation['accuracy_of_sure']:.4f} on the {evaluation['sure']:,} sure photos"
    if "balanced_accuracy" in evaluation:  # files of earlier versions lack it
        text += f", balanced accuracy {evaluation['balanced_accuracy']:.4f}"
    return (
        f"{text}, log loss {evaluation['log_loss']:.4f}, expected calibration error "
        f"{evaluation['calibration_error']:.4f}."
    )


def score_tables(evaluation: Evaluation) -> Html:
    """Return the confusion matrix (with many classes, the most frequent confusions) and the scores by class."""
    unsure = evaluation["sure"] < evaluation["photos"]
    labels = [*evaluation["classes"], *([UNSURE] if unsure else [])]
    if len(labels) <= _MATRIX:
        confusion = figure("Rows are true classes, columns predicted ones.", _confusion(evaluation, labels))
    else:
        confusion = figure(f"The {_PAIRS} most frequent confusions.", _worst_pairs(evaluation, labels))
    return tag(
        "div",
        confusion,
        figure(
            "Precision: the share of photos predicted as a class that belong to it. Recall: the share of a class's "
            "photos that were found. F1: their harmonic mean.",
            _by_class(evaluation["by_class"]),
        ),
        class_="columns",
    )


def _worst_pairs(evaluation: Evaluation, labels: Sequence[str]) -> Html:
    pairs = [
        (count, name, label)
        for index, (name, counts) in enumerate(zip(evaluation["classes"], evaluation["confusion"], strict=True))
        for column, (label, count) in enumerate(zip(labels, counts, strict=False))
        if count and column != index
    ]
    pairs.sort(key=lambda pair: -pair[0])
    rows: list[Sequence[Child]] = [(name, label, f"{count:,}") for count, name, label in pairs[:_PAIRS]]
    return table(("true class", "predicted", "photos"), rows, texts=2)


def _confusion(evaluation: Evaluation, labels: Sequence[str]) -> Html:
    rows = []
    for index, (name, counts) in enumerate(zip(evaluation["classes"], evaluation["confusion"], strict=True)):
        total = max(1, sum(counts))
        cells = [
            tag(
                "td",
                f"{count:,}",
                # Five steps of colour: a colour by value needs a style attribute, which the page's policy forbids.
                class_=f"{'right' if column == index else 'wrong'} level{_level(count / total)}" if count else "none",
                data_tip=f"true {name}, predicted {label}\n{counted(count, 'photo')}, {count / total:.1%} of its class",
            )
            for column, (label, count) in enumerate(zip(labels, counts, strict=False))
        ]
        rows.append(tag("tr", tag("th", name, scope="row", class_="text"), join(cells)))
    head = tag("tr", tag("td", "true \\ predicted"), join(tag("th", label, scope="col") for label in labels))
    inside = tag("table", tag("thead", head), tag("tbody", join(rows)), class_="confusion")
    return tag("div", inside, class_="scroll", tabindex="0", role="region", aria_label="Confusion matrix")


def _level(share: float) -> int:
    return sum(share > edge for edge in (0.02, 0.1, 0.3, 0.7))


def _by_class(scores: Sequence[Mapping[str, Any]]) -> Html:
    # A class without photos and without predictions has no scores.
    known = [one for one in scores if one["photos"] or one["precision"] is not None]
    rows: list[Sequence[Child]] = [
        (
            one["name"],
            f"{one['photos']:,}",
            *("-" if one[key] is None else f"{one[key]:.4f}" for key in ("precision", "recall", "f1")),
        )
        for one in known
    ]
    head = ("class", "photos", "precision", "recall", "F1")
    if len(rows) <= _MATRIX:
        return table(head, rows, sortable=len(rows) > 2)
    ranked = sorted(range(len(known)), key=lambda place: math.inf if known[place]["f1"] is None else known[place]["f1"])
    worst = table(head, [rows[place] for place in ranked[:_WORST]], caption=f"The {_WORST} classes with the lowest F1")
    return join([worst, details(f"All {len(rows)} classes", table(head, rows, sortable=True))])


def comparison_sentence(comparison: Mapping[str, Any], *, first: str, second: str, where: str = "photos") -> str:
    """Return how two models differ, with McNemar's test, as a sentence; `where` names the photos."""
    photos, agree = comparison["photos"], comparison["agree"]
    text = f"On the {photos:,} {where} both predict the same {agree:,} times ({agree / photos:.1%})."
    if comparison.get("p_value") is None:
        return text
    if not comparison["only_first_correct"] and not comparison["only_second_correct"]:
        return f"{text} They are correct on the same photos."
    p = comparison["p_value"]
    meaning = "unlikely to be chance" if p < 0.05 else "that may be chance"
    return (
        f"{text} Only {first} is correct on {comparison['only_first_correct']:,}, only {second} on "
        f"{comparison['only_second_correct']:,}: a difference {meaning} (McNemar's exact test, p = {p:.3g})."
    )
