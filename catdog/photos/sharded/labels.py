"""The classes of the photos of many shards: the driver sees what tells them apart, tasks label their own."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from catdog.cluster.actors import Shared, share
from catdog.console import say
from catdog.photos.annotations.corrections import LEFT_OUT, Corrections, apply_corrections
from catdog.photos.annotations.label_table import Assigned
from catdog.photos.annotations.labelling import Annotations, detect_classes
from catdog.photos.annotations.layouts.examples import Examples
from catdog.photos.annotations.layouts.layout import Layout
from catdog.photos.annotations.layouts.layout_detection import NO_SPLITS
from catdog.photos.annotations.recorded import RecordedRule, Seen, files_of, make_rule, recorded_labels
from catdog.photos.sources.listing.shards import Shard
from catdog.storage import files
from catdog.storage.tables import read_parquet, write_parquet


class Listed(NamedTuple):
    """What tells the class of a photo: its place below the source, the file that holds it, its recorded label or ""."""

    relative: str
    file: str
    label: str


def listed_photos(rows: pa.Table, labels: Sequence[str]) -> list[Listed]:
    """Return what tells the class of each of `rows` (inputs.INPUTS), whose recorded labels are `labels`, or none."""
    relatives = rows["relative"].to_pylist()
    return list(map(Listed, relatives, files_of(rows), labels or [""] * len(relatives)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survey:
    """What of a shard decides how the photos of all are labelled."""

    examples: list[str]  # the first photo of each kind that layouts tell apart
    named: dict[str, Listed]  # the photos that corrections name, by path
    seen: Seen


def survey(shard: Shard, names: Shared | frozenset[str], *, label_column: str, directory: str) -> Survey:
    """Look over the photos of `shard`; `names` are the paths that corrections may mean.

    Its recorded labels, if it has any, are kept in the folder `directory` for `kept_labels`: they take long to read.
    """
    wanted: frozenset[str] = names.get() if isinstance(names, Shared) else names
    rows, examples = shard.read(), Examples()
    labels = recorded_labels(rows, column=label_column)
    if labels:
        write_parquet(_labels_file(directory, shard.name), pa.table({"label": labels}))
    examples.add(rows["relative"].to_pylist())
    photos = zip(rows["path"].to_pylist(), listed_photos(rows, labels), strict=True) if wanted else ()
    return Survey(
        examples=examples.relatives,
        named={path: photo for path, photo in photos if path in wanted},
        seen=Seen.of(rows, labels),
    )


def _labels_file(directory: str, shard: str) -> str:
    return files.join(directory, f"{shard}.parquet")


@functools.lru_cache(maxsize=1)  # stretches of one shard come one after the other
def kept_labels(directory: str, shard: str) -> list[str]:
    """Return the recorded label of each photo of the surveyed shard of the name `shard`; none where it has none."""
    path = _labels_file(directory, shard)
    if not files.exists(path):
        return []
    found: list[str] = read_parquet(path)["label"].to_pylist()
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoLabels:
    """How a task labels photos: by what is recorded with them or by the layout of folders, then by the corrections."""

    rule: RecordedRule | Layout
    has_hints: bool = True
    corrected: Any = dataclasses.field(default_factory=dict)  # path: (hint, class), None to leave out; perhaps Shared

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes, as labels count them."""
        return self.rule.classes

    @property
    def are_recorded(self) -> bool:
        """Tell whether labels come with the photos."""
        return isinstance(self.rule, RecordedRule)

    def apply(self, rows: pa.Table, labels: Sequence[str] = ()) -> tuple[pa.Table, list[tuple[str, str]]]:
        """Return path, version, hint and label of the `rows` (inputs.INPUTS) with a class; (path, reason) of others.

        `labels` are the recorded ones, of each of the rows, or none.
        """
        corrected = self.corrected.get() if isinstance(self.corrected, Shared) else self.corrected
        numbers = {name: number for number, name in enumerate(self.classes)}
        found, rejected = [], []
        paths, versions = rows["path"].to_pylist(), rows["version"].to_pylist()
        for path, version, photo in zip(paths, versions, listed_photos(rows, labels), strict=True):
            assigned = corrected[path] if path in corrected else self.assign(photo)
            if assigned:
                found.append((path, version or "", assigned[0], numbers[assigned[1]]))  # a broken link has no version
            else:
                rejected.append((path, LEFT_OUT if path in corrected else self.rule.no_class))
        columns = zip(*found, strict=True) if found else [()] * len(_LABELLED)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _LABELLED, strict=True)]
        return pa.table(arrays, schema=_LABELLED), rejected

    def assign(self, photo: Listed) -> Assigned:
        """Return (split hint, class) of `photo` without the corrections, None where it has no class."""
        if isinstance(self.rule, RecordedRule):
            return self.rule.assign(photo.file, photo.label)
        found = self.rule.class_of(photo.relative)
        return found if found is None or self.has_hints else (None, found[1])


_LABELLED = pa.schema([("path", pa.string()), ("version", pa.string()), ("hint", pa.string()), ("label", pa.int32())])


def correction_names(corrections: Corrections | None) -> frozenset[str]:
    """Return the paths of photos that `corrections` may mean."""
    named = corrections.classes if corrections else ()
    return frozenset([*named, *map(files.absolute, named)])


def decide_labels(
    surveys: Iterable[Survey], *, source: str, annotations: Annotations, photos: int, first: str
) -> PhotoLabels:
    """Return how the photos of all `surveys` are labelled, `photos` of them, and say what a person should know of it.

    `first` is a photo, as an example. Raises UsageError as make_rule, assign_classes and apply_corrections do.
    """
    examples, named, seen = Examples(), dict[str, Listed](), list[Seen]()
    for found in surveys:
        examples.add(found.examples)
        named |= found.named
        seen.append(found.seen)
    rule = make_rule(seen, source=source, may_split=annotations.splits != NO_SPLITS)
    if rule:
        labels = PhotoLabels(rule=rule)
    else:
        in_tables = any(one.unlabelled for one in seen)
        layout, assigned = detect_classes(
            examples.relatives, source=source, splits=annotations.splits, in_tables=in_tables, photos=photos
        )
        labels = PhotoLabels(rule=layout, has_hints=any(one and one[0] for one in assigned))
    if not annotations.corrections:
        return labels
    corrected = _corrected(annotations.corrections, labels, named, first=first)
    return dataclasses.replace(labels, corrected=corrected)


def _corrected(
    corrections: Corrections, labels: PhotoLabels, named: Mapping[str, Listed], *, first: str
) -> dict[str, Assigned]:
    """Return what becomes of each of the photos that `corrections` name; `first` is a photo, as an example."""
    paths = [first, *sorted(set(named) - {first})]
    before = [labels.assign(named[path]) if path in named else None for path in paths]
    found = apply_corrections(corrections, paths, before, classes=labels.classes)
    say(found.line)
    return {
        path: None if place in found.left_out else assigned
        for place, (path, assigned) in enumerate(zip(paths, found.assigned, strict=True))
        if path in named
    }


def share_labels(labels: PhotoLabels) -> PhotoLabels:
    """Return `labels` as tasks take them: many corrections go to Ray's store, once."""
    return dataclasses.replace(labels, corrected=share(labels.corrected)) if labels.corrected else labels
