"""The model actor: it reads, decodes and labels stretches of photos, and writes their parts."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from catdog.cluster import messages
from catdog.model.engines import Engine
from catdog.prediction.labelling.decoding import Decoder, Decoding
from catdog.prediction.labelling.stretches import Stretch
from catdog.prediction.results.parts import finished_parts, plan_parts, write_prediction_part
from catdog.prediction.results.rows import LabelRule, build_rows


class Labeller:
    """A model actor of an ActorPool.

    It works on a few stretches at the same time, each in its own thread. One is read and decoded, or written, while
    the network runs on another.
    """

    def __init__(
        self,
        *,
        engines: Any,
        out: str,
        rule: LabelRule,
        tta: str,
        batch_size: int,
        threads: int,
        decoding: Decoding,
        decoders: int,
        show_seconds: float,
    ) -> None:
        self._engines, self._tta = engines, tta
        self._batch_size, self._threads = batch_size, threads
        self._out, self._rule = out, rule
        self._decoder = Decoder(decoding, threads=decoders, job=out)
        self._show_seconds = show_seconds
        self._models: list[Engine] = []
        self._one_by_one = threading.Lock()

    def load(self) -> None:
        """Build the engines."""
        loaded = [spec.load(batch_size=self._batch_size, threads=self._threads) for spec in self._engines.get()]
        self._models = [with_augmentation(model, self._tta) for model in loaded]

    def work(self, stretch: Stretch) -> int:
        """Write the parts of `stretch` that do not exist yet, and return its number of photos."""
        shard, rows = stretch.shard, stretch.shard.read()
        parts = plan_parts(rows, shard=shard.name, photos_per_part=stretch.photos_per_part)
        present = finished_parts(self._out, shard.name)
        done, shown = 0, time.monotonic()
        for part in parts:
            if not stretch.start <= part.start < stretch.stop:
                continue
            if part.name not in present:
                self._label(rows.slice(part.start, part.rows), part.name, tries=stretch.tries)
            done += part.rows
            if time.monotonic() - shown > self._show_seconds:
                messages.show(stretch.name, done)
                shown = time.monotonic()
        messages.show(stretch.name, None)
        return stretch.rows

    def _label(self, rows: Any, name: str, *, tries: int) -> None:
        block = self._decoder.decode(rows, part=name, tries=tries)
        good = np.array([not error for error in block.errors])
        images = block.images if good.all() else block.images[good]
        with self._one_by_one:
            found = [model(images) for model in self._models]
        labelled = build_rows(rows["path"].to_pylist(), block.errors, found, self._rule)
        write_prediction_part(self._out, name, labelled, retried=block.retried)

    def close(self) -> None:
        """Delete the journals that this job left on this machine."""
        self._decoder.close()


def with_augmentation(model: Engine, tta: str) -> Engine:
    """Return `model` with test-time augmentation: `flip` is the mean over an image and its mirror image.

    `none` is the model itself. Both sets of probabilities come from the same network, so their mean also sums to 1.
    """
    if tta == "none":
        return model

    def run(images: np.ndarray) -> np.ndarray:
        mirrored = np.ascontiguousarray(images[:, :, ::-1])
        return np.asarray((model(images) + model(mirrored)) / 2, np.float32)

    return run
