from typing import Any

import numpy as np

from catdog.evaluation.metrics import evaluate
from catdog.training.page.scores import confusion_section, overview, stages_table


def made_run(cats: int, dogs: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the contents of report.json and diagnosis.json for a model that takes the first cat for a dog."""
    true = np.repeat([0, 1], [cats, dogs])
    dog = np.where(np.arange(len(true)) == 0, 0.9, 0.9 * true + 0.05)
    found = evaluate(true, np.stack([1 - dog, dog], axis=1), classes=("<cat>", "dog")).to_json()
    scores = {"accuracy": found["accuracy"], "loss": found["log_loss"]}
    stage = {"epochs": 2, "best_epoch": 1, "seconds": 3.0, "validation": scores}
    counts = {"train": {"<cat>": 4 * cats, "dog": 4 * dogs}, "validation": {"<cat>": cats, "dog": dogs}}
    report = {"classes": ["<cat>", "dog"], "counts": counts, "model": "frozen", "seconds": {"total": 9.0}}
    return {**report, "stages": {"frozen": stage}}, {"evaluations": {"frozen": {"validation": found}}}


def test_balanced_accuracy_stands_beside_accuracy_where_classes_are_uneven() -> None:
    report, diagnosis = made_run(10, 90)
    text = overview(report, diagnosis)
    assert '<dt>validation accuracy</dt><dd class="number">0.9900</dd>' in text
    assert '<dt>balanced accuracy</dt><dd class="number">0.9500</dd>' in text
    assert '<dt>wrong</dt><dd class="number">1</dd><dd>of 100 validation photos</dd>' in text
    assert "balanced" in stages_table(report, diagnosis)
    even = made_run(50, 50)
    assert "balanced" not in overview(*even)
    assert "balanced" not in stages_table(*even)


def test_a_run_of_an_earlier_version_has_no_balanced_accuracy() -> None:
    report, _ = made_run(10, 90)
    assert "balanced" not in overview(report, {})
    assert confusion_section(report, {}) is None


def test_class_names_are_escaped() -> None:
    section = confusion_section(*made_run(10, 90))
    assert section is not None
    assert "<cat>" not in section.body


def test_the_choice_and_the_penalty_of_a_solved_head_are_explained() -> None:
    report, diagnosis = made_run(50, 50)
    report["choice"] = "the frozen stage's model has the lower validation loss: 0.0400 against 0.0500"
    assert "Why this model" not in stages_table(report, diagnosis)
    report["stages"]["unfrozen"] = {**report["stages"]["frozen"]}
    report["stages"]["frozen"]["head"] = {"c": 0.01, "losses": {"0.001": 0.06, "0.01": 0.04}}
    text = stages_table(report, diagnosis)
    assert "Why this model: the frozen stage&#x27;s model has the lower validation loss: 0.0400" in text
    assert "C = 0.01, by cross-validation" in text
    assert "<td>0.0600</td>" in text
    assert "solved" in text
