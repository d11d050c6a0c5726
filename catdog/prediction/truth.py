"""The true class of a photo, found by its folder, its name, its table or its WebDataset shard.

shards --one photo of each kind--> a Truth, decided once for all photos --in tasks--> labels of any of these photos
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catdog.cluster.actors import Map
from catdog.errors import UsageError
from catdog.photos.annotations.layouts.class_layout import assign_classes
from catdog.photos.annotations.layouts.examples import MAX_NAMES, Examples
from catdog.photos.annotations.layouts.layout import Layout
from catdog.photos.annotations.recorded import recorded_labels, without_labels
from catdog.photos.sources.listing.shards import Shard


@dataclasses.dataclass(frozen=True, kw_only=True)
class Truth:
    """Where the label of a photo is found; a photo without one gets -1.

    With `recorded`, the label is in the photo's table or in the `.cls` file next to it. Otherwise it is in the photo's
    name if there is a `layout`, else in the name of its folder.
    """

    classes: tuple[str, ...]
    recorded: bool = False
    layout: Layout | None = None
    class_of_folder: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def labels_of(self, inputs: pa.Table) -> np.ndarray:
        """Return the label of each of `inputs` (schema inputs.INPUTS), (N,) int32, -1 for none."""
        if self.recorded:
            names = recorded_labels(inputs) or [""] * inputs.num_rows
        else:
            names = [self._class_of(relative) for relative in inputs["relative"].to_pylist()]
        found = pc.index_in(pa.array(names, pa.string()), value_set=pa.array(self.classes, pa.string()))
        labels: np.ndarray = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
        return labels

    def _class_of(self, relative: str) -> str:
        if self.layout is None:
            return self.class_of_folder.get(relative.rpartition("/")[0], "")
        found = self.layout.class_of(relative)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """What a shard contributes to the decision on the Truth: one photo of each kind, and the recorded labels.

    `labelled` is the path of a table with labels, `unlabelled` of one without; each is "" if there is none.
    """

    photos: int
    examples: list[str]
    is_recorded: bool
    names: frozenset[str]
    labelled: str
    unlabelled: str


def see_shard(shard: Shard, classes: Sequence[str]) -> Seen:
    """Return what `find_truth` needs to know of `shard`, for a model of `classes`."""
    inputs = shard.read()
    names, examples = recorded_labels(inputs), Examples(classes)
    examples.add(inputs["relative"].to_pylist())
    table = next(iter(pc.unique(inputs["table"].drop_null()).to_pylist()), "")
    return Seen(
        photos=inputs.num_rows,
        examples=examples.relatives,
        is_recorded=bool(names),
        names=_few({*names} - {""}, classes),
        labelled=table if names else "",
        unlabelled=table if not names else "",
    )


def _few(names: set[str], classes: Sequence[str]) -> frozenset[str]:
    return frozenset(names & {*classes}) | frozenset(sorted(names - {*classes})[:MAX_NAMES])


def find_truth(shards: Iterable[Shard], *, classes: Sequence[str], source: str, mapped: Map) -> Truth:
    """Decide where the true labels of the photos in `shards`, among `classes`, are found; `mapped` reads the shards.

    Raises UsageError, naming `source`, if the folders or the recorded labels are not classes of the model.
    """
    examples = Examples(classes)
    names, photos, is_recorded, labelled, unlabelled = frozenset[str](), 0, False, "", ""
    for seen in mapped(see_shard, ((shard, classes) for shard in shards)):
        examples.add(seen.examples)
        photos += seen.photos
        names = _few({*names, *seen.names}, classes)
        is_recorded |= seen.is_recorded
        labelled, unlabelled = labelled or seen.labelled, unlabelled or seen.unlabelled
    if labelled and unlabelled:
        raise without_labels(unlabelled)
    truth = Truth(classes=tuple(classes), recorded=True)
    if not is_recorded:
        chosen = examples.relatives
        layout, assigned = assign_classes(chosen, source=source, known=classes, photos=photos)
        class_of = {relative: found[1] for relative, found in zip(chosen, assigned, strict=True) if found}
        names = frozenset(class_of.values())
        folders = {relative.rpartition("/")[0]: name for relative, name in class_of.items()}
        by_name = layout if layout.from_names else None
        truth = Truth(classes=tuple(classes), layout=by_name, class_of_folder={} if by_name else folders)
    if names - {*classes}:
        raise UsageError(
            f"--evaluate: {source} has the classes {', '.join(sorted(names))}, the model "
            f"knows {', '.join(classes)}: give photos in folders of these names, or leave it out"
        )
    return truth
