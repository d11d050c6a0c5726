"""The classes of the photos of many shards: the driver sees one photo of each folder, tasks label their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from catdog.cluster.actors import Shared, share
from catdog.console import say
from catdog.photos.annotations.class_layout import assign_classes
from catdog.photos.annotations.corrections import LEFT_OUT, Corrections, apply_corrections
from catdog.photos.annotations.examples import Examples
from catdog.photos.annotations.layout import Layout
from catdog.photos.sources.shards import Shard
from catdog.storage import files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survey:
    """What a shard has: the first photo of each kind that layouts tell apart, and the photos that corrections name."""

    examples: list[str]
    named: dict[str, str]  # path: place below the source


def survey(shard: Shard, names: Shared | frozenset[str]) -> Survey:
    """Look over the photos of `shard`; `names` are the paths that corrections may mean."""
    wanted: frozenset[str] = names.get() if isinstance(names, Shared) else names
    rows, examples = shard.read(), Examples()
    paths, relatives = rows["path"].to_pylist(), rows["relative"].to_pylist()
    examples.add(relatives)
    named = {path: relative for path, relative in zip(paths, relatives, strict=True) if path in wanted}
    return Survey(examples=examples.relatives, named=named)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderLabels:
    """How a task labels photos: by the layout of all folders, then by the corrections."""

    layout: Layout
    has_hints: bool
    corrected: Any  # path: (hint, class), or None for a photo to leave out; perhaps Shared

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes, as labels count them."""
        return self.layout.classes

    def apply(self, rows: pa.Table) -> tuple[pa.Table, list[tuple[str, str]]]:
        """Return path, version, hint and label of the `rows` (inputs.INPUTS) with a class; (path, reason) of others."""
        corrected = self.corrected.get() if isinstance(self.corrected, Shared) else self.corrected
        numbers = {name: number for number, name in enumerate(self.classes)}
        found, rejected = [], []
        for path, relative, version in zip(
            *(rows[name].to_pylist() for name in ("path", "relative", "version")), strict=True
        ):
            assigned = self._assign(relative)
            if path in corrected:
                assigned = corrected[path]
            if assigned:
                found.append((path, version or "", assigned[0], numbers[assigned[1]]))  # a broken link has no version
            else:
                rejected.append((path, LEFT_OUT if path in corrected else self.layout.no_class))
        columns = zip(*found, strict=True) if found else [()] * len(_LABELLED)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _LABELLED, strict=True)]
        return pa.table(arrays, schema=_LABELLED), rejected

    def _assign(self, relative: str) -> tuple[str | None, str] | None:
        found = self.layout.class_of(relative)
        return found if found is None or self.has_hints else (None, found[1])


_LABELLED = pa.schema([("path", pa.string()), ("version", pa.string()), ("hint", pa.string()), ("label", pa.int32())])


def correction_names(corrections: Corrections | None) -> frozenset[str]:
    """Return the paths of photos that `corrections` may mean."""
    named = corrections.classes if corrections else ()
    return frozenset([*named, *map(files.absolute, named)])


def decide_labels(
    surveys: Iterable[Survey], *, source: str, splits: str, corrections: Corrections | None, photos: int
) -> FolderLabels:
    """Return how the photos of all `surveys` are labelled, `photos` of them, and say what a person should know of it.

    `splits` is the text of --splits. Raises UsageError as assign_classes and apply_corrections do.
    """
    examples, named = Examples(), dict[str, str]()
    for found in surveys:
        examples.add(found.examples)
        named |= found.named
    relatives = examples.relatives
    layout, assigned = assign_classes(relatives, source=source, splits=splits, photos=photos)
    for line in layout.notes:
        say(line)
    labels = FolderLabels(layout=layout, has_hints=any(one and one[0] for one in assigned), corrected={})
    if not corrections:
        return labels
    corrected = _corrected(corrections, labels, named, first=files.join(source, relatives[0]))
    return dataclasses.replace(labels, corrected=corrected)


def _corrected(
    corrections: Corrections, labels: FolderLabels, named: Mapping[str, str], *, first: str
) -> dict[str, tuple[str | None, str] | None]:
    """Return what becomes of each of the photos that `corrections` name; `first` is a photo, as an example."""
    paths = [first, *sorted(set(named) - {first})]
    before = [labels._assign(named[path]) if path in named else None for path in paths]
    found = apply_corrections(corrections, paths, before, classes=labels.classes)
    say(found.line)
    return {
        path: None if place in found.left_out else assigned
        for place, (path, assigned) in enumerate(zip(paths, found.assigned, strict=True))
        if path in named
    }


def share_labels(labels: FolderLabels) -> FolderLabels:
    """Return `labels` as tasks take them: many corrections go to Ray's store, once."""
    return dataclasses.replace(labels, corrected=share(labels.corrected)) if labels.corrected else labels
