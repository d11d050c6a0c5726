"""A photo of each kind, from which layouts are told: so few stand for millions."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from catdog.photos.annotations.layouts.layout import carried_class
from catdog.photos.decoding.formats import is_photo_name

MOST_NAMES = 1000  # of classes that are not known: more of them tell no more


class Examples:
    """The first photo of each kind that layouts tell apart; there is one of each folder at least.

    Where the classes are `known`, so many others count that names of photos carry, and no more.
    """

    def __init__(self, known: Collection[str] | None = None) -> None:
        self._known = None if known is None else {*known, ""}
        self._unknown = 0
        # By folder, class that the name carries or "", and whether it is the name of a photo.
        self._found: dict[tuple[str, str, bool], str] = {}

    def add(self, relatives: Iterable[str]) -> None:
        """Look at more photos, by their places below the source."""
        for relative in relatives:
            folder, _, name = relative.rpartition("/")
            kind = (folder, carried_class(name) or "", is_photo_name(relative))
            if self._known is not None and kind[1] not in self._known and kind not in self._found:
                self._unknown += 1
                if self._unknown > MOST_NAMES:
                    kind = (folder, "", kind[2])
            if relative < self._found.get(kind, f"{relative}\0"):
                self._found[kind] = relative

    @property
    def relatives(self) -> list[str]:
        """Their places below the source, sorted."""
        return sorted(self._found.values())
