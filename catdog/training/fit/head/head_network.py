"""A classifier of which only the head is trained, with its weights in arrays, so that nothing needs TensorFlow.

Importing TensorFlow and building the network take five to ten core seconds, which a worker would take from the trunk
pass. A head that is solved needs neither: its features are cached, and it is one matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from catdog.features.rows import RowSource
from catdog.model.backbone_specs import HEAD_CUT, backbone_spec
from catdog.model.saved_model import CARD_FILE, OUTPUT, WEIGHTS_FILE, ClassifierSpec
from catdog.model.weights.hdf5_file import write_tensors
from catdog.model.weights.pretrained import Pretrained
from catdog.model.weights.weights_file import Tensors, check_tensors, parse_weights
from catdog.storage import files
from catdog.training.fit.head.frozen_head import score_rows
from catdog.training.fit.stage_job import TrainJob


def needs_tensorflow(job: TrainJob, *, workers: int, pretrained: Pretrained | None) -> bool:
    """Return whether `job` needs TensorFlow: it does not if one worker only solves a head on given weights.

    A GPU would not help such a job. Precision bfloat16 always needs TensorFlow.
    """
    solved = all(stage.is_logistic and stage.cut == HEAD_CUT for stage in job.stages)
    return not (solved and job.precision != "bfloat16" and workers == 1 and pretrained is not None)


class HeadNetwork:
    """The classifier of `spec` with the backbone weights of `pretrained`: a Trained, and also its own Head and Scorer.

    Raises UsageError if these weights are not those of the backbone.
    """

    workers = 1

    def __init__(self, spec: ClassifierSpec, pretrained: Pretrained) -> None:
        backbone = backbone_spec(spec.backbone)
        shapes = backbone.tensor_shapes()
        check_tensors(pretrained.tensors, shapes=shapes, where=pretrained.source)
        self._spec, self._backbone = spec, {layer: pretrained.tensors[layer] for layer in shapes}
        self.classes, self.width = len(spec.classes), backbone.top_filters
        self._kernel = np.zeros((self.width, self.classes), np.float32)
        self._bias = np.zeros(self.classes, np.float32)

    @property
    def tensors(self) -> Tensors:
        """All weights, by layer and variable."""
        return {**self._backbone, OUTPUT: {"kernel": self._kernel, "bias": self._bias}}

    def head(self, cut: str) -> HeadNetwork:
        """Return itself, because `cut` is right before the head."""
        return self

    def scorer(self, cut: str) -> HeadNetwork:
        """Return itself, because `cut` is right before the head."""
        return self

    def get(self) -> list[np.ndarray]:
        """Return kernel and bias of the head."""
        return [self._kernel, self._bias]

    def set(self, weights: Sequence[np.ndarray]) -> None:
        """Set kernel and bias of the head."""
        self._kernel, self._bias = (np.asarray(values, np.float32) for values in weights)

    def evaluate(self, rows: RowSource, kept: list[np.ndarray] | None = None) -> np.ndarray:
        """Return [sum of losses, right answers, rows] over one epoch of `rows`.

        If `kept` is given, arrays (N, 1 + classes) of label and probabilities are appended to it.
        """
        sums = np.zeros(3)
        for features, labels in rows.epoch(0):
            for scored, labelled in score_rows(features, labels, kernel=self._kernel, bias=self._bias):
                sums += scored
                if kept is not None:
                    kept.append(labelled)
        return sums

    def total(self, values: np.ndarray) -> np.ndarray:
        """Return `values`, because there is only one worker."""
        return values

    def load(self, model_dir: str) -> None:
        """Load the head from a saved model that has the same backbone weights."""
        content = files.read_bytes(files.join(model_dir, WEIGHTS_FILE))
        found = parse_weights(content, shapes=self._spec.tensor_shapes(), where=WEIGHTS_FILE)[OUTPUT]
        self.set([found["kernel"], found["bias"]])

    def save(self, folder: Path, card: Mapping[str, Any]) -> None:
        """Write the model directory `folder`."""
        (folder / WEIGHTS_FILE).write_bytes(write_tensors(self.tensors))
        files.write_json(str(folder / CARD_FILE), card)
