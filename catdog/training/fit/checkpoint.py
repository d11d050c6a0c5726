"""What is saved of a stage while it trains: its state after an epoch, and the history of its epochs."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from catdog.storage import files

HISTORY_COLUMNS = ("epoch", "steps", "seconds", "learning_rate", "loss", "acc", "val_loss", "val_acc")


@dataclasses.dataclass(kw_only=True)
class StageState:
    """The state of a stage after an epoch: all that is needed to resume."""

    epoch: int = 0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    weights: list[np.ndarray] = dataclasses.field(default_factory=list)
    optimizer: list[np.ndarray] = dataclasses.field(default_factory=list)
    best_epoch: int = 0
    best_weights: list[np.ndarray] = dataclasses.field(default_factory=list)
    note: dict[str, Any] = dataclasses.field(default_factory=dict)  # how the weights were found, for the report

    def to_bytes(self) -> bytes:
        """Return the state as the content of an npz file; nothing in it is pickled."""
        arrays = {
            f"{kind}_{index:04d}": array
            for kind in ("weights", "optimizer", "best_weights")
            for index, array in enumerate(getattr(self, kind))
        }
        header = json.dumps(
            {"epoch": self.epoch, "history": self.history, "best_epoch": self.best_epoch, "note": self.note}
        )
        content = io.BytesIO()
        np.savez(content, header=np.frombuffer(header.encode(), np.uint8), **arrays)
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> StageState:
        """Return the state from the content that `to_bytes` returned."""
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            header = json.loads(stored["header"].tobytes())
            lists = {
                kind: [stored[name] for name in sorted(stored.files) if name.startswith(f"{kind}_")]
                for kind in ("weights", "optimizer", "best_weights")
            }
        return cls(
            epoch=header["epoch"],
            history=header["history"],
            best_epoch=header["best_epoch"],
            note=header.get("note", {}),  # states of earlier versions have none
            **lists,
        )


def write_history(directory: str, history: Sequence[Mapping[str, float]]) -> None:
    """Write the whole of history.csv: one row per epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    files.write_bytes(files.join(directory, "history.csv"), text.getvalue().encode())


def read_history(directory: str) -> list[dict[str, float]]:
    """Return the rows of history.csv, or an empty list if the stage has not finished an epoch."""
    path = files.join(directory, "history.csv")
    if not files.exists(path):
        return []
    rows = csv.DictReader(io.StringIO(files.read_bytes(path).decode()))
    return [{name: float(value) for name, value in row.items()} for row in rows]
