"""What class a file is of: class folders, split folders around them, or names that carry the class."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from catdog.errors import UsageError
from catdog.photos.annotations.split_names import split_of_name
from catdog.storage.schemas import SPLITS

LAYOUTS = (
    "CLASS/photo.jpg, or train/CLASS/photo.jpg (beside it validation/, val/ or test/), or CLASS.1.jpg; "
    "folders around these and a zip of them will do"
)
NO_SPLITS = "none"
Folder = tuple[str, ...]
_CARRIES_CLASS = re.compile(r"([^.]+)\.\d+\.[^.]+")
_PICTURE = re.compile(r".*\.(jpe?g|jpe|jfif|png|gif|bmp|webp|tiff?|avif|hei[cf]|jxl|jp2|p[pgn]m)", re.I | re.DOTALL)
# Folders beside the photos that hold no photos of a class, and folders that hold the class folders.
_BESIDE = re.compile(r"annotations?|labels?|masks?|trimaps?|segmentations?|bbox(es)?|xmls?|json|meta(data)?|docs?|doc")
_AROUND = re.compile(r"\w*(images?|imgs?|photos?|pictures?|pics?)|data(set)?s?")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a listing tells classes; folder and class names are compared in lower case.

    With `from_names`, a file is CLASS.NUMBER.ext and the nearest split folder around it is its hint. Otherwise its
    class is the first folder below one of `roots`, whose value is the split hint, and with `split_in_class` the folder
    below that is a split.
    """

    classes: tuple[str, ...]
    roots: Mapping[Folder, str | None] = field(default_factory=lambda: {(): None})
    from_names: bool = False
    split_in_class: bool = False
    notes: tuple[str, ...] = ()

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.classes)

    @property
    def no_class(self) -> str:
        """The reason to reject a file that has no class."""
        return "no-class: " + (
            "the file name carries none, as in CLASS.1.jpg" if self.from_names else "the file is in no class folder"
        )

    def class_of(self, relative: str) -> tuple[str | None, str] | None:
        """Return (split hint or None, class name) of the file at `relative`, or None where it has no class."""
        folder, _, name = relative.rpartition("/")
        folders = _folded(folder)
        if self.from_names:
            carried = _carried_class(name)
            hints = [self.roots[folders[:end]] for end in range(len(folders), -1, -1) if folders[:end] in self.roots]
            hints += [split_of_name(part) for part in reversed(folders)] if () in self.roots else []
            split = next((hint for hint in hints if hint), None)
            return (split, carried) if carried in self._known else None
        for root, split in self.roots.items():
            below = folders[len(root) :] if folders[: len(root)] == root else ()
            if below and below[0] in self._known:
                if self.split_in_class and len(below) > 1:
                    split = split_of_name(below[1])
                return split, below[0]
        return None


def assign_classes(
    relatives: Sequence[str], *, source: str, splits: str = "", known: Sequence[str] = ()
) -> tuple[Layout, list[tuple[str | None, str] | None]]:
    """Decide the layout of a whole listing and return it with `class_of` each file.

    Only files named like pictures decide, so a readme beside the class folders changes nothing:
    1. While all pictures in folders are in one folder with folders of its own, it is wrapping, and is entered.
    2. If a folder there has a split's name and class folders or CLASS.1.jpg names in it, all so named are splits.
    3. The classes are the folders there, or those in the split folders. Deeper folders belong to their class.
    4. If that gives fewer than two classes, names decide: cat.0.jpg is of class cat.
    When all files hint the same split (somebody gave `data/train`), the hint says nothing and is dropped.
    `splits` such as `train=a,test=b` names the split folders, `none` says that there are none. Where `known` classes
    are given, one of them is enough, and a folder of such a name anywhere around a file is its class.
    Raises UsageError, naming `source`, for fewer than two classes, and where folders may be splits or classes.
    """
    layout = _detect_layout(relatives, splits=splits)
    if known and not {*layout.classes} & {*known}:
        return _assign_known(relatives, source=source, known=known)
    if len(layout.classes) < (1 if known else 2):
        found = f"only the class {layout.classes[0]}" if layout.classes else "none"
        raise UsageError(
            f"expected photos of two classes or more in {source}, found {found} in {len(relatives)} files, "
            f"such as {min(relatives)}; lay them out as {LAYOUTS}"
        )
    assigned = [layout.class_of(relative) for relative in relatives]
    if not splits and len({found[0] for found in assigned if found}) == 1:
        assigned = [(None, found[1]) if found else None for found in assigned]
    return layout, assigned


def _assign_known(
    relatives: Sequence[str], *, source: str, known: Sequence[str]
) -> tuple[Layout, list[tuple[str | None, str] | None]]:
    names = frozenset(known)
    around = _folded(source.split("!")[-1].rstrip("/"))[-1:]  # somebody gave PetImages/Cat
    assigned: list[tuple[str | None, str] | None] = []
    for relative in relatives:
        folders = around + _folded(relative.rpartition("/")[0])
        name = next((part for part in reversed(folders) if part in names), None)
        assigned.append((None, name) if name else None)
    classes = tuple(sorted({found[1] for found in assigned if found}))
    if not classes:
        raise UsageError(
            f"expected folders of the classes {', '.join(known)} in {source}, found none in {len(relatives)} files, "
            f"such as {min(relatives)}"
        )
    return Layout(classes=classes), assigned


