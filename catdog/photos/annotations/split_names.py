"""The names that people give to splits, and the split that each means."""

from __future__ import annotations

import re

_WORDS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "valid", "val", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst", "holdout", "heldout"),
}
_MEANT = {word: split for split, words in _WORDS.items() for word in words}
# What stands before or after such a word and changes nothing: training_set, my-val-data, test1, imgs_train_2019.
_FILLER = re.compile(
    r"(data|image|img|photo|pic|picture|sub|sample)?sets?|data|splits?|images?|imgs?|photos?|pics?|pictures?|samples?"
    r"|folder|dir|part|small|tiny|mini|full|all|new|final|my|the|in|out|cats?|dogs?|and|vs|pets?|v?\d+"
)
_JOINED = re.compile(rf"({'|'.join(sorted(_MEANT, key=len, reverse=True))})(set|data|images?|imgs?|photos?|folder)s?")


def split_of_name(name: str) -> str | None:
    """Return the split that a folder of this name is, or None: `training_set`, `Val`, `test1`, `cats-train-2019`."""
    words = [word for word in re.split(r"[\W_]+|(?<=[^\W\d])(?=\d)", name.lower()) if word]
    words = [joined[1] if (joined := _JOINED.fullmatch(word)) else word for word in words]
    if words in (["hold", "out"], ["held", "out"]):
        return "test"
    meant = {_MEANT[word] for word in words if word in _MEANT}
    if len(meant) != 1 or not all(word in _MEANT or _FILLER.fullmatch(word) for word in words):
        return None
    return meant.pop()
