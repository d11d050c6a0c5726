"""One example photo of each kind: a few of them are enough to detect the layout of millions."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from catdog.photos.annotations.layouts.layout import carried_class
from catdog.photos.decoding.formats import is_photo_name

MAX_NAMES = 1000  # kinds with an unknown class name; more of them add no information


class Examples:
    """The first photo of each kind that layout detection distinguishes, at least one for each folder.

    If the classes are `known`, other classes in file names distinguish at most MAX_NAMES kinds. Beyond that they are
    ignored.
    """

    def __init__(self, known: Collection[str] | None = None) -> None:
        self._known = None if known is None else {*known, ""}
        self._unknown = 0
        # By folder, class that the name carries or "", and whether it is the name of a photo.
        self._found: dict[tuple[str, str, bool], str] = {}

    def add(self, relatives: Iterable[str]) -> None:
        """Add photos, given as paths relative to the source."""
        for relative in relatives:
            folder, _, name = relative.rpartition("/")
            kind = (folder, carried_class(name) or "", is_photo_name(relative))
            if self._known is not None and kind[1] not in self._known and kind not in self._found:
                self._unknown += 1
                if self._unknown > MAX_NAMES:
                    kind = (folder, "", kind[2])
            if relative < self._found.get(kind, f"{relative}\0"):
                self._found[kind] = relative

    @property
    def relatives(self) -> list[str]:
        """The paths of the examples relative to the source, sorted."""
        return sorted(self._found.values())
