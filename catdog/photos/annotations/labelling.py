"""All that is known of what photos show: their layout or a table of labels, then corrections, then groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from catdog.config import IngestConfig
from catdog.console import say
from catdog.photos.annotations.class_layout import assign_classes
from catdog.photos.annotations.corrections import LEFT_OUT, Corrections, apply_corrections, read_corrections
from catdog.photos.annotations.groups import Groups, apply_groups, read_groups
from catdog.photos.annotations.label_table import NO_LABEL, Assigned, LabelTable, apply_label_table, read_label_table
from catdog.photos.sources.files import Photo


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotations:
    """What files say about the photos besides their folders, and how folders are read."""

    corrections: Corrections | None = None
    labels: LabelTable | None = None
    groups: Groups | None = None
    splits: str = ""

    def fingerprints(self) -> dict[str, str]:
        """Return what names the content of each file by its setting, empty without one: the path does not count."""
        named = {"corrections": self.corrections, "labels": self.labels, "groups": self.groups}
        return {name: found.fingerprint if found else "" for name, found in named.items()}


def read_annotations(config: IngestConfig) -> Annotations:
    """Read the files that `config` names; raises UsageError as their readers do."""
    return Annotations(
        corrections=read_corrections(config.corrections) if config.corrections else None,
        labels=read_label_table(config.labels) if config.labels else None,
        groups=read_groups(config.groups) if config.groups else None,
        splits=config.splits,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledPhotos:
    """Photos with a class, those without and why, and all classes."""

    table: pa.Table  # path, hint, class, label and group of the photos that have a class
    rejected: list[tuple[str, str | None]]
    classes: tuple[str, ...]


def label_photos(photos: Sequence[Photo], *, source: str, annotations: Annotations) -> LabelledPhotos:
    """Give each photo its class, by the table of labels or the layout of folders, and then by the corrections."""
    pairs = [(photo.path, photo.relative) for photo in photos]
    assigned: Sequence[Assigned]
    if annotations.labels:
        found = apply_label_table(annotations.labels, pairs)
        classes, assigned, no_class = found.classes, found.assigned, NO_LABEL
        say(found.line)
    else:
        layout, assigned = assign_classes(
            [photo.relative for photo in photos], source=source, splits=annotations.splits
        )
        classes, no_class = layout.classes, layout.no_class
        for line in layout.notes:
            say(line)
    left_out: frozenset[int] = frozenset()
    if annotations.corrections:
        corrected = apply_corrections(annotations.corrections, [path for path, _ in pairs], assigned, classes=classes)
        assigned, left_out = corrected.assigned, corrected.left_out
        say(corrected.line)
    groups: Sequence[str | None] = [None] * len(photos)
    if annotations.groups:
        groups, line = apply_groups(annotations.groups, pairs)
        say(line)
    rows, rejected = [], list[tuple[str, str | None]]()
    for place, (photo, found_class, group) in enumerate(zip(photos, assigned, groups, strict=True)):
        if place in left_out or not found_class:
            rejected.append((photo.path, LEFT_OUT if place in left_out else no_class))
        else:
            rows.append((photo.path, *found_class, group))
    columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    table = pa.table(dict(zip(("path", "hint", "class", "group"), columns, strict=True)))
    table = table.append_column("label", pc.index_in(table["class"], pa.array(classes)))
    return LabelledPhotos(table=table, rejected=rejected, classes=classes)
