from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ray.tune import Checkpoint

from catdog.errors import FailureError
from catdog.tuning.trials.checkpoint import TrialCheckpoint, move_checkpoint


def test_ray_tune_s_copy_goes_once_ours_stands(tmp_path: Path) -> None:
    best = TrialCheckpoint(stage="frozen", cut="head", epoch=1, weights=[np.ones(3, np.float32)])
    with best.for_ray_tune() as given:
        stored = Checkpoint(given.to_directory(str(tmp_path / "tune")))
    (tmp_path / "file").write_text("a file is no folder")
    with pytest.raises(FailureError, match="cannot write"):
        move_checkpoint(stored, str(tmp_path / "file" / "frozen.npz"))
    assert (tmp_path / "tune").exists()
    move_checkpoint(stored, str(tmp_path / "frozen.npz"))
    assert not (tmp_path / "tune").exists()
    found = TrialCheckpoint.from_bytes((tmp_path / "frozen.npz").read_bytes())
    assert (found.stage, found.epoch, found.weights[0].tolist()) == ("frozen", 1, [1.0, 1.0, 1.0])
