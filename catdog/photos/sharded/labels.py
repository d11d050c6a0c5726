"""The classes of the photos of many shards: the driver decides the rule, and tasks label their own photos."""

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
    """What decides the class of a photo: its path below the source, the file that holds it, and its recorded label."""

    relative: str
    file: str
    label: str  # "" for none


def listed_photos(rows: pa.Table, labels: Sequence[str]) -> list[Listed]:
    """Return what decides the class of each of `rows` (inputs.INPUTS); `labels` has their recorded labels, or none."""
    relatives = rows["relative"].to_pylist()
    return list(map(Listed, relatives, files_of(rows), labels or [""] * len(relatives)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survey:
    """The facts about a shard that decide how the photos of all shards are labelled."""

    examples: list[str]  # the first photo of each kind that layouts distinguish
    named: dict[str, Listed]  # the photos that corrections name, by path
    seen: Seen


def survey(shard: Shard, names: Shared | frozenset[str], *, label_column: str, directory: str) -> Survey:
    """Return the survey of `shard`; `names` are the paths that corrections may refer to.

    Recorded labels, if any, are written to the folder `directory` for `kept_labels`, because they take long to read.
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
    """Return the recorded label of each photo of the surveyed shard named `shard`; an empty list if it has none."""
    path = _labels_file(directory, shard)
    if not files.exists(path):
        return []
    found: list[str] = read_parquet(path)["label"].to_pylist()
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoLabels:
    """How a task labels photos: by their recorded labels or by the layout of folders, then by the corrections."""

    rule: RecordedRule | Layout
    has_hints: bool = True
    corrected: Any = dataclasses.field(default_factory=dict)  # path: (hint, class), None to leave out; perhaps Shared

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes; a label is a position in them."""
        return self.rule.classes

    @property
    def are_recorded(self) -> bool:
        """Whether labels are recorded with the photos."""
        return isinstance(self.rule, RecordedRule)

    def apply(self, rows: pa.Table, labels: Sequence[str] = ()) -> tuple[pa.Table, list[tuple[str, str]]]:
        """Return path, version, hint and label of `rows` (inputs.INPUTS) with a class; (path, reason) of the others.

        `labels` has the recorded label of each row, or is empty.
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
        """Return (split hint, class) of `photo` without the corrections, None if it has no class."""
        if isinstance(self.rule, RecordedRule):
            return self.rule.assign(photo.file, photo.label)
        found = self.rule.class_of(photo.relative)
        return found if found is None or self.has_hints else (None, found[1])


_LABELLED = pa.schema([("path", pa.string()), ("version", pa.string()), ("hint", pa.string()), ("label", pa.int32())])


def correction_names(corrections: Corrections | None) -> frozenset[str]:
    """Return the paths of photos that `corrections` may refer to."""
    named = corrections.classes if corrections else ()
    return frozenset([*named, *map(files.absolute, named)])


def decide_labels(
    surveys: Iterable[Survey], *, source: str, annotations: Annotations, photos: int, first: str
) -> PhotoLabels:
    """Return how the photos of all `surveys` are labelled, and print what a user should know about it.

    `photos` is the number of photos, `first` the path of one of them, as an example. Raises UsageError as
    make_rule, assign_classes and apply_corrections do.
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
    """Return (split hint, class) of each photo that `corrections` name, None to leave it out.

    `first` is the path of a photo, as an example.
    """
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
    """Return `labels` for tasks, with the corrections put into Ray's object store once."""
    return dataclasses.replace(labels, corrected=share(labels.corrected)) if labels.corrected else labels
