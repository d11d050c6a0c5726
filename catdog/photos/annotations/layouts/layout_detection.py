"""Layout detection: where a listing has its class folders, and whether split folders are around or inside them."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from catdog.errors import UsageError
from catdog.photos.annotations.layouts.layout import Folder, Layout, carried_class, folded
from catdog.photos.annotations.layouts.split_names import split_of_name, splits_of_names
from catdog.photos.decoding.formats import is_photo_name
from catdog.storage.schemas import SPLITS

NO_SPLITS = "none"
# Folders next to the photos that contain no photos of a class, and folders that contain the class folders.
_BESIDE = re.compile(r"annotations?|labels?|masks?|trimaps?|segmentations?|bbox(es)?|xmls?|json|meta(data)?|docs?|doc")
_AROUND = re.compile(r"\w*(images?|imgs?|photos?|pictures?|pics?)|data(set)?s?")
_BEGINS_AS_SPLIT = re.compile(r"(train|test|val(id)?)[a-z]$")  # trainA next to trainB
_MAX_SPLITS = 50  # more folders than this are classes


def detect_layout(relatives: Sequence[str], *, splits: str) -> Layout:
    """Return the layout of a listing; `splits` is the text of --splits.

    Raises UsageError if folders may be either splits or classes, or if `splits` names no folder.
    """
    pictures = [relative for relative in relatives if is_photo_name(relative)] or relatives
    folders: set[Folder] = set()
    carriers: set[Folder] = set()  # folders with a CLASS.1.jpg in them
    carried: set[str] = set()
    spelled: dict[Folder, set[str]] = defaultdict(set)
    for folder, name in (relative.rpartition("/")[::2] for relative in pictures):
        folders.add(folded(folder))
        if found := carried_class(name):
            carried.add(found)
            carriers.add(folded(folder))
    for folder in {relative.rpartition("/")[0] for relative in pictures}:
        parts = [part for part in folder.split("/") if part]
        for end, part in enumerate(parts, start=1):
            spelled[folded("/".join(parts[:end]))].add(part)
    given = _read_splits(splits, folders)
    if given:
        layout = _split_layout(given, folders)
    else:
        layout = _detect_folders(folders, carriers=carriers, may_split=splits != NO_SPLITS)
    if len(layout.classes) < 2 <= len(carried):
        return Layout(classes=tuple(sorted(carried)), roots={**layout.roots, **given, (): None}, from_names=True)
    merged = [spelled[(*root, name)] for root in layout.roots for name in layout.classes]
    notes = [f"The folders {' and '.join(sorted(names))} are one class." for names in merged if len(names) > 1]
    return dataclasses.replace(layout, notes=(*layout.notes, *notes))


def _read_splits(text: str, folders: set[Folder]) -> dict[Folder, str | None]:
    """Return the split of each folder that `text`, the value of --splits, names."""
    if not text or text == NO_SPLITS:
        return {}
    given: dict[Folder, str | None] = {}
    top = _wrapper(folders)
    for pair in text.split(","):
        split, _, name = (part.strip() for part in pair.partition("="))
        if split_of_name(split) not in SPLITS or not name:
            raise UsageError(
                f"--splits {text}: expected train=FOLDER,validation=FOLDER,test=FOLDER or {NO_SPLITS}, found {pair!r}"
            )
        parts = folded(name)
        found = next((root for root in (parts, top + parts) if any(_below(f, root) is not None for f in folders)), None)
        if found is None:
            there = sorted({"/".join(folder[: len(top) + 1]) for folder in folders if folder[: len(top)] == top})
            raise UsageError(f"--splits {text}: found no photos in a folder {name}; there are {', '.join(there[:10])}")
        given[found] = split_of_name(split)
    return given


def _below(folder: Folder, root: Folder) -> Folder | None:
    return folder[len(root) :] if folder[: len(root)] == root else None


def _wrapper(folders: Iterable[Folder], start: Folder = ()) -> Folder:
    """Return the deepest folder, at or below `start`, that contains all class folders of `folders`."""
    base = start
    while True:
        below = {folder[len(base) :] for folder in folders if folder[: len(base)] == base} - {()}
        children = {folder[0] for folder in below}
        if len(children) != 1 or not any(len(folder) > 1 for folder in below):
            return base
        base += (children.pop(),)


def _split_layout(splits: Mapping[Folder, str | None], folders: set[Folder]) -> Layout:
    """Return the layout whose classes are the folders in the split folders, which may contain wrapper folders."""
    roots = dict(splits)
    classes = _children(roots, folders)
    wrapped = all(len(_wrapper(folders, root)) > len(root) for root in splits)  # train/images/cat, or train/train
    if len(classes) < 2 or _all_splits(classes) or wrapped:
        roots = {_wrapper(folders, root): split for root, split in splits.items()}
        classes = _children(roots, folders)
    # train/train/ with the photos in it is a Kaggle layout, not a class.
    return Layout(classes=() if _all_splits(classes) else tuple(sorted(classes)), roots=roots)


def _children(roots: Iterable[Folder], folders: set[Folder]) -> set[str]:
    return {below[0] for root in roots for folder in folders if (below := _below(folder, root))}


def _all_splits(names: Iterable[str]) -> bool:
    return all(split_of_name(name) for name in names)


def _detect_folders(folders: set[Folder], *, carriers: set[Folder], may_split: bool) -> Layout:
    base = _wrapper(folders)
    inside: dict[str, set[str]] = defaultdict(set)  # sub-folders by folder
    for folder in folders:
        below = _below(folder, base)
        if below:
            inside[below[0]].update(below[1:2])
    again = sorted(name for name, below in inside.items() if len(below & (inside.keys() - {name})) > 1)
    for name in again:  # cell_images/cell_images/, as in some archives
        del inside[name]
    base, inside, notes = _leave_out_beside(base, inside, folders)
    if again:
        notes += (f"Skipped, because it contains the class folders again: {', '.join(again[:5])}.",)
    classes = tuple(sorted(inside))
    if not may_split:
        return Layout(classes=classes, roots={base: None}, notes=notes)
    named: dict[Folder, str | None] = {(*base, name): split for name, split in splits_of_names(inside).items()}
    if any(inside[root[-1]] or root in carriers for root in named):
        others = sorted(set(inside) - {root[-1] for root in named})
        if others:
            notes += (f"Skipped, because they are next to the split folders: {', '.join(others[:5])}.",)
        return dataclasses.replace(_split_layout(named, folders), notes=notes)
    if len(inside) > 1 and all(names and _all_splits(names) for names in inside.values()):
        return Layout(classes=classes, roots={base: None}, split_in_class=True, notes=notes)
    if named:
        names = ", ".join(root[-1] for root in named)
        notes += (f"Used as a class, because it contains no class folders: {names}.",)
    _refuse_two_readings(base, inside, folders)
    alike = sorted(name for name in inside if (*base, name) not in named and _BEGINS_AS_SPLIT.match(name))
    if alike:
        notes += (f"Used as a class, although its name begins like that of a split: {', '.join(alike[:5])}.",)
    return Layout(classes=classes, roots={base: None}, notes=notes)


def _leave_out_beside(
    base: Folder, inside: dict[str, set[str]], folders: set[Folder]
) -> tuple[Folder, dict[str, set[str]], tuple[str, ...]]:
    """Leave out annotations/ next to images/, and all folders next to the only one that contains class folders."""
    beside = {name for name in inside if _BESIDE.fullmatch(name)}
    around = [name for name in inside if _AROUND.fullmatch(name) and len(inside[name]) > 1]
    if len(around) == 1 and not any(len(inside[name]) > 1 for name in inside if name not in around):
        beside = set(inside) - set(around)
    kept = set(inside) - beside
    if not beside or not kept:
        return base, inside, ()
    if not any(_AROUND.fullmatch(name) for name in kept):  # a mask may be a class
        return (
            base,
            inside,
            (f"Used as a class, though its name suggests otherwise: {', '.join(sorted(beside)[:5])}.",),
        )
    note = f"Skipped, because it contains no class folders: {', '.join(sorted(beside)[:5])}."
    if len(kept) > 1:
        return base, {name: inside[name] for name in kept}, (note,)
    root = _wrapper(folders, (*base, kept.pop()))
    found: dict[str, set[str]] = defaultdict(set)
    for folder in folders:
        below = _below(folder, root)
        if below:
            found[below[0]].update(below[1:2])
    return root, found, (note,)


def _refuse_two_readings(base: Folder, inside: Mapping[str, set[str]], folders: set[Folder]) -> None:
    """Raise UsageError if all folders share two sub-folders or more: they may be splits with unknown names."""
    if not 2 <= len(inside) <= _MAX_SPLITS or not all(inside.values()):
        return
    held = []
    for name in inside:
        root = _wrapper(folders, (*base, name))
        held.append({below[0] for folder in folders if (below := _below(folder, root))})
    common = set.intersection(*held)
    if len(common) < 2:
        return
    names = sorted(inside)
    shown = ", ".join(names[:4]) + (" …" if len(names) > 4 else "")
    raise UsageError(
        f"the folders {shown} all contain the folders {', '.join(sorted(common)[:4])}: if they are splits, name them, "
        f"as in --splits train={names[0]},test={names[1]}; if they are classes, give --splits {NO_SPLITS}"
    )
