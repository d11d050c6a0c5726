from pathlib import Path

import pytest
from made_photos import save_classifier

SIZE = 64  # small images, for speed


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a saved Lite0 with ImageNet weights, an image size of 64 and a random head."""
    return save_classifier(tmp_path_factory.mktemp("model"), seed=0, image_size=SIZE)
