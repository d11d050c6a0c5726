"""The versions that a result was made with."""

from __future__ import annotations

import importlib.metadata
import platform

import catdog

_PACKAGES = ("ray", "tensorflow", "tf-keras", "efficientnet", "numpy", "pillow", "pyarrow", "opencv-python-headless")


def versions() -> dict[str, str]:
    """Return the versions of catdog, Python and the packages that decide a result, by name."""
    return {
        "catdog": catdog.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }
