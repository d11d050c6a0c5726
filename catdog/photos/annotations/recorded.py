"""Labels recorded with the photos: in a column of their table, or in a `.cls` next to each photo of a WebDataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from catdog.errors import ImageError, UsageError
from catdog.photos.annotations.label_table import NO_LABEL, Assigned, fold_label
from catdog.photos.annotations.layouts.split_names import split_of_name, splits_of_names
from catdog.photos.sources.containers.archives import shard_set
from catdog.photos.sources.containers.cells import row_ends
from catdog.photos.sources.containers.tables import read_labels
from catdog.photos.sources.files import read_shard_class
from catdog.storage.files import split_query

_NO_SIDECAR = "no-class: the archive has no .cls next to it"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """The facts about some photos that decide how the recorded labels of all photos are used.

    `labelled` is a table with labels, `unlabelled` a table without labels. Each is "" if there is none.
    """

    classes: frozenset[str]
    files: frozenset[str]  # the tables and archives that hold the photos
    labelled: str
    unlabelled: str

    @classmethod
    def of(cls, inputs: pa.Table, labels: Sequence[str]) -> Seen:
        """Return the facts about `inputs` (sources.INPUTS), whose `recorded_labels` are `labels`."""
        table = next(iter(pc.unique(inputs["table"].drop_null()).to_pylist()), "")
        return cls(
            classes=frozenset(label for label in labels if label),
            files=frozenset(file for file in files_of(inputs) if file),
            labelled=table if labels else "",
            unlabelled=table if not labels else "",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordedRule:
    """How photos with recorded labels are labelled: all classes, and the split that each file hints at."""

    classes: tuple[str, ...]
    hints: Mapping[str, str | None]
    no_class: str  # the reason to reject a photo without a label

    def assign(self, file: str, label: str) -> Assigned:
        """Return (split hint, class) of a photo in `file`, None for one without a label."""
        return (self.hints.get(file), label) if label else None


def make_rule(found: Iterable[Seen], *, source: str, may_split: bool) -> RecordedRule | None:
    """Return the rule that labels photos by their recorded labels, None if no labels are recorded.

    With `may_split`, the name of a file may hint at a split. Raises UsageError, naming `source`, for fewer than two
    classes, and if some tables have labels and others have none.
    """
    classes, files, labelled, unlabelled = set[str](), set[str](), "", ""
    for seen in found:
        classes |= seen.classes
        files |= seen.files
        labelled, unlabelled = labelled or seen.labelled, unlabelled or seen.unlabelled
    if labelled and unlabelled:
        raise without_labels(unlabelled)
    if not labelled and not classes:
        return None
    if len(classes) < 2:
        name = next(iter(classes), "none")
        raise UsageError(
            f"expected labels of two classes or more in {source}, found {name}"
            if labelled
            else f"expected two classes or more in the .cls files, found only {name}"
        )
    hints = _hints_of_files(files) if may_split else {}
    return RecordedRule(classes=tuple(sorted(classes)), hints=hints, no_class=NO_LABEL if labelled else _NO_SIDECAR)


def without_labels(table: str) -> UsageError:
    """Return the error for a `table` without labels when other tables have labels."""
    return UsageError(f"expected a column of labels in each table, found none in {table}: remove this table")


def files_of(inputs: pa.Table) -> list[str]:
    """Return the table or the archive that holds each of `inputs`, "" for a photo in its own file."""
    paths, tables = inputs["path"].to_pylist(), inputs["table"].to_pylist()
    return [table or (path.partition("!")[0] if "!" in path else "") for path, table in zip(paths, tables, strict=True)]


def _hints_of_files(files: Collection[str]) -> dict[str, str | None]:
    """Return the split in the name of each file, such as train-00000-of-00002.parquet, or else in its folder's name."""
    places = {file: split_query(file)[0].rpartition("/")[::2] for file in files}
    splits = splits_of_names({shard_set(name) for _, name in places.values()})
    hints = {
        file: splits.get(shard_set(name)) or split_of_name(folder.rpartition("/")[2])
        for file, (folder, name) in places.items()
    }
    return {} if len({*hints.values()}) == 1 else hints  # all alike: the user gave the files of one split


def recorded_labels(inputs: pa.Table, *, column: str = "") -> list[str]:
    """Return the label of each of `inputs` in its table, or in the `.cls` next to it in a shard; "" if it has none.

    The list is empty if no table has labels and no photo has a `.cls`. `column` is the column of labels, by default
    found by its name. Raises UsageError for labels that cannot be read, and if only some tables have labels.
    """
    return _table_labels(inputs, column) or _shard_labels(inputs["path"].to_pylist())


def _shard_labels(paths: Sequence[str]) -> list[str]:
    try:
        found = [fold_label(read_shard_class(path) or "") if "!" in path else "" for path in paths]
    except ImageError as error:
        raise UsageError(f"expected the class of each photo in the .cls next to it: {error}") from error
    return found if any(found) else []


def _table_labels(inputs: pa.Table, column: str) -> list[str]:
    """Return the label of each photo in Parquet files, an empty list if there are no labels."""
    tables = [path for path in pc.unique(inputs["table"]).to_pylist() if path]
    if not tables:
        return []
    named = {path: read_labels(path, column) for path in tables}
    without = [path for path in tables if named[path] is None]
    if 0 < len(without) < len(tables):
        raise without_labels(without[0])
    ends = {path: row_ends(path) for path in tables}
    found = []
    for path, group, row in zip(*(inputs[name].to_pylist() for name in ("table", "row_group", "row")), strict=True):
        labels = named[path]
        if labels is None:
            return []
        found.append(fold_label(labels[(int(ends[path][group - 1]) if group else 0) + row]))
    return found
