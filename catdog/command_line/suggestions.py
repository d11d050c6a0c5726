"""Suggest the right name for one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

_MOST = 3
_CUTOFF = 0.72  # for difflib: less similar names are not suggested


def suggest(name: str, known: Mapping[str, Sequence[str]], *, prefix: str = "--") -> str:
    """Return "; did you mean …?" with up to three of the `known` names, or "" if none is similar.

    `known` has the other words that people use for each name: `{"frozen.learning_rate": ("lr",)}`. Such a word may
    replace the last part of a name: `frozen.lr` means `frozen.learning_rate`, and `lr` every learning rate. The
    spelling is compared only if no word matches.
    """
    wanted = name.strip("-").replace("-", "_").lower()
    near = _by_word(wanted, known) or _by_spelling(wanted, known)
    flags = [prefix + (key.replace("_", "-") if prefix else key) for key in near[:_MOST]]
    return f"; did you mean {' or '.join(flags)}?" if flags else ""


def _by_word(wanted: str, known: Mapping[str, Sequence[str]]) -> list[str]:
    if inside := [key for key in known if key.startswith(f"{wanted}.")]:
        return inside
    stage, _, last = wanted.rpartition(".")
    found = [key for key, words in known.items() if last in (_last(key), *words)]
    found = found or [key for key in known if _last(key).startswith(f"{last}_")]
    return [key for key in found if key.rpartition(".")[0] == stage] or found


def _by_spelling(wanted: str, known: Mapping[str, Sequence[str]]) -> list[str]:
    spellings = {spelling: key for key in known for spelling in (_last(key), key)}
    near = difflib.get_close_matches(wanted, spellings, n=1, cutoff=_CUTOFF)
    return [spellings[spelling] for spelling in near]


def _last(key: str) -> str:
    return key.rpartition(".")[2]
