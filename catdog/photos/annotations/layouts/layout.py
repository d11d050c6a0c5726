"""A layout: how the class and the split of a photo follow from its folder and file names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from catdog.photos.annotations.layouts.split_names import split_of_name

Folder = tuple[str, ...]  # names from the source down, as `folded` returns them
_CARRIES_CLASS = re.compile(r"([^.]+)\.\d+\.[^.]+")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a listing determines classes; folder and class names are compared in lower case.

    With `from_names`, a file is named CLASS.NUMBER.ext, and the nearest split folder around it is its split hint.
    Otherwise its class is the first folder below one of `roots`, whose value is the split hint. With
    `split_in_class`, the folder below the class folder is the split.
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
        """Return (split hint or None, class name) of the file at `relative`, or None if it has no class."""
        folder, _, name = relative.rpartition("/")
        folders = folded(folder)
        if self.from_names:
            carried = carried_class(name)
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


@lru_cache(maxsize=1 << 16)
def folded(folder: str) -> tuple[str, ...]:
    """Return the parts of `folder` in the form used for comparison: lower case, stripped, composed accents.

    macOS stores accents decomposed.
    """
    return tuple(unicodedata.normalize("NFC", part).lower().strip() or part for part in folder.split("/") if part)


def carried_class(name: str) -> str | None:
    """Return the class in a name such as CLASS.1.jpg, or None."""
    match = _CARRIES_CLASS.fullmatch(name)
    return unicodedata.normalize("NFC", match[1]).lower() if match else None
