"""The settings that `--config FILE` gives: YAML, or the config.json of an earlier run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catdog.command_line.settings import check_setting, convert_setting, fields_of
from catdog.errors import UsageError

_RECORDED = "config.json"  # written by a run: all settings that existed at that time
_FINGERPRINT = "_fingerprint"  # key suffix in the config.json of a run: for the content of a file that a setting names


def read_config_file(path: str, config_class: type[Any]) -> dict[str, Any]:
    """Return the settings in the YAML or JSON file `path` (a path or URI), by dotted name, converted and checked.

    A name may be dotted, `frozen.epochs: 3`, or nested, `frozen: {epochs: 3}`; `-` and `_` in it are equivalent.
    Raises UsageError, in one line with the file's name, for a file that cannot be read or is not a table of settings,
    for a setting that does not exist, and for a value that its setting does not accept.
    """
    import yaml

    source = f"--config {path}"
    try:
        # BaseLoader keeps scalars as text, which is converted like a command line's: 3e-4 is a number, yes a choice.
        content = yaml.load(_read(path), Loader=yaml.BaseLoader)
    except (OSError, UnicodeError, ValueError) as error:
        raise UsageError(f"{source}: cannot be read: {_one_line(error)}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{source}: expected YAML of settings: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{source}: expected a table of settings such as `dropout: 0.3`, found no table")
    fields, values = fields_of(config_class), {}
    for key, value in _flatten(content, fields, source=source).items():
        if key.endswith(_FINGERPRINT) and key.removesuffix(_FINGERPRINT) in fields:
            continue
        check_setting(config_class, key, prefix="", source=f"{source}: ")
        values[key] = convert_setting(config_class, key, value, flag=f"{source}: {key}")
    if Path(path).name == _RECORDED:
        values = {**getattr(config_class, "values_before", {}), **values}
    return values


def _flatten(content: Mapping[str, Any], fields: Mapping[str, Any], *, source: str, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        key = prefix + str(name).replace("-", "_")
        if isinstance(value, dict) and key in fields:  # space: {dropout: "uniform:0,0.5"}
            found = {key: [f"{part.replace('-', '_')}={text}" for part, text in value.items()]}
        elif isinstance(value, dict):
            found = _flatten(value, fields, source=source, prefix=f"{key}.")
        else:
            found = {key: value}
        if twice := flat.keys() & found.keys():
            raise UsageError(f"{source}: {min(twice)} is set twice: keep one of them")
        flat |= found
    return flat


def _read(path: str) -> str:
    if "://" not in path:
        return Path(path).read_text(encoding="utf-8")
    from pyarrow.fs import FileSystem

    file_system, inside = FileSystem.from_uri(path)
    with file_system.open_input_stream(inside) as stream:
        return bytes(stream.read()).decode()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
