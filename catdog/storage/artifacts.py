"""Finished artifacts: completion marks, fingerprints of what they were made from, versions they were made with.

A step writes into its own directory and marks it complete last. The mark holds the inputs that the artifact
was made from, so a later run can decide whether to reuse it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from typing import Any

import catdog
from catdog.errors import UsageError
from catdog.storage.files import exists, join, read_json, write_json

COMPLETE = "_COMPLETE.json"
_PACKAGES = ("ray", "tensorflow", "tf-keras", "efficientnet", "numpy", "pillow", "pyarrow", "opencv-python-headless")


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """Return 16 hex digits that identify `inputs` (anything JSON can hold), whatever the order of its keys."""
    text = json.dumps(inputs, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def mark_complete(directory: str, *, inputs: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """Declare the artifact in `directory` finished, made from `inputs`; call it last."""
    write_json(join(directory, COMPLETE), {"inputs": inputs, "summary": summary})


def completed(directory: str, *, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the summary of a finished artifact, or None if there is none yet.

    Raises UsageError with the differences when it was made from other inputs.
    """
    path = join(directory, COMPLETE)
    if not exists(path):
        return None
    mark = read_json(path)
    refuse_difference(directory, found=mark["inputs"], wanted=json.loads(json.dumps(inputs)))
    summary: dict[str, Any] = mark["summary"]
    return summary


def refuse_difference(
    where: str, *, found: Mapping[str, Any], wanted: Mapping[str, Any], remedy: str = "another --run-dir"
) -> None:
    """Raise UsageError, naming each difference, unless `wanted` agrees with `found` on the keys they share."""
    changed = [
        f"{key} was {json.dumps(found[key])}, is now {json.dumps(wanted[key])}"
        for key in sorted(found.keys() & wanted.keys())
        if found[key] != wanted[key]
    ]
    if changed:
        raise UsageError(
            f"{where} was made with other settings ({'; '.join(changed)}): "
            f"give the settings it was made with, or {remedy}"
        )


def versions() -> dict[str, str]:
    """Return the versions of catdog, Python and the packages that affect a result, by name."""
    return {
        "catdog": catdog.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }
