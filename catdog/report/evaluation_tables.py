"""What the pages show of an evaluation: accuracy with its interval, confusion matrix, scores by class, two models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from catdog.evaluation.metrics import wilson_interval
from catdog.report.markup import Child, Html, join, tag
from catdog.report.page import figure, folded, table
from catdog.storage.schemas import UNSURE

_MATRIX = 24  # classes; a greater matrix is neither read nor loaded with pleasure
_PAIRS = 30

Evaluation = Mapping[str, Any]  # as Evaluation.to_json has it


def accuracy_interval(accuracy: float, photos: int) -> tuple[float, float]:
    """Return the 95 % interval (Wilson) of an accuracy on so many photos."""
    return wilson_interval(round(accuracy * photos), photos)


def accuracy_cell(accuracy: float, photos: int) -> Html:
    """Return an accuracy with its 95 % interval below it."""
    low, high = accuracy_interval(accuracy, photos)
    return join([f"{accuracy:.4f}", tag("small", f"{low:.3f} to {high:.3f}")])


def score_sentence(evaluation: Evaluation) -> str:
    """Return accuracy, interval, log loss and calibration error of one model in a sentence."""
    low, high = evaluation["accuracy_low"], evaluation["accuracy_high"]
    text = f"{evaluation['correct']:,} of {evaluation['photos']:,} photos are right: accuracy "
    text += f"{evaluation['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f})"
    if evaluation["sure"] < evaluation["photos"] and evaluation["accuracy_of_sure"] is not None:
        text += f", {evaluation['accuracy_of_sure']:.4f} of the {evaluation['sure']:,} sure ones"
    return (
        f"{text}, log loss {evaluation['log_loss']:.4f}, expected calibration error "
        f"{evaluation['calibration_error']:.4f}."
    )


def score_tables(evaluation: Evaluation) -> Html:
    """Return the confusion matrix, or of many classes the worst of it, and precision, recall and F1 by class."""
    unsure = evaluation["sure"] < evaluation["photos"]
    labels = [*evaluation["classes"], *([UNSURE] if unsure else [])]
    if len(labels) <= _MATRIX:
        confusion = figure("Rows are true classes, columns what the model said.", _confusion(evaluation, labels))
    else:
        confusion = figure(f"The {_PAIRS} most frequent confusions.", _worst_pairs(evaluation, labels))
    return tag(
        "div",
        confusion,
        figure(
            "Precision: of what was called so, the share that is. Recall: of what is so, the share that was found.",
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
    return table(("true class", "said", "photos"), rows, texts=2)


def _confusion(evaluation: Evaluation, labels: Sequence[str]) -> Html:
    rows = []
    for index, (name, counts) in enumerate(zip(evaluation["classes"], evaluation["confusion"], strict=True)):
        total = max(1, sum(counts))
        cells = [
            tag(
                "td",
                f"{count:,}",
                # Five steps of colour: a style by value would need a style attribute, which the policy forbids.
                class_=f"{'right' if column == index else 'wrong'} level{_level(count / total)}" if count else "none",
                data_tip=f"true {name}, called {label}\n{count:,} photos, {count / total:.1%} of its class",
            )
            for column, (label, count) in enumerate(zip(labels, counts, strict=False))
        ]
        rows.append(tag("tr", tag("th", name, scope="row", class_="text"), join(cells)))
    head = tag("tr", tag("td", "true \\ said"), join(tag("th", label, scope="col") for label in labels))
    inside = tag("table", tag("thead", head), tag("tbody", join(rows)), class_="confusion")
    return tag("div", inside, class_="scroll", tabindex="0", role="region", aria_label="Confusion matrix")


def _level(share: float) -> int:
    return sum(share > edge for edge in (0.02, 0.1, 0.3, 0.7))


def _by_class(scores: Sequence[Mapping[str, Any]]) -> Html:
    rows: list[Sequence[Child]] = [
        (
            one["name"],
            f"{one['photos']:,}",
            *("-" if one[key] is None else f"{one[key]:.4f}" for key in ("precision", "recall", "f1")),
        )
        for one in scores
    ]
    listing = table(("class", "photos", "precision", "recall", "F1"), rows, sortable=len(rows) > 2)
    return folded(len(rows), "row", listing)


def comparison_sentence(comparison: Mapping[str, Any], *, first: str, second: str, where: str = "photos") -> str:
    """Return in words how two models differ, with McNemar's test; `where` names the photos."""
    photos, agree = comparison["photos"], comparison["agree"]
    text = f"On the {photos:,} {where} they say the same {agree:,} times ({agree / photos:.1%})."
    if comparison.get("p_value") is None:
        return text
    if not comparison["only_first_correct"] and not comparison["only_second_correct"]:
        return f"{text} They are right and wrong on the same photos."
    p = comparison["p_value"]
    meaning = "too large for chance alone" if p < 0.05 else "that chance alone may explain"
    return (
        f"{text} Only {first} is right on {comparison['only_first_correct']:,}, only {second} on "
        f"{comparison['only_second_correct']:,}: a difference {meaning} (McNemar's exact test, p = {p:.3g})."
    )
