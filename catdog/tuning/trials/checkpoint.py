"""The best model of a trial so far, kept as small as possible: only the weights of the trained layers."""

from __future__ import annotations

import dataclasses
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune import Checkpoint

from catdog.storage import files

_FILE = "trial.npz"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialCheckpoint:
    """The best epoch of a stage: `weights` are those of the layers from `cut` on, in Keras's order.

    `losses` (N,) and `correct` (N,) are those of the photos on which the trial is rated, empty if unknown.
    """

    stage: str
    cut: str
    epoch: int
    weights: list[np.ndarray]
    losses: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))
    correct: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, bool))

    def to_bytes(self) -> bytes:
        """Return the checkpoint as the content of an npz file; nothing in it is pickled."""
        header = json.dumps({"stage": self.stage, "cut": self.cut, "epoch": self.epoch}).encode()
        arrays: dict[str, Any] = {
            "header": np.frombuffer(header, np.uint8),
            "losses": self.losses,
            "correct": self.correct,
            **{f"weights_{index:04d}": array for index, array in enumerate(self.weights)},
        }
        content = io.BytesIO()
        np.savez(content, **arrays)
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> TrialCheckpoint:
        """Return the checkpoint from the bytes that `to_bytes` returned."""
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            header: dict[str, Any] = json.loads(stored["header"].tobytes())
            names = sorted(name for name in stored.files if name.startswith("weights_"))
            weights = [stored[name] for name in names]
            return cls(**header, weights=weights, losses=stored["losses"], correct=stored["correct"])

    @contextmanager
    def for_ray_tune(self) -> Iterator[Checkpoint]:
        """Yield the checkpoint as a Ray Tune checkpoint, in a folder that exists only during the report."""
        with tempfile.TemporaryDirectory(prefix="catdog-") as folder:
            Path(folder, _FILE).write_bytes(self.to_bytes())
            yield Checkpoint.from_directory(folder)


def move_checkpoint(checkpoint: Checkpoint, path: str) -> None:
    """Write the content of a checkpoint from `for_ray_tune` to `path`, then delete Ray Tune's copy of it.

    A trial that has ended no longer needs that copy, and Ray Tune would keep all trials' copies until the sweep ends.
    """
    with checkpoint.as_directory() as folder:
        files.write_bytes(path, Path(folder, _FILE).read_bytes())
    checkpoint.filesystem.delete_dir(checkpoint.path)
