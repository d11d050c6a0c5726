"""The class of each file of a listing: from class folders, split folders around them, or names with the class."""

from __future__ import annotations

from collections.abc import Sequence

from catdog.console import counted
from catdog.errors import UsageError
from catdog.photos.annotations.layouts.layout import Layout, folded
from catdog.photos.annotations.layouts.layout_detection import detect_layout

LAYOUTS = (
    "CLASS/photo.jpg, or train/CLASS/photo.jpg (next to it validation/, val/ or test/), or CLASS.1.jpg; "
    "folders around these and a zip of them are accepted; or give the labels by --labels FILE"
)


def assign_classes(
    relatives: Sequence[str], *, source: str, splits: str = "", known: Sequence[str] = (), photos: int = 0
) -> tuple[Layout, list[tuple[str | None, str] | None]]:
    """Detect the layout of a whole listing and return it with `class_of` each file.

    Only files named like pictures decide, so a readme next to the class folders changes nothing:
    1. While all pictures in folders are in one folder that has sub-folders, that folder is a wrapper and is entered.
    2. If a folder there has the name of a split and contains class folders or CLASS.1.jpg names, all folders with
       split names are splits.
    3. The classes are the folders there, or those in the split folders. Deeper folders belong to their class.
    4. If that gives fewer than two classes, file names decide: cat.0.jpg is of class cat.
    If all files have the same split hint (the user gave `data/train`), the hint is dropped.
    `splits` such as `train=a,test=b` names the split folders; `none` says that there are none. With `known` classes,
    one of them is enough. If the layout finds none of them, the nearest folder around a file with such a name is its
    class.
    `relatives` may be only one file of each kind, out of `photos` files.
    Raises UsageError, naming `source`, for fewer than two classes, and if folders may be either splits or classes.
    """
    layout = detect_layout(relatives, splits=splits)
    if known and not {*layout.classes} & {*known}:
        return _assign_known(relatives, source=source, known=known, photos=photos)
    if len(layout.classes) < (1 if known else 2):
        found = f"only the class {layout.classes[0]}" if layout.classes else "none"
        among = counted(photos or len(relatives), "file")
        raise UsageError(
            f"expected photos of two classes or more in {source}, found {found} in {among}, "
            f"such as {min(relatives)}; lay them out as {LAYOUTS}"
        )
    assigned = [layout.class_of(relative) for relative in relatives]
    if not splits and len({found[0] for found in assigned if found}) == 1:
        assigned = [(None, found[1]) if found else None for found in assigned]
    return layout, assigned


def _assign_known(
    relatives: Sequence[str], *, source: str, known: Sequence[str], photos: int
) -> tuple[Layout, list[tuple[str | None, str] | None]]:
    names = frozenset(known)
    around = folded(source.split("!")[-1].rstrip("/"))[-1:]  # the user gave PetImages/Cat
    assigned: list[tuple[str | None, str] | None] = []
    for relative in relatives:
        folders = around + folded(relative.rpartition("/")[0])
        name = next((part for part in reversed(folders) if part in names), None)
        assigned.append((None, name) if name else None)
    classes = tuple(sorted({found[1] for found in assigned if found}))
    if not classes:
        raise UsageError(
            f"expected folders of the classes {', '.join(known)} in {source}, found none in "
            f"{counted(photos or len(relatives), 'file')}, such as {min(relatives)}"
        )
    return Layout(classes=classes), assigned
