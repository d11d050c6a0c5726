"""What class a file is of: class folders, split folders around them, or names that carry the class."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from catdog.errors import UsageError

SPLIT_FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
LAYOUTS = (
    "CLASS/photo.jpg, or train/CLASS/photo.jpg (beside it validation/, val/ or test/), or CLASS.1.jpg; "
    "folders around these and a zip of them will do"
)
_CARRIES_CLASS = re.compile(r"([^.]+)\.\d+\.[^.]+")
_PICTURE = re.compile(r".*\.(jpe?g|jpe|jfif|png|gif|bmp|webp|tiff?|avif|heic)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a listing tells classes; folder and class names are compared in lower case.

    With `from_names`, a file is CLASS.NUMBER.ext and the nearest split folder around it is its hint. Otherwise its
    class is the first folder below `base`, or the second when `has_splits` makes the first a split folder.
    """

    classes: tuple[str, ...]
    base: tuple[str, ...] = ()
    has_splits: bool = False
    from_names: bool = False

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
        folders, split = _folded(folder), None
        if self.from_names:
            carried = _carried_class(name)
            split = next((SPLIT_FOLDERS[part] for part in reversed(folders) if part in SPLIT_FOLDERS), None)
            return (split, carried) if carried in self._known else None
        below = folders[len(self.base) :] if folders[: len(self.base)] == self.base else ()
        if self.has_splits and below:
            split, below = SPLIT_FOLDERS.get(below[0]), below[1:]
            if split is None:
                return None
        return (split, below[0]) if below and below[0] in self._known else None


def assign_classes(relatives: Sequence[str], *, source: str) -> tuple[Layout, list[tuple[str | None, str] | None]]:
    """Decide the layout of a whole listing and return it with `class_of` each file.

    Only files named like pictures decide, so a readme beside the class folders changes nothing:
    1. While all pictures in folders are in one folder with folders of its own, it is wrapping, and is entered.
    2. If a folder there has a split's name and class folders or CLASS.1.jpg names in it, all so named are splits.
    3. The classes are the folders there, or those in the split folders. Deeper folders belong to their class.
    4. If that gives fewer than two classes, names decide: cat.0.jpg is of class cat.
    When all files hint the same split (somebody gave `data/train`), the hint says nothing and is dropped.
    Raises UsageError, naming `source`, for fewer than two classes.
    """
    layout = _detect_layout(relatives)
    if len(layout.classes) < 2:
        found = f"only the class {layout.classes[0]}" if layout.classes else "none"
        raise UsageError(
            f"expected photos of two classes or more in {source}, found {found} in {len(relatives)} files, "
            f"such as {min(relatives)}; lay them out as {LAYOUTS}"
        )
    assigned = [layout.class_of(relative) for relative in relatives]
    if len({found[0] for found in assigned if found}) == 1:
        assigned = [(None, found[1]) if found else None for found in assigned]
    return layout, assigned


def _detect_layout(relatives: Sequence[str]) -> Layout:
    pictures = [relative for relative in relatives if _PICTURE.fullmatch(relative)] or relatives
    folders: set[tuple[str, ...]] = set()
    carriers: set[tuple[str, ...]] = set()  # folders with a CLASS.1.jpg in them
    carried: set[str] = set()
    for relative in pictures:
        folder, _, name = relative.rpartition("/")
        folders.add(_folded(folder))
        if found := _carried_class(name):
            carried.add(found)
            carriers.add(_folded(folder))
    layout = _detect_folders(folders, carriers=carriers)
    if len(layout.classes) < 2 <= len(carried):
        return Layout(classes=tuple(sorted(carried)), from_names=True)
    return layout


def _detect_folders(folders: set[tuple[str, ...]], *, carriers: set[tuple[str, ...]]) -> Layout:
    base: tuple[str, ...] = ()
    while True:
        below = {folder[len(base) :] for folder in folders if folder[: len(base)] == base} - {()}
        children = {folder[0] for folder in below}
        if len(children) == 1 and any(len(folder) > 1 for folder in below):
            base += (children.pop(),)
            continue
        in_splits = {folder for folder in below if folder[0] in SPLIT_FOLDERS}
        if any(len(folder) > 1 or base + folder in carriers for folder in in_splits):
            classes = {folder[1] for folder in in_splits if len(folder) > 1}
            if classes <= SPLIT_FOLDERS.keys():  # Kaggle's train/train/ and test/test/
                classes = set()
            return Layout(classes=tuple(sorted(classes)), base=base, has_splits=True)
        return Layout(classes=tuple(sorted(children)), base=base)


@lru_cache(maxsize=1 << 16)
def _folded(folder: str) -> tuple[str, ...]:
    """Return the parts of `folder` as they are compared: lower case, accents composed (macOS stores them apart)."""
    return tuple(unicodedata.normalize("NFC", part).lower() for part in folder.split("/") if part)


def _carried_class(name: str) -> str | None:
    match = _CARRIES_CLASS.fullmatch(name)
    return unicodedata.normalize("NFC", match[1]).lower() if match else None
