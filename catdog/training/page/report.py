"""report.html of a train job: scores, curves, both stages compared, errors with heatmaps, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from catdog.console import counted
from catdog.model.saved_model import CARD_FILE
from catdog.report.charts import History, curve, legend
from catdog.report.markup import Child, Html, join, tag
from catdog.report.page import (
    Section,
    build_page,
    details,
    figure,
    folded,
    seconds_table,
    settings_table,
    table,
)
from catdog.report.thumbnails import read_pictures
from catdog.storage import files
from catdog.training.diagnosis import DIAGNOSIS_FILE, PICTURES_FILE
from catdog.training.page.photos import Pictures, near_duplicates_section, photos_section
from catdog.training.page.scores import calibration_section, confusion_section, overview, stages_table

_NAMED = 6  # classes in the line below the title


def build_train_page(run_dir: str, *, histories: Mapping[str, History]) -> str:
    """Return the page of the finished run in `run_dir`; sections for which an older run left no data are omitted.

    `histories` has the rows of history.csv by stage, in order.
    """
    report, diagnosis, config, card = (
        _read(run_dir, name) for name in ("report.json", DIAGNOSIS_FILE, "config.json", f"model/{CARD_FILE}")
    )
    pictures = _pictures(run_dir)
    return build_page(
        title="Training",
        subtitle=f"{run_dir}: {_classes_text(report['classes'])}",
        sections=[
            Section(name="scores", title="Summary", body=join([overview(report, diagnosis), _drawn_warning(config)])),
            _curves({name: rows for name, rows in histories.items() if not _is_solved(report, name)}),
            Section(name="stages", title="Stages", body=stages_table(report, diagnosis)),
            confusion_section(report, diagnosis),
            calibration_section(diagnosis),
            photos_section(diagnosis, pictures, "worst"),
            photos_section(diagnosis, pictures, "least_sure"),
            photos_section(diagnosis, pictures, "label_errors"),
            near_duplicates_section(diagnosis, pictures),
            Section(name="photos", title="Photos and splits", body=_counts(report["counts"], config)),
            Section(name="time", title="Time by step", body=tag("div", seconds_table(report["seconds"]))),
            Section(name="settings", title="Settings and versions", body=_settings(run_dir, report, config, card)),
        ],
    )


def _drawn_warning(config: Mapping[str, Any]) -> Html | None:
    """Return a warning if no photos were given, so that the model was trained on the drawn sample."""
    if config.get("photos") != "":
        return None
    return tag("p", "This model was trained on the sample of drawn pictures: do not trust its labels of real photos.")


def _classes_text(classes: Sequence[str]) -> str:
    more = len(classes) - _NAMED
    return ", ".join(classes[:_NAMED]) + (f" and {more} more classes" if more > 0 else "")


def _read(run_dir: str, name: str) -> dict[str, Any]:
    path = files.join(run_dir, name)
    return files.read_json(path) if files.exists(path) else {}


def _pictures(run_dir: str) -> Pictures:
    rows = read_pictures(files.join(run_dir, PICTURES_FILE)).to_pylist()
    return {(row["name"], row["kind"]): row["jpeg"] for row in rows}


def _curves(histories: Mapping[str, History]) -> Section | None:
    if not any(histories.values()):
        return None
    key = legend(("dot s1", "training"), ("line s0", "validation"))
    charts = (
        figure(
            [
                f"{title} after each epoch, on training and validation photos.",
                _curve_values(histories, score),
            ],
            key,
            curve(histories, score, title=title),
        )
        for score, title in (("acc", "Accuracy"), ("loss", "Loss"))
    )
    return Section(name="curves", title="Curves", body=tag("div", join(charts), class_="columns"))


def _is_solved(report: Mapping[str, Any], stage: str) -> bool:
    """Return whether the head of `stage` was fitted as a logistic regression, for which no curves are shown."""
    return bool(report["stages"].get(stage, {}).get("head"))


def _curve_values(histories: Mapping[str, History], score: str) -> Html:
    rows = [
        (f"{stage} {int(row['epoch'])}", f"{row[score]:.4f}", f"{row[f'val_{score}']:.4f}")
        for stage, history in histories.items()
        for row in history
    ]
    return details("As a table", table(("epoch", "training", "validation"), rows))


def _counts(counts: Mapping[str, Any], config: Mapping[str, Any]) -> Html:
    splits = {name: value for name, value in counts.items() if isinstance(value, Mapping)}
    classes = list(next(iter(splits.values()), {}))
    rows: list[Sequence[Child]] = [(name, *(f"{splits[split].get(name, 0):,}" for split in splits)) for name in classes]
    rows.append(("total", *(f"{sum(found.values()):,}" for found in splits.values())))
    uneven = _uneven_text(splits.get("train", {}), config)
    text = f"{counted(counts.get('rejected', 0), 'file')} rejected; the reasons are in manifest/rejected.parquet."
    listing = folded(len(rows), "row", table(("class", *splits), rows))
    return join([listing, tag("p", uneven) if uneven else None, tag("p", text, class_="soft")])


def _uneven_text(counts: Mapping[str, int], config: Mapping[str, Any]) -> str:
    """Return a warning if one class has over 1.5 times as many training photos as another, else an empty string."""
    most, least = max(counts.values(), default=0), min(counts.values(), default=0)
    if not least or most <= 1.5 * least:
        return ""
    text = f"The largest class has {most / least:.1f} times as many training photos as the smallest. "
    text += "Judge the model by its balanced accuracy, in which all classes count alike."
    if "class_weights" not in config:
        return text
    return f"{text} Training {'did not weight' if config['class_weights'] == 'none' else 'weighted'} the classes."


def _settings(run_dir: str, report: Mapping[str, Any], config: Mapping[str, Any], card: Mapping[str, Any]) -> Html:
    weights = card.get("weights", {})
    facts = {
        "backbone": card.get("backbone"),
        "pretrained weights": weights.get("source"),
        "licence of the weights": weights.get("license") or ("not stated" if weights.get("checksum") else None),
        "checksum of the weights": weights.get("checksum"),
        "created": card.get("created"),
        "model": files.join(run_dir, "model"),
    }
    return join(
        [
            settings_table({name: value for name, value in facts.items() if value}, head=("model", "")),
            details("Settings", settings_table(config, head=("setting", "value"))) if config else None,
            details("Versions", settings_table(report.get("versions", {}), head=("package", "version"))),
        ]
    )
