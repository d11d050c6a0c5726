from pathlib import Path

import pytest
from made_photos import save_classifier

SIZE = 64  # small pictures, for speed


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved Lite0 of ImageNet weights for pictures of 64 pixels, whose head tells nothing."""
    return save_classifier(tmp_path_factory.mktemp("model"), seed=0, image_size=SIZE)
