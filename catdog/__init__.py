"""Transfer learning with EfficientNet on Ray: classifies photos, such as cats and dogs, and labels whole folders.

Programs import `load_classifier` from here. The jobs are in the subpackages; __main__.py runs them by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from catdog.model.classifier import Classifier

__version__ = "0.1.0"
__all__ = ["__version__", "load_classifier"]


def load_classifier(model_dir: str) -> Classifier:
    """Load the classifier that a train job left in `model_dir` (a path or URI).

    >>> load_classifier("runs/pets/model").predict("photo.jpg")  # doctest: +SKIP
    ('dog', 0.9998197)

    Raises UsageError when `model_dir` is not a model directory.
    """
    from catdog.model.classifier import load_classifier as load  # late: TensorFlow takes seconds to import

    return load(model_dir)
