"""report.html of a train job: scores, curves, both stages compared, errors with heatmaps, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from catdog.console import counted, duration
from catdog.model.saved_model import CARD_FILE
from catdog.report.charts import History, curve, legend, reliability
from catdog.report.evaluation_tables import (
    accuracy_cell,
    accuracy_interval,
    comparison_sentence,
    score_sentence,
    score_tables,
)
from catdog.report.markup import Child, Html, join, tag
from catdog.report.page import (
    Section,
    build_page,
    details,
    figure,
    folded,
    image,
    seconds_table,
    settings_table,
    table,
    tiles,
)
from catdog.storage import files

DIAGNOSIS_FILE = "diagnosis.json"
THUMBNAILS_FILE = "thumbnails.parquet"

_SHOWN_FIRST = 12  # photos of a list; the rest is folded

Pictures = Mapping[tuple[str, str], bytes]  # by name and kind, "photo" or "heat"


def build_train_page(run_dir: str, *, histories: Mapping[str, History]) -> str:
    """Return the page of the finished run in `run_dir`; sections for which an older run left no data are omitted.

    `histories` has the rows of history.csv by stage, in order.
    """
    report, diagnosis, config, card = (
        _read(run_dir, name) for name in ("report.json", DIAGNOSIS_FILE, "config.json", f"model/{CARD_FILE}")
    )
    pictures = _read_pictures(run_dir)
    return build_page(
        title="Training",
        subtitle=f"{run_dir}: {', '.join(report['classes'])}",
        sections=[
            Section(name="scores", title="Summary", body=_overview(report, diagnosis)),
            _curves(histories),
            Section(name="stages", title="Stages compared", body=_stages(report, diagnosis)),
            _confusion(report, diagnosis),
            _calibration(diagnosis),
            _photos(diagnosis, pictures, "worst"),
            _photos(diagnosis, pictures, "least_sure"),
            _photos(diagnosis, pictures, "label_errors"),
            _near_duplicates(diagnosis, pictures),
            Section(name="photos", title="Photos and splits", body=_counts(report["counts"])),
            Section(name="time", title="Time by step", body=tag("div", seconds_table(report["seconds"]))),
            Section(name="settings", title="Settings and versions", body=_settings(run_dir, report, config, card)),
        ],
    )


def _read(run_dir: str, name: str) -> dict[str, Any]:
    path = files.join(run_dir, name)
    return files.read_json(path) if files.exists(path) else {}


def _read_pictures(run_dir: str) -> Pictures:
    path = files.join(run_dir, THUMBNAILS_FILE)
    if not files.exists(path):
        return {}
    rows = pq.read_table(pa.BufferReader(files.read_bytes(path))).to_pylist()
    return {(row["name"], row["kind"]): row["jpeg"] for row in rows}


def _overview(report: Mapping[str, Any], diagnosis: Mapping[str, Any]) -> Html:
    stage, split = report["model"], report_split(report)
    scores, photos = report["stages"][stage][split], sum(report["counts"][split].values())
    right = round(scores["accuracy"] * photos)
    calibration = diagnosis.get("calibration") or {}
    final = calibration.get("after") or calibration.get("before")
    return tiles(
        (f"{split} accuracy", f"{scores['accuracy']:.4f}", _interval(scores["accuracy"], photos)),
        ("wrong", f"{photos - right:,} of {photos:,}", f"{split} photos"),
        ("log loss", f"{scores['loss']:.4f}", f"on {split} photos"),
        ("calibration error", f"{final['error']:.4f}", f"on {calibration['split']} photos; 0 is perfect")
        if final
        else None,
        ("model", f"{stage} stage", "better on validation"),
        ("time", duration(report["seconds"]["total"]), f"{sum(report['counts']['train'].values()):,} training photos"),
    )


def report_split(report: Mapping[str, Any]) -> str:
    """Return the split whose scores are reported: test, where there are test photos, else validation."""
    return "test" if "test" in report["stages"][report["model"]] else "validation"


def _interval(accuracy: float, photos: int) -> str:
    low, high = accuracy_interval(accuracy, photos)
    return f"95 %: {low:.4f} to {high:.4f}"


def _curves(histories: Mapping[str, History]) -> Section | None:
    if not any(histories.values()):
        return None
    key = legend(("dot s1", "training"), ("line s0", "validation"))
    charts = (
        figure(
            [
                f"{title} after each epoch. Training photos are augmented, validation photos are not.",
                _curve_values(histories, score),
            ],
            key,
            curve(histories, score, title=title),
        )
        for score, title in (("acc", "Accuracy"), ("loss", "Loss"))
    )
    return Section(name="curves", title="Curves", body=tag("div", join(charts), class_="columns"))


def _curve_values(histories: Mapping[str, History], score: str) -> Html:
    rows = [
        (f"{stage} {int(row['epoch'])}", f"{row[score]:.4f}", f"{row[f'val_{score}']:.4f}")
        for stage, history in histories.items()
        for row in history
    ]
    return details("As a table", table(("epoch", "training", "validation"), rows))


def _stages(report: Mapping[str, Any], diagnosis: Mapping[str, Any]) -> Html:
    splits = [split for split in ("validation", "test") if split in report["stages"][report["model"]]]
    rows: list[Sequence[Child]] = []
    for name, stage in report["stages"].items():
        cells: list[Child] = [str(stage["epochs"]), str(stage["best_epoch"])]
        for split in splits:
            photos = sum(report["counts"][split].values())
            scores = stage.get(split)
            cells += [accuracy_cell(scores["accuracy"], photos), f"{scores['loss']:.4f}"] if scores else ["-", "-"]
        title = [name, tag("small", "chosen on validation")] if name == report["model"] else name
        rows.append((title, *cells, duration(stage["seconds"])))
    head = [text for split in splits for text in (f"{split} accuracy", f"{split} loss")]
    sentences = [
        tag("p", _compare(comparison, where=f"{split} photos"))
        for split, comparison in (diagnosis.get("comparison") or {}).items()
        if comparison
    ]
    note = "Below each accuracy: its 95 % confidence interval (Wilson)."
    return join(
        [table(("stage", "epochs", "best epoch", *head, "time"), rows), tag("p", note, class_="soft"), join(sentences)]
    )


def _compare(comparison: Mapping[str, Any], *, where: str) -> str:
    return comparison_sentence(comparison, first="the frozen stage", second="the unfrozen stage", where=where)


def _confusion(report: Mapping[str, Any], diagnosis: Mapping[str, Any]) -> Section | None:
    evaluations = (diagnosis.get("evaluations") or {}).get(report["model"]) or {}
    parts: list[Child] = []
    for split in ("test", "validation"):
        if evaluation := evaluations.get(split):
            body = join([tag("p", score_sentence(evaluation)), score_tables(evaluation)])
            parts.append(details(f"On the {split} photos", body) if parts else join([_on(split, report), body]))
    return Section(name="confusion", title="Confusion matrix", body=join(parts)) if parts else None


def _on(split: str, report: Mapping[str, Any]) -> Html:
    return tag("p", f"The {report['model']} stage's model on the {split} photos.", class_="soft")


def _calibration(diagnosis: Mapping[str, Any]) -> Section | None:
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


_KINDS = {
    "worst": (
        "Worst errors",
        "Wrong predictions, the most confident first. The second picture is a Grad-CAM heatmap: warm regions count "
        "most for the predicted class.",
    ),
    "least_sure": ("Least confident", "Photos whose predicted class has the lowest probability."),
    "label_errors": (
        "Labels that may be wrong",
        "Training photos for which a model that was not trained on them predicts another class with high confidence. "
        "To correct a label, list the photo in a corrections.csv with the columns path and label, and give it to the "
        "next training: --corrections corrections.csv.",
    ),
}


def _photos(diagnosis: Mapping[str, Any], pictures: Pictures, kind: str) -> Section | None:
    rows = diagnosis.get(kind) or []
    if not rows:
        return None
    title, text = _KINDS[kind]
    heatmaps = kind == "worst" and any((row["path"], "heat") in pictures for row in rows)
    cards = [_card(row, pictures, heatmaps=heatmaps) for row in rows]
    style = "cards pairs" if heatmaps else "cards"
    rest = tag("ul", join(cards[_SHOWN_FIRST:]), class_=style)
    body = join(
        [
            tag("p", text),
            tag("ul", join(cards[:_SHOWN_FIRST]), class_=style),
            details(f"{len(cards) - _SHOWN_FIRST} more", rest) if len(cards) > _SHOWN_FIRST else None,
        ]
    )
    return Section(name=kind.replace("_", "-"), title=title, body=body)


def _card(row: Mapping[str, Any], pictures: Pictures, *, heatmaps: bool) -> Html:
    """Return one photo, with its heatmap beside it where `heatmaps` is true and there is one."""
    path, true, label = row["path"], row["true"], row["label"]
    name = "/".join(path.replace("!", "/").rsplit("/", 2)[-2:])
    heatmap = pictures.get((path, "heat")) if heatmaps else None
    views = [image(pictures.get((path, "photo")), text=f"{name}, class {true}, predicted {label}")]
    if heatmap:
        views.append(image(heatmap, text=f"heatmap of {name}"))
    wrong = true != label
    said = f"{label} {row['probability']:.5f}" if row["probability"] > 0.9995 else f"{label} {row['probability']:.3f}"
    text = tag(
        "div",
        tag("span", said, class_="said"),
        tag("span", f"labelled {true}", class_="bad" if wrong else "soft"),
        tag("span", name, class_="name", title=path),
        tag("span", row["split"], class_="name"),
        class_="text",
    )
    return tag("li", tag("div", join(views), class_="views"), text, class_="card")


def _near_duplicates(diagnosis: Mapping[str, Any], pictures: Pictures) -> Section | None:
    pairs = diagnosis.get("near_duplicates") or []
    if not pairs:
        return None
    count = max(len(pairs), diagnosis.get("near_duplicate_count") or 0)
    cards = []
    for pair in pairs:
        sides = [(pair[key], pair[f"{key}_split"]) for key in ("first", "second")]
        views = (image(pictures.get((path, "photo")), text=f"{path}, in {split}") for path, split in sides)
        lines = (
            tag("span", f"{split}: {'/'.join(path.rsplit('/', 2)[-2:])}", class_="name", title=path)
            for path, split in sides
        )
        text = tag("div", join(lines), tag("span", f"distance {pair['distance']}", class_="soft"), class_="text")
        cards.append(tag("li", tag("div", join(views), class_="views"), text, class_="card"))
    pairs_look = (
        "pair of photos in different splits looks" if count == 1 else "pairs of photos in different splits look"
    )
    warning = (
        f"{count:,} {pairs_look} the same although the files differ. Scores are too high when a model is tested with "
        "photos that it was trained on."
    )
    listed = tag("p", f"The {len(pairs)} nearest of them:", class_="soft") if count > len(pairs) else None
    body = join([tag("p", warning), listed, tag("ul", join(cards), class_="cards pairs")])
    return Section(name="near-duplicates", title="Near-duplicates across splits", body=body)


def _counts(counts: Mapping[str, Any]) -> Html:
    splits = {name: value for name, value in counts.items() if isinstance(value, Mapping)}
    classes = list(next(iter(splits.values()), {}))
    rows: list[Sequence[Child]] = [(name, *(f"{splits[split].get(name, 0):,}" for split in splits)) for name in classes]
    rows.append(("total", *(f"{sum(found.values()):,}" for found in splits.values())))
    text = f"{counted(counts.get('rejected', 0), 'file')} rejected; the reasons are in manifest/rejected.parquet."
    return join([folded(len(rows), "row", table(("class", *splits), rows)), tag("p", text, class_="soft")])


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
