"""The console summary of a manifest: photos by class and split, and why files were rejected."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from catdog.storage.schemas import SPLITS, UNUSED

UNEVEN_RATIO = 1.5  # between the photos of the largest and the smallest class
_SHOWN_CLASSES = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rejected:
    """The files rejected for the same reason: their `count`, the `path` of the first one, and its `reason`."""

    count: int
    path: str
    reason: str  # "code: message"

    @property
    def code(self) -> str:
        """The reason without the message about the one photo."""
        return self.reason.partition(": ")[0]


def empty_counts(classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return counts of 0 photos by split (including UNUSED) and class name."""
    return {split: dict.fromkeys(classes, 0) for split in (*SPLITS, UNUSED)}


def summary_lines(counts: Mapping[str, Mapping[str, int]], reasons: Sequence[Rejected]) -> list[str]:
    """Return the console lines: photos by class and split, imbalance, and reasons in their order.

    `counts` has the number of photos by split (including UNUSED) and class name.
    """
    classes = list(counts[UNUSED])
    used = {name: sum(counts[split][name] for split in SPLITS) for name in classes}
    unused, rejected = sum(counts[UNUSED].values()), sum(one.count for one in reasons)
    total = sum(used.values()) + unused
    lines = [
        f"Found {total} images belonging to {len(classes)} classes.",
        f"Classes: {_by_class({name: used[name] + counts[UNUSED][name] for name in classes})}.",
        f"Splits: {', '.join(f'{split} {sum(counts[split].values())}{_each(counts[split])}' for split in SPLITS)}.",
        f"{total + rejected} files: {total - unused} used, {unused} unused, {rejected} rejected.",
    ]
    few, many = (pick(used, key=lambda name: used[name]) for pick in (min, max))
    if used[many] > UNEVEN_RATIO * used[few]:
        lines.append(
            f"Imbalanced classes: {used[many]} of {many}, {used[few]} of {few}; training uses class weights "
            "(--class-weights none turns them off)."
        )
    shown = [(one, one.reason.partition(": ")[2]) for one in reasons]
    return lines + [f"  {one.count} {one.code}, such as {one.path}: {message}" for one, message in shown]


def _by_class(counts: Mapping[str, int]) -> str:
    shown = [f"{name} {count}" for name, count in counts.items()]
    hidden = len(shown) - _SHOWN_CLASSES
    return ", ".join(shown if hidden <= 0 else [*shown[:_SHOWN_CLASSES], f"and {hidden} more"])


def _each(counts: Mapping[str, int]) -> str:
    """Return the number, or the range, of photos per class in one split, in brackets; "" if it has no photos."""
    low, high = min(counts.values()), max(counts.values())
    if not high:
        return ""
    return f" ({low if low == high else f'{low} to {high}'} per class)"
