"""The search space of a sweep: which settings vary, over what, and the values of trial number i.

A domain is written `uniform:0,0.5`, `loguniform:1e-5,1e-2`, `choice:adam,rmsprop` or `grid:16,32,64`. The values of a
trial depend only on the seed and its number: a sweep that is resumed, or extended, keeps the trials it has.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from catdog.command_line.settings import check_setting, convert_setting
from catdog.errors import UsageError

KINDS = ("uniform", "loguniform", "choice", "grid")
DEFAULT_SPACE = {
    "frozen.learning_rate": "loguniform:3e-4,3e-2",
    "unfrozen.learning_rate": "loguniform:1e-5,1e-3",
    "dropout": "uniform:0,0.5",
}
# Settings that change how features are used, never the features themselves.
_FEATURE_FREE = {"dropout"} | {
    f"{stage}.{name}"
    for stage in ("frozen", "unfrozen")
    for name in ("learning_rate", "optimizer", "global_batch_size", "patience", "train_batch_norm")
}
# What all trials share: their photos, the weights from which they start, where they run.
_FIXED = (
    "backbone",
    "weights",
    "photos",
    "run_dir",
    "labels",
    "groups",
    "splits",
    "train_per_class",
    "validation_per_class",
    "test_per_class",
    "max_pixels",
    "verbose",
    "recipe",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Domain:
    """What one setting may be: a range from `low` to `high`, or one of `values`."""

    kind: str
    low: float = 0.0
    high: float = 0.0
    values: tuple[Any, ...] = ()
    whole: bool = False  # an integer setting: ranges are rounded

    def draw(self, random: np.random.Generator) -> Any:
        """Return one random value; a grid has none to draw."""
        if self.kind == "choice":
            return self.values[int(random.integers(len(self.values)))]
        share = float(random.random())
        if self.kind == "loguniform":
            found = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            found = self.low + share * (self.high - self.low)
        # Four digits are enough to tell trials apart, and short enough to type.
        return round(found) if self.whole else float(f"{found:.4g}")


Space = Mapping[str, Domain]


def parse_space(config_class: type[Any], texts: Mapping[str, str]) -> dict[str, Domain]:
    """Parse the domain of each setting, such as `{"dropout": "uniform:0,0.5"}`, of `config_class`.

    Raises UsageError, in one line, for a setting that does not exist (the nearest is offered) or cannot vary,
    for text that is not a domain, and for values that the setting does not accept.
    """
    return {key: _parse_domain(config_class, key, text) for key, text in texts.items()}


def _parse_domain(config_class: type[Any], key: str, text: str) -> Domain:
    flag = "--space." + key.replace("_", "-")
    whole = check_setting(config_class, key, prefix="--space.", source=f"{flag}: ") is int
    if key in _FIXED or key.startswith("cluster."):
        raise UsageError(f"{flag}: all trials of a sweep share it; choose a setting of the training")
    kind, colon, rest = text.partition(":")
    words = [word.strip() for word in rest.split(",") if word.strip()]
    if not colon or kind not in KINDS or not words:
        raise UsageError(
            f"{flag}: expected uniform:LOW,HIGH, loguniform:LOW,HIGH, choice:A,B,… or grid:A,B,…, found {text!r}"
        )
    values = tuple(convert_setting(config_class, key, word, flag=flag) for word in words)
    if kind in ("choice", "grid"):
        if len(set(values)) < len(values):
            raise UsageError(f"{flag}: expected different values, found {text!r}")
        return Domain(kind=kind, values=values)
    if len(values) != 2 or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise UsageError(f"{flag}: expected two numbers, LOW,HIGH, found {text!r}")
    low, high = values
    if not low < high or (kind == "loguniform" and low <= 0):
        raise UsageError(
            f"{flag}: expected LOW below HIGH{', both over 0' if kind == 'loguniform' else ''}, found {text!r}"
        )
    return Domain(kind=kind, low=float(low), high=float(high), whole=whole)


def grid_points(space: Space) -> list[dict[str, Any]]:
    """Return every combination of the grids in `space`; one empty one where there is no grid."""
    grids = {key: domain.values for key, domain in space.items() if domain.kind == "grid"}
    return [dict(zip(grids, point, strict=True)) for point in itertools.product(*grids.values())]


def draw_trial(space: Space, number: int, *, seed: int) -> dict[str, Any]:
    """Return the values of trial `number`, from 0 on: grid points in turn, everything else at random."""
    points = grid_points(space)
    random = np.random.default_rng([seed, number])
    drawn = {key: domain.draw(random) for key, domain in sorted(space.items()) if domain.kind != "grid"}
    return {key: {**drawn, **points[number % len(points)]}[key] for key in space}


def check_trials(space: Space, trials: int) -> None:
    """Raise UsageError when there are fewer `trials` than points of the grid."""
    points = len(grid_points(space))
    if trials < points:
        raise UsageError(f"--trials {trials}: expected at least {points}, the points of the grid")


def layout_settings(space: Space) -> tuple[str, ...]:
    """Return the settings of `space` that change features."""
    return tuple(key for key in space if key not in _FEATURE_FREE)


def check_layouts(space: Space) -> None:
    """Raise UsageError when a setting that changes features varies over a range."""
    for key in layout_settings(space):
        if space[key].kind not in ("choice", "grid"):
            flag = f"--space.{key.replace('_', '-')}"
            raise UsageError(f"{flag}: each value needs a trunk pass of its own; give choice:A,B,… or grid:A,B,…")
