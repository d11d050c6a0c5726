"""Settings: declared as dataclass fields, checked when their config is built, addressed by dotted names."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from catdog.command_line.suggestions import suggest
from catdog.errors import UsageError

Field = dataclasses.Field[Any]
_KINDS: Mapping[str, type] = {"int": int, "float": float, "bool": bool, "str": str, "tuple[str, ...]": tuple}
_EXPECTED = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    tuple: "a list of strings",
}
_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def setting(
    default: Any,
    help: str,
    *,
    group: str = "general",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    identity: bool = True,
    also: tuple[str, ...] = (),
) -> Any:
    """Declare a field of a config: its default, its help text and its range.

    `group` is the heading that --help lists it under. `identity` says whether another value changes the result; only
    such settings are compared when a run directory is reused. `also` has other names that people try for the setting;
    the error for such an unknown flag suggests the right one.
    """
    metadata = {
        "help": help,
        "group": group,
        "low": low,
        "high": high,
        "choices": choices,
        "identity": identity,
        "also": also,
    }
    return dataclasses.field(default=default, metadata=metadata)


class SettingError(UsageError):
    """A value that a setting does not accept; `key` is the setting's dotted name, `problem` what is wrong."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{flag_of(key)}: {problem}")
        self.key, self.problem = key, problem

    def __reduce__(self) -> tuple[type[SettingError], tuple[str, str]]:
        return SettingError, (self.key, self.problem)


class Settings:
    """Base of all configs: a frozen dataclass of settings and nested Settings that checks its own values."""

    def __post_init__(self) -> None:
        """Raise SettingError for a value of another type, out of its range or not among its choices."""
        for field in dataclasses.fields(typing.cast(Any, self)):
            if "help" in field.metadata and (problem := _problem(getattr(self, field.name), field)):
                raise SettingError(field.name, problem)


ConfigT = TypeVar("ConfigT")


def fields_of(config_class: type[Any]) -> dict[str, Field]:
    """Return the settings of `config_class` by dotted name, such as `frozen.epochs`, in the order of declaration."""
    return dict(_walk(config_class, prefix=""))


def build_config(config_class: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Build a config from flat `values` such as `{"frozen.epochs": 3}`; the rest keep their defaults.

    Raises UsageError for an unknown name, SettingError for a value that its setting does not accept.
    """
    for key in values:
        check_setting(config_class, key)
    return typing.cast(ConfigT, _construct(config_class, values, prefix=""))


def flatten_config(config: Any, *, identity_only: bool = False) -> dict[str, Any]:
    """Return the settings of `config` as one flat table, `{"frozen.epochs": 12, …}`."""
    flat = {}
    for key, field in fields_of(type(config)).items():
        if identity_only and not field.metadata["identity"]:
            continue
        value = config
        for name in key.split("."):
            value = getattr(value, name)
        flat[key] = value
    return flat


def check_setting(config_class: type[Any], key: str, *, prefix: str = "--", source: str = "") -> type:
    """Return the type of the setting `key`.

    Raises UsageError if there is none; its text begins with `source` and suggests the nearest names with `prefix`.
    """
    fields = fields_of(config_class)
    if key not in fields:
        near = suggest(key, {name: field.metadata["also"] for name, field in fields.items()}, prefix=prefix)
        raise UsageError(f"{source}there is no setting {flag_of(key).removeprefix('--')}{near}")
    return kind_of(fields[key])


def convert_setting(config_class: type[Any], key: str, value: Any, *, flag: str) -> Any:
    """Return `value`, a text from a command line or file, converted for the setting `key`.

    Raises UsageError, naming `flag`, for a text of another type or a value out of range.
    """
    field = fields_of(config_class)[key]
    converted = _convert(value, kind_of(field))
    if problem := _problem(converted, field):
        raise UsageError(f"{flag}: {problem}")
    return converted


def kind_of(field: Field) -> type:
    """Return the type of a setting's values."""
    return _KINDS[str(field.type)]


def flag_of(key: str) -> str:
    """Return the flag of a setting: `--frozen.learning-rate` for `frozen.learning_rate`."""
    return "--" + key.replace("_", "-")


def _convert(value: Any, kind: type) -> Any:
    """Return `value` converted to `kind`, or unchanged if that is not possible."""
    if kind is tuple:
        return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
    if kind is bool:
        return _TRUTHS.get(value.lower(), value) if isinstance(value, str) else value
    if kind not in (int, float) or not isinstance(value, str):
        return value
    try:
        return kind(value)
    except ValueError:
        return value


def _problem(value: Any, field: Field) -> str:
    """Return what is wrong with `value`, or ""."""
    low, high, choices = (field.metadata[name] for name in ("low", "high", "choices"))
    kind = kind_of(field)
    fits = isinstance(value, int | float if kind is float else kind) and isinstance(value, bool) == (kind is bool)
    if not fits or (kind is tuple and not all(isinstance(item, str) for item in value)):
        return f"expected {_EXPECTED[kind]}, found {value!r}"
    if choices and value not in (*choices, field.default):
        near = suggest(str(value), dict.fromkeys(choices, ()), prefix="")
        return f"expected one of {', '.join(choices)}, found {value!r}{near}"
    # A NaN fails both comparisons, so it is refused if there is any bound.
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        return f"expected a number {bounds}, found {value}"
    return ""


def _walk(config_class: type[Any], *, prefix: str) -> Iterator[tuple[str, Field]]:
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _walk(typing.cast(type, hints[field.name]), prefix=f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field


def _construct(config_class: type[Any], values: Mapping[str, Any], *, prefix: str) -> Any:
    hints = typing.get_type_hints(config_class)
    arguments = {}
    for field in dataclasses.fields(config_class):
        key = prefix + field.name
        if dataclasses.is_dataclass(hints[field.name]):
            arguments[field.name] = _construct(typing.cast(type, hints[field.name]), values, prefix=key + ".")
        elif key in values:
            arguments[field.name] = values[key]
    try:
        return config_class(**arguments)
    except SettingError as error:
        # A nested class knows only the names of its own fields.
        raise SettingError(prefix + error.key, error.problem) from None
