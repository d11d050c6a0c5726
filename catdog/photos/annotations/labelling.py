"""All that is known of what photos show: their layout or a table of labels, then corrections, then groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from catdog.config import IngestConfig
from catdog.console import say
from catdog.errors import ImageError, UsageError
from catdog.photos.annotations.class_layout import assign_classes
from catdog.photos.annotations.corrections import LEFT_OUT, Corrections, apply_corrections, read_corrections
from catdog.photos.annotations.groups import Groups, apply_groups, contradiction, read_groups
from catdog.photos.annotations.label_table import (
    NO_LABEL,
    Assigned,
    LabelTable,
    apply_label_table,
    fold_label,
    read_label_table,
)
from catdog.photos.annotations.layout_detection import NO_SPLITS
from catdog.photos.annotations.split_names import split_of_name, splits_of_names
from catdog.photos.sources.archives import shard_set
from catdog.photos.sources.files import read_shard_class
from catdog.photos.sources.tables import TableColumns, read_labels, row_ends
from catdog.storage.files import split_query

_NO_SIDECAR = "no-class: the archive has no .cls beside it"


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
        columns=TableColumns(content=config.bytes_column, name=config.name_column),
        label_column=config.label_column,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledPhotos:
    """Photos with a class, those without and why, and all classes."""

    table: pa.Table  # path, hint, class, group, version and label of the photos that have a class
    rejected: list[tuple[str, str | None]]
    classes: tuple[str, ...]


def label_photos(inputs: pa.Table, *, source: str, annotations: Annotations) -> LabelledPhotos:
    """Give each of `inputs` (sources.INPUTS) its class: by a table or the layout of folders, then by the corrections.

    Raises UsageError as the readers of layouts and tables do.
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
        raise UsageError(f"expected photos with a class in {source}, found none: the corrections leave all of them out")
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
    may_split = annotations.splits != NO_SPLITS
    labels = _table_labels(inputs, annotations.label_column)
    if labels:
        classes = tuple(sorted({label for label in labels if label}))
        if len(classes) < 2:
            raise UsageError(
                f"expected labels of two classes or more in {source}, found {', '.join(classes) or 'none'}"
            )
        hints = _hints_of_files(inputs["table"].to_pylist(), may_split=may_split)
        return classes, [(hint, name) if name else None for hint, name in zip(hints, labels, strict=True)], NO_LABEL
    shards = _shard_classes(inputs, may_split=may_split)
    if shards:
        return tuple(sorted({found[1] for found in shards if found})), shards, _NO_SIDECAR
    try:
        layout, assigned = assign_classes([relative for _, relative in pairs], source=source, splits=annotations.splits)
    except UsageError as error:
        if inputs["table"].null_count == inputs.num_rows:
            raise
        raise UsageError(f"{error}, or which column of the table does by --label-column") from error
    for line in layout.notes:
        say(line)
    return layout.classes, assigned, layout.no_class


def recorded_labels(inputs: pa.Table, *, column: str = "") -> list[str]:
    """Return what the table of each of `inputs`, or the `.cls` beside it in a shard, says it shows; "" without a word.

    Nothing where no table has labels and no photo such a file. `column` is that of the labels, by default found by its
    name. Raises UsageError for labels that cannot be read.
    """
    return _table_labels(inputs, column) or _shard_labels(inputs["path"].to_pylist())


def _shard_labels(paths: Sequence[str]) -> list[str]:
    try:
        found = [fold_label(read_shard_class(path) or "") if "!" in path else "" for path in paths]
    except ImageError as error:
        raise UsageError(f"expected the class of each photo in the .cls beside it: {error}") from error
    return found if any(found) else []


def _shard_classes(inputs: pa.Table, *, may_split: bool) -> list[Assigned]:
    """Return (split hint, class) of each photo, as the `.cls` beside it in a WebDataset shard says.

    Nothing where no photo has such a file. Raises UsageError for one class only, and for a file that cannot be read.
    """
    paths = inputs["path"].to_pylist()
    classes = _shard_labels(paths)
    if not classes:
        return []
    names = {name for name in classes if name}
    if len(names) == 1:
        raise UsageError(f"expected two classes or more in the .cls files, found only {names.pop()}")
    hints = _hints_of_files([path.partition("!")[0] for path in paths], may_split=may_split)
    return [(hint, name) if name else None for hint, name in zip(hints, classes, strict=True)]


def _hints_of_files(paths: Sequence[str], *, may_split: bool) -> list[str | None]:
    """Return the split that the name of each file tells, such as train-00000-of-00002.parquet, or else its folder's."""
    if not may_split:
        return [None] * len(paths)
    places = {path: split_query(path)[0].rpartition("/")[::2] for path in paths}
    splits = splits_of_names({shard_set(name) for _, name in places.values()})
    hints = {
        path: splits.get(shard_set(name)) or split_of_name(folder.rpartition("/")[2])
        for path, (folder, name) in places.items()
    }
    if len({*hints.values()}) == 1:  # somebody gave the files of one split
        return [None] * len(paths)
    return [hints[path] for path in paths]


def _table_labels(inputs: pa.Table, column: str) -> list[str]:
    """Return the label of each photo in Parquet files; nothing where there are none."""
    tables = [path for path in pc.unique(inputs["table"]).to_pylist() if path]
    if not tables:
        return []
    named = {path: read_labels(path, column) for path in tables}
    without = [path for path in tables if named[path] is None]
    if 0 < len(without) < len(tables):
        raise UsageError(f"expected a column of labels in each table, found none in {without[0]}: take it away")
    ends = {path: row_ends(path) for path in tables}
    found = []
    for path, group, row in zip(*(inputs[name].to_pylist() for name in ("table", "row_group", "row")), strict=True):
        labels = named[path]
        if labels is None:
            return []
        found.append(fold_label(labels[(int(ends[path][group - 1]) if group else 0) + row]))
    return found
