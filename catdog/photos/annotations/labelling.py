"""Labels from all sources: a label table, recorded labels or the folder layout, then corrections, then groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from catdog.config import IngestConfig
from catdog.console import say
from catdog.errors import UsageError
from catdog.photos.annotations.corrections import LEFT_OUT, Corrections, apply_corrections, read_corrections
from catdog.photos.annotations.groups import Groups, apply_groups, contradiction, read_groups
from catdog.photos.annotations.label_table import NO_LABEL, Assigned, LabelTable, apply_label_table, read_label_table
from catdog.photos.annotations.layouts.class_layout import assign_classes
from catdog.photos.annotations.layouts.layout import Layout
from catdog.photos.annotations.layouts.layout_detection import NO_SPLITS
from catdog.photos.annotations.recorded import Seen, files_of, make_rule, recorded_labels
from catdog.photos.sources.containers.tables import TableColumns


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotations:
    """What files say about the photos in addition to their folders, and how folders are read."""

    corrections: Corrections | None = None
    labels: LabelTable | None = None
    groups: Groups | None = None
    splits: str = ""
    columns: TableColumns = dataclasses.field(default_factory=TableColumns)
    label_column: str = ""

    def fingerprints(self) -> dict[str, str]:
        """Return the fingerprint of each file's content by setting name, "" without a file. Paths do not matter."""
        named = {"corrections": self.corrections, "labels": self.labels, "groups": self.groups}
        return {name: found.fingerprint if found else "" for name, found in named.items()}


def read_annotations(config: IngestConfig) -> Annotations:
    """Read the files that `config` names; raises UsageError as their readers do."""
    return Annotations(
        corrections=read_corrections(config.corrections) if config.corrections else None,
        labels=read_label_table(config.labels) if config.labels else None,
        groups=read_groups(config.groups) if config.groups else None,
        splits=config.splits,
        columns=TableColumns(content=config.bytes_column, name=config.name_column),
        label_column=config.label_column,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledPhotos:
    """Photos with a class, rejected photos with their reasons, and all classes."""

    table: pa.Table  # path, hint, class, group, version and label of the photos that have a class
    rejected: list[tuple[str, str | None]]
    classes: tuple[str, ...]


def label_photos(inputs: pa.Table, *, source: str, annotations: Annotations) -> LabelledPhotos:
    """Assign each of `inputs` (sources.INPUTS) its class and group.

    The class comes from the label table, the recorded labels or the folder layout, then from the corrections. Raises
    UsageError as the readers of layouts and tables do.
    """
    inputs = inputs.sort_by("path")
    paths, relatives = inputs["path"].to_pylist(), inputs["relative"].to_pylist()
    pairs = list(zip(paths, relatives, strict=True))
    classes, assigned, no_class = _assign(inputs, pairs, source=source, annotations=annotations)
    left_out: frozenset[int] = frozenset()
    if annotations.corrections:
        corrected = apply_corrections(annotations.corrections, paths, assigned, classes=classes)
        assigned, left_out = corrected.assigned, corrected.left_out
        say(corrected.line)
    groups: Sequence[str | None] = [None] * len(paths)
    if annotations.groups:
        groups, line = apply_groups(annotations.groups, pairs)
        say(line)
        if line := contradiction(groups, [found[0] if found else None for found in assigned]):
            say(line)
    rows, rejected = [], list[tuple[str, str | None]]()
    versions = inputs["version"].to_pylist()
    for place, (path, found, group, version) in enumerate(zip(paths, assigned, groups, versions, strict=True)):
        if place in left_out or not found:
            rejected.append((path, LEFT_OUT if place in left_out else no_class))
        else:
            rows.append((path, *found, group, version))
    if not rows:
        raise UsageError(f"expected photos with a class in {source}, found none: the corrections leave out all of them")
    columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    table = pa.table(dict(zip(("path", "hint", "class", "group", "version"), columns, strict=True)))
    table = table.append_column("label", pc.index_in(table["class"], pa.array(classes)))
    return LabelledPhotos(table=table, rejected=rejected, classes=classes)


def _assign(
    inputs: pa.Table, pairs: Sequence[tuple[str, str]], *, source: str, annotations: Annotations
) -> tuple[tuple[str, ...], Sequence[Assigned], str]:
    """Return all classes, (split hint, class) of each photo, and the reason to reject one without a class."""
    if annotations.labels:
        found = apply_label_table(annotations.labels, pairs)
        say(found.line)
        return found.classes, found.assigned, NO_LABEL
    labels = recorded_labels(inputs, column=annotations.label_column)
    rule = make_rule([Seen.of(inputs, labels)], source=source, may_split=annotations.splits != NO_SPLITS)
    if rule:
        recorded = [rule.assign(file, label) for file, label in zip(files_of(inputs), labels, strict=True)]
        return rule.classes, recorded, rule.no_class
    layout, assigned = detect_classes(
        [relative for _, relative in pairs],
        source=source,
        splits=annotations.splits,
        in_tables=inputs["table"].null_count < inputs.num_rows,
    )
    return layout.classes, assigned, layout.no_class


def detect_classes(
    relatives: Sequence[str], *, source: str, splits: str, in_tables: bool, photos: int = 0
) -> tuple[Layout, list[Assigned]]:
    """Return what `assign_classes` returns, and print the notes of the layout.

    `in_tables` says that photos are in tables, so that a UsageError also suggests --label-column.
    """
    try:
        layout, assigned = assign_classes(relatives, source=source, splits=splits, photos=photos)
    except UsageError as error:
        if not in_tables:
            raise
        raise UsageError(f"{error}, or name the column of the table by --label-column") from error
    for line in layout.notes:
        say(line)
    return layout, assigned
