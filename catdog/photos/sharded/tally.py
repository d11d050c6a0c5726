"""Counts of rejected photos by class and reason, each with its first photo."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from catdog.errors import UsageError
from catdog.photos.inspection import missing_class_text
from catdog.photos.sharded.summary import Rejected

NO_CLASS = -1


Tally = dict[tuple[int, str], Rejected]  # by label (NO_CLASS for none) and code


def tally_rejected(photos: Iterable[tuple[str, str, int]]) -> Tally:
    """Count `photos`, each of them (path, reason, label)."""
    return add_tallies(
        {(label, reason.partition(":")[0]): Rejected(count=1, path=path, reason=reason)}
        for path, reason, label in photos
    )


def add_tallies(tallies: Iterable[Tally]) -> Tally:
    """Return the sum of `tallies`."""
    total: Tally = {}
    for tally in tallies:
        for key, one in tally.items():
            other = total.get(key, one)
            first = min(one, other, key=lambda found: found.path)
            count = one.count + (other.count if key in total else 0)
            total[key] = Rejected(count=count, path=first.path, reason=first.reason)
    return total


def by_frequency(tally: Iterable[Rejected]) -> list[Rejected]:
    """Return the total of each code, most frequent first, ties sorted by their first photo."""
    total = add_tallies({(NO_CLASS, one.code): one} for one in tally)
    return sorted(total.values(), key=lambda one: (-one.count, one.path))


def require_classes(classes: Sequence[str], *, usable: Sequence[int], tally: Tally, source: str) -> None:
    """Raise UsageError, with the reasons counted, if a class has no usable photo; `usable` has the counts by class."""
    for label, count in enumerate(usable):
        if not count:
            reasons = by_frequency(one for (of, _), one in tally.items() if of == label)
            first = min(reasons, key=lambda one: one.path).reason if reasons else ""
            counts = {one.code: one.count for one in reasons}
            raise UsageError(missing_class_text(classes[label], counts, first=first, source=source))
