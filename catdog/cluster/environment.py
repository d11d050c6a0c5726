"""What must be in the environment before Keras is imported, in every process."""

from __future__ import annotations

import os
from collections.abc import Mapping

from catdog.storage.artifacts import cache_directory


def keras_environment() -> Mapping[str, str]:
    """Return the variables: the legacy Keras, and a home of its own for its settings."""
    return {
        "TF_USE_LEGACY_KERAS": "1",  # Ray's TensorFlow workers set it too: one Keras everywhere
        # Keras makes a folder in the user's home, and obeys settings that it finds there, such as channels_first.
        "KERAS_HOME": str(cache_directory() / "keras"),
    }


def set_keras_environment() -> None:
    """Set the variables that are not set yet."""
    for name, value in keras_environment().items():
        os.environ.setdefault(name, value)
