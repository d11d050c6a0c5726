"""The flags of a job: generated from its config class, parsed, and converted back to flags."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from catdog.command_line.config_file import read_config_file
from catdog.command_line.settings import (
    Field,
    build_config,
    convert_setting,
    fields_of,
    flag_of,
    flatten_config,
    kind_of,
)
from catdog.command_line.suggestions import suggest
from catdog.errors import UsageError

ConfigT = TypeVar("ConfigT")
_SPACE = "--space."
_TYPED_DASHES = "\u2012\u2013\u2014\u2015\u2212"  # dashes that word processors put in place of --
_METAVARS: Mapping[type, str] = {str: "TEXT", int: "INT", float: "FLOAT"}


def parse_arguments(
    config_class: type[ConfigT], arguments: Sequence[str], *, description: str, program: str = ""
) -> ConfigT:
    """Build a `config_class` from command-line `arguments`.

    A flag overrides the file of --config, that file the recipe, and the recipe the defaults of the class.
    Raises UsageError, in one line, for an unknown flag (the text suggests the right one) and for a value of the wrong
    type or out of range. `--help` and `--version` print and exit with 0, as argparse does. Help shows the defaults of
    the recipe and the file that are given with it.
    """
    fields = fields_of(config_class)
    words = _join_dashes(_join_space(arguments) if "space" in fields else arguments, fields)
    defaults = _given_defaults(config_class, words)
    parser = _Parser(config_class, defaults=defaults, description=description, program=program)
    found = {key: value for key, value in vars(parser.parse_args(words)).items() if key in fields and value is not None}
    given = {key: convert_setting(config_class, key, value, flag=flag_of(key)) for key, value in found.items()}
    return build_config(config_class, {**defaults, **given})


def as_flags(config: Any) -> list[str]:
    """Return the flags that build `config` again: only those that differ from its recipe's defaults."""
    recipe = getattr(config, "recipe", None)
    plain = flatten_config(build_config(type(config), _recipe_defaults(type(config), recipe)))
    flags: list[str] = [] if recipe in (None, "default") else ["--recipe", recipe]
    for key, value in flatten_config(config).items():
        if value == plain[key]:
            continue
        if isinstance(value, bool):
            flags.append(flag_of(key) if value else flag_of(key).replace("--", "--no-", 1))
        elif isinstance(value, tuple):
            flags += [part for item in value for part in (flag_of(key), item)]
        else:
            flags += [flag_of(key), str(value)]
    return flags


def version_text() -> str:
    """Return the versions that a bug report needs, without slow imports."""
    from catdog import __version__

    found = {"Python": platform.python_version()}
    for title, name in (("Ray", "ray"), ("TensorFlow", "tensorflow")):
        try:
            found[title] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[title] = "not installed"
    return f"catdog {__version__} ({', '.join(f'{title} {version}' for title, version in found.items())})"


def _given_defaults(config_class: type[Any], words: Sequence[str]) -> dict[str, Any]:
    """Return the values, by setting, of the recipe and the config file that `words` name."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--config", "--recipe"):
        first.add_argument(flag, nargs="?")  # if its value is missing, the full parser rejects it
    chosen, _ = first.parse_known_args(list(words))
    values = read_config_file(chosen.config, config_class) if chosen.config else {}
    if "recipe" not in fields_of(config_class):
        return values
    recipe = convert_setting(config_class, "recipe", chosen.recipe or values.get("recipe", "default"), flag="--recipe")
    return {**_recipe_defaults(config_class, recipe), **values, "recipe": recipe}


def _recipe_defaults(config_class: type[Any], recipe: str | None) -> dict[str, Any]:
    return {"recipe": recipe, **config_class.recipes[recipe]} if recipe else {}


def _join_space(arguments: Sequence[str]) -> list[str]:
    """Turn `--space.SETTING DOMAIN`, for any setting, into `--space SETTING=DOMAIN`."""
    joined, rest = [], iter(arguments)
    for argument in rest:
        if not argument.startswith(_SPACE):
            joined.append(argument)
            continue
        name, equals, domain = argument.removeprefix(_SPACE).partition("=")
        joined += ["--space", f"{name.replace('-', '_')}={domain if equals else next(rest, '')}"]
    return joined


def _join_dashes(arguments: Sequence[str], fields: Mapping[str, Field]) -> list[str]:
    """Turn `--flag -1..1` into `--flag=-1..1`: argparse takes a value that begins with one dash for a flag."""
    flags = {flag_of(key) for key, field in fields.items() if kind_of(field) is not bool}
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in flags and argument.startswith("-") and not argument.startswith(("--", "-h")):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


class _Parser(argparse.ArgumentParser):
    """argparse with flags for all settings of a class, in groups, and errors of one line with exit code 2."""

    def __init__(self, config_class: type[Any], *, defaults: Mapping[str, Any], description: str, program: str) -> None:
        super().__init__(description=description, allow_abbrev=False, prog=program or None, add_help=False)
        self.usage = f"{self.prog} [--config FILE] [flags]"
        self._fields = fields_of(config_class)
        shown = flatten_config(build_config(config_class, defaults))
        groups: dict[str, argparse._ArgumentGroup] = {}
        for key, field in self._fields.items():
            title = key.rpartition(".")[0] or field.metadata["group"]
            if title not in groups:
                groups[title] = self.add_argument_group(title)
            _add_flag(groups[title], key, field, shown=shown[key])
        other = self.add_argument_group("this command")
        other.add_argument("--config", metavar="FILE", help="YAML of any settings, or a run's config.json; flags win")
        other.add_argument("--version", action="version", version=version_text(), help="print the versions and stop")
        other.add_argument("-h", "--help", action="help", help="print this and stop")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse all of `args`; raise UsageError for the first unknown one."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise UsageError(self._answer(unknown[0]))
        return found

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with argparse's message."""
        raise UsageError(message.removeprefix("argument "))

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help or version; ignore a console that is closed or full, as later releases of Python 3.11 do."""
        with contextlib.suppress(OSError):
            super()._print_message(message, file)

    def _answer(self, word: str) -> str:
        if word[:1] in _TYPED_DASHES:
            return f"found {word}, which begins with a typographic dash: write --{word.lstrip(_TYPED_DASHES)}"
        if not word.startswith("-"):
            near = f"; did you mean --photos {word}?" if "photos" in self._fields else ""
            return f"expected flags, found {word!r}{near}"
        known: dict[str, Sequence[str]] = {key: field.metadata["also"] for key, field in self._fields.items()}
        near = suggest(word.partition("=")[0], {**known, "config": (), "version": (), "help": ()})
        return f"there is no argument {word}{near} (--help lists them all)"


def _add_flag(group: argparse._ArgumentGroup, key: str, field: Field, *, shown: Any) -> None:
    default = "" if shown in ("", ()) else f" [{', '.join(shown) if isinstance(shown, tuple) else shown}]"
    text = (field.metadata["help"] + default).replace("%", "%%")
    if kind_of(field) is bool:
        group.add_argument(flag_of(key), dest=key, action=argparse.BooleanOptionalAction, help=text)
    elif kind_of(field) is tuple:
        group.add_argument(flag_of(key), dest=key, action="append", metavar="TEXT", help=text)
    else:
        group.add_argument(flag_of(key), dest=key, metavar=_metavar(field), help=text)


def _metavar(field: Field) -> str:
    choices = field.metadata["choices"]
    return "{" + ",".join(choices) + "}" if choices else _METAVARS[kind_of(field)]
