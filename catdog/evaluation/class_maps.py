"""Where in a photo the evidence for a class lies."""

from __future__ import annotations

import numpy as np


def evidence_maps(maps: np.ndarray, kernel: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return where in each of the last feature maps the evidence for its label lies: (N, H, W) float32 from 0 to 1.

    `maps` is (N, H, W, C), `kernel` (C, classes) that of the output layer, `labels` (N,) int. This is Grad-CAM (R. R.
    Selvaraju and others, ICCV 2017): the channels of that map weighted by the mean gradient of the label's score,
    negative sums cut off. Behind the map there are only the pooling and one dense layer, so for both poolings the mean
    gradient of a channel is its weight in that layer over H * W, and nothing is differentiated.
    """
    evidence = np.maximum(np.einsum("nhwc,cn->nhw", maps, kernel[:, labels]), 0.0)
    found: np.ndarray = evidence / np.maximum(evidence.max(axis=(1, 2), keepdims=True), np.float32(1e-9))
    return found.astype(np.float32)