def _detect_layout(relatives: Sequence[str], *, splits: str) -> Layout:
    pictures = [relative for relative in relatives if _PICTURE.fullmatch(relative)] or relatives
    folders: set[Folder] = set()
    carriers: set[Folder] = set()  # folders with a CLASS.1.jpg in them
    carried: set[str] = set()
    spelled: dict[Folder, set[str]] = defaultdict(set)
    for folder, name in (relative.rpartition("/")[::2] for relative in pictures):
        folders.add(_folded(folder))
        if found := _carried_class(name):
            carried.add(found)
            carriers.add(_folded(folder))
    for folder in {relative.rpartition("/")[0] for relative in pictures}:
        parts = [part for part in folder.split("/") if part]
        for end, part in enumerate(parts, start=1):
            spelled[_folded("/".join(parts[:end]))].add(part)
    given = _read_splits(splits, folders)
    if given:
        layout = _split_layout(given, folders)
    else:
        layout = _detect_folders(folders, carriers=carriers, may_split=splits != NO_SPLITS)
    if len(layout.classes) < 2 <= len(carried):
        return Layout(classes=tuple(sorted(carried)), roots={**layout.roots, **given, (): None}, from_names=True)
    merged = [spelled[(*root, name)] for root in layout.roots for name in layout.classes]
    notes = [f"The folders {' and '.join(sorted(names))} are one class." for names in merged if len(names) > 1]
    return Layout(**{**vars(layout), "notes": (*layout.notes, *notes)})


def _read_splits(text: str, folders: set[Folder]) -> dict[Folder, str | None]:
    """Return the split of each folder that `text`, as --splits has it, names."""
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
        parts = _folded(name)
        found = next((root for root in (parts, top + parts) if any(_below(f, root) is not None for f in folders)), None)
        if found is None:
            there = sorted({"/".join(folder[: len(top) + 1]) for folder in folders if folder[: len(top)] == top})
            raise UsageError(f"--splits {text}: found no photos in a folder {name}; there are {', '.join(there[:10])}")
        given[found] = split_of_name(split)
    return given


def _below(folder: Folder, root: Folder) -> Folder | None:
    return folder[len(root) :] if folder[: len(root)] == root else None


def _wrapper(folders: Iterable[Folder], start: Folder = ()) -> Folder:
    """Return the deepest folder, from `start` down, around all class folders of `folders`."""
    base = start
    while True:
        below = {folder[len(base) :] for folder in folders if folder[: len(base)] == base} - {()}
        children = {folder[0] for folder in below}
        if len(children) != 1 or not any(len(folder) > 1 for folder in below):
            return base
        base += (children.pop(),)


def _split_layout(splits: Mapping[Folder, str | None], folders: set[Folder]) -> Layout:
    """Return the layout whose classes are the folders in the split folders, each of which may wrap them once more."""
    roots = dict(splits)
    classes = _children(roots, folders)
    wrapped = all(len(_wrapper(folders, root)) > len(root) for root in splits)  # train/images/cat, or train/train
    if len(classes) < 2 or _all_splits(classes) or wrapped:
        roots = {_wrapper(folders, root): split for root, split in splits.items()}
        classes = _children(roots, folders)
    # train/train/ with the photos in it is Kaggle's, and no class.
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
    base, inside, notes = _leave_out_beside(base, inside, folders)
    classes = tuple(sorted(inside))
    if not may_split:
        return Layout(classes=classes, roots={base: None}, notes=notes)
    named = {(*base, name): split for name in inside if (split := split_of_name(name))}
    if any(inside[root[-1]] or root in carriers for root in named):
        others = sorted(set(inside) - {root[-1] for root in named})
        if others:
            notes += (f"Not in a split, and left out: the folders {', '.join(others[:5])}.",)
        return Layout(**{**vars(_split_layout(named, folders)), "notes": notes})
    if len(inside) > 1 and all(names and _all_splits(names) for names in inside.values()):
        return Layout(classes=classes, roots={base: None}, split_in_class=True, notes=notes)
    if named:
        names = ", ".join(root[-1] for root in named)
        notes += (f"Taken for a class, because no class folders are in it: {names}.",)
    _refuse_two_readings(base, inside, folders)
    return Layout(classes=classes, roots={base: None}, notes=notes)


def _leave_out_beside(
    base: Folder, inside: dict[str, set[str]], folders: set[Folder]
) -> tuple[Folder, dict[str, set[str]], tuple[str, ...]]:
    """Leave out annotations/ beside images/, and what is beside the one folder that holds the class folders."""
    beside = {name for name in inside if _BESIDE.fullmatch(name)}
    around = [name for name in inside if _AROUND.fullmatch(name) and len(inside[name]) > 1]
    if len(around) == 1 and not any(len(inside[name]) > 1 for name in inside if name not in around):
        beside = set(inside) - set(around)
    kept = set(inside) - beside
    if not beside or not kept or (len(kept) == 1 and not any(_AROUND.fullmatch(name) for name in kept)):
        return base, inside, ()
    note = f"No class folders, and left out: {', '.join(sorted(beside)[:5])}."
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
    """Raise UsageError where all folders hold the same folders: they may be splits of names that nobody knows."""
    if len(inside) < 2:
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
        f"the folders {shown} all hold the folders {', '.join(sorted(common)[:4])}: if {names[0]} and {names[1]} are "
        f"splits, say which, as in --splits train={names[0]},test={names[1]}; if they are the classes, give "
        f"--splits {NO_SPLITS}"
    )


@lru_cache(maxsize=1 << 16)
def _folded(folder: str) -> tuple[str, ...]:
    """Return the parts of `folder` as they are compared: lower case, accents composed (macOS stores them apart)."""
    return tuple(unicodedata.normalize("NFC", part).lower() for part in folder.split("/") if part)


def _carried_class(name: str) -> str | None:
    match = _CARRIES_CLASS.fullmatch(name)
    return unicodedata.normalize("NFC", match[1]).lower() if match else None
