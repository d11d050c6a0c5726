"""The search space as a user writes it: `SETTING=DOMAIN` on the command line, or a YAML file of domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from catdog.errors import UsageError


def read_space(items: Sequence[str], *, default: Mapping[str, str]) -> dict[str, str]:
    """Return the text of each setting's domain from `items`: `SETTING=DOMAIN`, or the path of a YAML file.

    Without items it returns `default`. Raises UsageError for a file that cannot be read or does not map settings to
    domains.
    """
    texts: dict[str, str] = {}
    for item in items:
        if "=" in item:
            key, _, text = item.partition("=")
            texts[key] = text
        else:
            texts.update(_read_file(item))
    return texts or dict(default)


def _read_file(path: str) -> dict[str, str]:
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"--space {path}: expected a YAML file of settings and domains: {reason}") from error
    if not isinstance(found, dict) or not found:
        raise UsageError(f"--space {path}: expected lines such as `dropout: uniform:0,0.5`, found {found!r:.60}")
    texts: dict[str, str] = {}
    for key, value in found.items():
        # Settings of a stage may be nested below its name, as in a --config file.
        inside = {f"{key}.{name}": text for name, text in value.items()} if isinstance(value, dict) else {key: value}
        for name, text in inside.items():
            texts[str(name).replace("-", "_")] = str(text)
    return texts
