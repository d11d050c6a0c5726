"""Where in a photo the evidence for a class lies."""

from __future__ import annotations

import numpy as np


def evidence_maps(maps: np.ndarray, kernel: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return where in each of the last feature maps the evidence for its label lies: (N, H, W) float32 from 0 to 1.

    `maps` is (N, H, W, C), `kernel` is the output layer's (C, classes), `labels` is (N,) int. This is Grad-CAM (R. R.
    Selvaraju and others, ICCV 2017): the sum of the map's channels, weighted by the mean gradient of the label's score,
    with negative sums cut off. Only the pooling and one dense layer follow the map. So for both poolings the mean
    gradient of a channel is its weight in that layer divided by H * W, and nothing needs to be differentiated.
    """
    evidence = np.maximum(np.einsum("nhwc,cn->nhw", maps, kernel[:, labels]), 0.0)
    found: np.ndarray = evidence / np.maximum(evidence.max(axis=(1, 2), keepdims=True), np.float32(1e-9))
    return found.astype(np.float32)
