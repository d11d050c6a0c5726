"""The names that people give to splits, and the split that each means."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

_WORDS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "valid", "val", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst", "holdout", "heldout"),
}
_MEANT = {word: split for split, words in _WORDS.items() for word in words}
# Words before or after such a word that change nothing: training_set, my-val-data, test1, imgs_train_2019.
_FILLER = re.compile(
    r"(data|image|img|photo|pic|picture|sub|sample)?sets?|data|splits?|images?|imgs?|photos?|pics?|pictures?|samples?"
    r"|folder|dir|part|small|tiny|mini|full|all|new|final|my|the|in|out|cats?|dogs?|and|vs|pets?|v?\d+"
)
_ANY = "|".join(sorted(_MEANT, key=len, reverse=True))
_JOINED = re.compile(rf"(?:set|data|images?|imgs?|photos?)?({_ANY})(?:set|data|images?|imgs?|photos?|folder)?s?")


def split_of_name(name: str) -> str | None:
    """Return the split that a folder name means, such as `training_set`, `Val`, `test1`, `cats-train-2019`, or None."""
    words = _words_of(name)
    if words in (["hold", "out"], ["held", "out"]):
        return "test"
    meant = {_MEANT[word] for word in words if word in _MEANT}
    if len(meant) != 1 or not all(word in _MEANT or _FILLER.fullmatch(word) for word in words):
        return None
    return meant.pop()


def splits_of_names(names: Iterable[str]) -> dict[str, str]:
    """Return the split of each of `names`, sibling folders, that means a split.

    `seg_train` next to `seg_test` are splits too: the names differ only in the word that means the split.
    """
    found = {name: split for name in names if (split := split_of_name(name))}
    alike: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for name in names:
        words = _words_of(name)
        meant = [word for word in words if word in _MEANT]
        if len(meant) == 1:
            alike[tuple("" if word in _MEANT else word for word in words)][name] = _MEANT[meant[0]]
    for splits in alike.values():
        if len({*splits.values()}) > 1:
            found |= splits
    return found


def _words_of(name: str) -> list[str]:
    words = [word for word in re.split(r"[\W_]+|(?<=[^\W\d])(?=\d)", name.lower()) if word]
    return [joined[1] if (joined := _JOINED.fullmatch(word)) else word for word in words]
