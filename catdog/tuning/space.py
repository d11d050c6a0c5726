"""The search space of a sweep: which settings vary, over which domains, and the values of trial number i.

A domain is written `uniform:0,0.5`, `choice:adam,rmsprop` or `grid:16,32,64`. If the setting matters only under a
condition, ` if SETTING=VALUE` follows. Trial 0 has the default settings. The values of a random trial depend only on
the seed and its number, so a sweep that is resumed or extended keeps its trials.
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

# The syntax of each kind of domain.
KINDS = {
    "uniform": "uniform:LOW,HIGH",
    "loguniform": "loguniform:LOW,HIGH",
    "quniform": "quniform:LOW,HIGH,STEP",
    "randint": "randint:LOW,HIGH",
    "lograndint": "lograndint:LOW,HIGH",
    "choice": "choice:A,B,…",
    "grid": "grid:A,B,…",
}
# Settings that all trials share, such as their photos, where they run, and what else they write.
_FIXED = (
    "weights",
    "photos",
    "labels",
    "corrections",
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
    "seed",
    "track",
    "cache_budget_gib",
    "trunk_precision",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """The condition under which a setting matters: another setting, `key`, has one of these `values`."""

    key: str
    values: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Domain:
    """The possible values of one setting: a range from `low` to `high`, both included, or one of `values`.

    Only quniform has a `step`. `whole` marks an integer setting. If `condition` does not hold, the setting keeps its
    default.
    """

    kind: str
    low: float = 0.0
    high: float = 0.0
    step: float = 0.0
    values: tuple[Any, ...] = ()
    whole: bool = False
    condition: Condition | None = None

    @property
    def is_log(self) -> bool:
        """Whether values are drawn uniformly on a logarithmic scale."""
        return self.kind in ("loguniform", "lograndint")

    def draw(self, random: np.random.Generator) -> Any:
        """Return one random value. A grid is never drawn."""
        if self.kind == "choice":
            return self.values[int(random.integers(len(self.values)))]
        share = float(random.random())
        if self.kind == "randint":
            return int(self.low) + int(share * (self.high - self.low + 1))
        if self.kind == "quniform":
            return self.rounded(self.low + share * (self.high - self.low))
        if self.is_log:
            # Each whole number gets its share of the logarithmic range.
            low, high = (self.low - 0.5, self.high + 0.5) if self.kind == "lograndint" else (self.low, self.high)
            return self.rounded(math.exp(math.log(low) + share * (math.log(high) - math.log(low))))
        return self.rounded(self.low + share * (self.high - self.low))

    def rounded(self, value: Any) -> Any:
        """Return a drawn `value` in the range, on the step, and rounded to an integer or to four significant digits.

        Four digits are short to type. A choice stays as it is.
        """
        if self.values:
            return value
        if self.step:
            value = self.low + round((value - self.low) / self.step) * self.step
        value = min(max(value if self.whole else float(f"{value:.4g}"), self.low), self.high)
        return round(value) if self.whole else float(value)


Space = Mapping[str, Domain]


def parse_space(config_class: type[Any], texts: Mapping[str, str]) -> dict[str, Domain]:
    """Parse the domain of each setting of `config_class`, such as `{"dropout": "uniform:0,0.5"}`.

    Raises a one-line UsageError for a setting that does not exist (it suggests the nearest) or cannot vary, for text
    that is not a domain, and for values that the setting does not accept.
    """
    space = {key: _parse_domain(config_class, key, text) for key, text in texts.items()}
    for key, domain in space.items():
        if domain.condition:
            _check_condition(space, key, domain.condition)
    return space


def _parse_domain(config_class: type[Any], key: str, text: str) -> Domain:
    flag = _flag(key)
    type_ = check_setting(config_class, key, prefix="--space.", source=f"{flag}: ")
    if key in _FIXED or key.startswith("cluster."):
        raise UsageError(f"{flag}: it cannot vary within a sweep; choose a setting of the training")
    written, _, when = (part.strip() for part in text.partition(" if "))
    kind, colon, rest = written.partition(":")
    words = [word.strip() for word in rest.split(",") if word.strip()]
    if not colon or kind not in KINDS or not words:
        raise UsageError(f"{flag}: expected one of {', '.join(KINDS.values())}; found {text!r}")
    condition = _parse_condition(config_class, flag, when) if when else None
    if kind in ("choice", "grid"):
        values = tuple(convert_setting(config_class, key, word, flag=flag) for word in words)
        if len(set(values)) < len(values):
            raise UsageError(f"{flag}: expected different values, found {text!r}")
        return Domain(kind=kind, values=values, condition=condition)
    if type_ not in (int, float):
        raise UsageError(
            f"{flag}: expected choice:A,B,… or grid:A,B,…, because the setting is not a number; found {text!r}"
        )
    return _parse_range(config_class, key, kind, words, whole=type_ is int, condition=condition)


def _parse_range(
    config_class: type[Any], key: str, kind: str, words: list[str], *, whole: bool, condition: Condition | None
) -> Domain:
    flag, found = _flag(key), f"{kind}:{','.join(words)}"
    *step, low, high = _numbers(config_class, key, words, kind=kind)
    if kind in ("randint", "lograndint") and not whole:
        raise UsageError(f"{flag}: expected uniform or loguniform, because it is not a whole number; found {found!r}")
    if not low < high or (kind.startswith("log") and low <= 0):
        both = ", both over 0" if kind.startswith("log") else ""
        raise UsageError(f"{flag}: expected LOW below HIGH{both}, found {found!r}")
    return Domain(kind=kind, low=low, high=high, step=sum(step), whole=whole, condition=condition)


def _numbers(config_class: type[Any], key: str, words: list[str], *, kind: str) -> tuple[float, ...]:
    """Return (step if the kind has one, low, high). The setting must accept both ends."""
    flag, found = _flag(key), f"{kind}:{','.join(words)}"
    parts = KINDS[kind].partition(":")[2]
    if len(words) != parts.count(",") + 1:
        raise UsageError(f"{flag}: expected {('two', 'three')[parts.count(',') - 1]} numbers, {parts}, found {found!r}")
    low, high = (convert_setting(config_class, key, word, flag=flag) for word in words[:2])
    if kind != "quniform":
        return float(low), float(high)
    try:
        step = float(words[2])
    except ValueError:
        step = math.nan
    if not 0 < step <= high - low:
        raise UsageError(f"{flag}: expected a STEP between 0 and HIGH - LOW, found {found!r}")
    return step, float(low), float(high)


def _parse_condition(config_class: type[Any], flag: str, text: str) -> Condition:
    key, equals, rest = text.partition("=")
    key = key.strip().replace("-", "_")
    if not equals or not rest.strip():
        raise UsageError(f"{flag}: expected DOMAIN if SETTING=VALUE, or VALUE|VALUE, found if {text!r}")
    check_setting(config_class, key, prefix="", source=f"{flag}: ")
    words = [word.strip() for word in rest.split("|")]
    return Condition(key=key, values=tuple(convert_setting(config_class, key, word, flag=flag) for word in words))


def _check_condition(space: Space, key: str, condition: Condition) -> None:
    other = space.get(condition.key)
    if other is None or not other.values or not set(condition.values) <= set(other.values):
        values = "|".join(map(str, condition.values))
        raise UsageError(
            f"{_flag(key)}: expected {condition.key} to vary too, as choice or grid with {values}, because of "
            f"`if {condition.key}={values}`"
        )
    if other.condition is not None:
        raise UsageError(f"{_flag(key)}: expected a condition on a setting that has none itself, found {condition.key}")
    if space[key].kind == "grid":
        raise UsageError(f"{_flag(key)}: expected choice in place of grid, because of its condition")


def _flag(key: str) -> str:
    return "--space." + key.replace("_", "-")


def active_values(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of `values` whose conditions hold."""
    conditions = {key: domain.condition for key, domain in space.items()}
    return {
        key: value
        for key, value in values.items()
        if (condition := conditions[key]) is None or values[condition.key] in condition.values
    }


def grid_points(space: Space) -> list[dict[str, Any]]:
    """Return every combination of the grids in `space`, or one empty combination if there is no grid."""
    grids = {key: domain.values for key, domain in space.items() if domain.kind == "grid"}
    return [dict(zip(grids, point, strict=True)) for point in itertools.product(*grids.values())]


def draw_trial(space: Space, number: int, *, seed: int) -> dict[str, Any]:
    """Return the values of random trial `number`, at least 1: grid points in turn, everything else at random."""
    points = grid_points(space)
    random = np.random.default_rng([seed, number])
    drawn = {key: domain.draw(random) for key, domain in sorted(space.items()) if domain.kind != "grid"}
    values = {**drawn, **points[(number - 1) % len(points)]}
    return active_values(space, {key: values[key] for key in space})


def check_trials(space: Space, trials: int) -> None:
    """Raise UsageError if there are fewer `trials`, not counting trial 0 with the defaults, than grid points."""
    points = len(grid_points(space))
    if points > 1 and trials <= points:
        raise UsageError(
            f"--trials {trials}: expected at least {points + 1}, the points of the grid and the default settings"
        )
