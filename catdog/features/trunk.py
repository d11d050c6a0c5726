"""The trunk, the frozen layers of a classifier, as a function from images to features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from catdog.cluster.actors import Shared
from catdog.cluster.environment import import_tensorflow
from catdog.features.spec import Extraction
from catdog.model.backbone_specs import INPUT_CUT
from catdog.model.engines import OpenvinoRunner, choose_engine
from catdog.model.openvino.graph import build_trunk, can_cut
from catdog.model.saved_model import ClassifierSpec


class Trunk:
    """The frozen layers as a function from uint8 images to their features at one or more cuts.

    `pretrained` is a weights.Pretrained, a Shared one, or None for random weights. It runs in OpenVINO if that is
    installed, the process has no GPU, and the cuts and weights allow it; otherwise in TensorFlow.
    """

    def __init__(
        self, extraction: Extraction, cuts: Sequence[str], pretrained: Any, *, threads: int, gpu: bool = False
    ) -> None:
        if isinstance(pretrained, Shared):
            pretrained = pretrained.get()
        self._cuts = tuple(cuts)
        # At the input cut, the feature is the image itself.
        self._computed = tuple(cut for cut in self._cuts if cut != INPUT_CUT)
        spec = ClassifierSpec(
            backbone=extraction.backbone,
            image_size=extraction.image_size,
            classes=("one", "other"),  # the head is cut off again
            pooling=extraction.pooling or "avg",
            dropout=0.0,
            scaling=extraction.scaling,
        )
        if not self._computed:
            self._run: Callable[[np.ndarray], list[np.ndarray]] = lambda images: []
        elif (
            choose_engine("auto", gpus=gpu) == "openvino"
            and pretrained is not None
            and all(map(can_cut, self._computed))
        ):
            graph = build_trunk(spec, pretrained.tensors, self._computed)
            self._run = OpenvinoRunner(graph, threads=threads, precision=extraction.precision)
        else:
            self._run = _TensorflowTrunk(spec, self._computed, pretrained, seed=extraction.seed, threads=threads)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return for each cut the (N, …) features of uint8 (N, S, S, 3) `images`."""
        found = dict(zip(self._computed, self._run(images), strict=True))
        return {cut: found.get(cut, images) for cut in self._cuts}


class _TensorflowTrunk:
    """The trunk in TensorFlow, on the GPU if the process has one."""

    def __init__(self, spec: ClassifierSpec, cuts: Sequence[str], pretrained: Any, *, seed: int, threads: int) -> None:
        import_tensorflow()
        import tensorflow as tf
        import tf_keras

        from catdog.model import backbones
        from catdog.model import classifier as model

        model.configure_tensorflow(threads=threads)
        tf_keras.utils.set_random_seed(seed)  # without pretrained weights, every process must draw the same weights
        classifier = model.build_classifier(spec)
        if pretrained is not None:
            backbones.load_pretrained(classifier, pretrained)
        network = model.trunk_with_outputs(classifier, cuts)
        self._batch = 256 if tf.config.list_physical_devices("GPU") else 32
        self._run = tf.function(
            # Keras returns the bare tensor for a model with one output.
            lambda images: tf.nest.flatten(network(images, training=False)),
            input_signature=[tf.TensorSpec((None, spec.image_size, spec.image_size, 3), tf.uint8)],
            autograph=False,  # it would leave files in TMPDIR
        )

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        starts = range(0, max(1, len(images)), self._batch)
        batches = [self._run(images[start : start + self._batch]) for start in starts]
        return [np.concatenate([output.numpy() for output in outputs]) for outputs in zip(*batches, strict=True)]
