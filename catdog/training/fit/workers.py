"""The workers of a training and sums over them, by TensorFlow's collectives.

tf.distribute would mirror every variable: the workers would exchange each one when it is created, and some when they
are read. For a small training by two workers that was a quarter of the time. Here each worker has plain variables of
its own. They stay equal, because all workers start with the weights of the first and add the same summed gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np


class Workers:
    """All workers of a training: their `count`, the `rank` of this one, and sums over them.

    `strategy` is a MultiWorkerMirroredStrategy with one replica in each worker. A single worker needs none.
    """

    def __init__(self, strategy: Any = None, *, rank: int = 0) -> None:
        self.count = 1 if strategy is None else int(strategy.num_replicas_in_sync)
        self.rank = rank
        self._strategy = strategy

    def summed(self, tensors: Sequence[Any]) -> list[Any]:
        """Return each of the float32 `tensors` summed over the workers, in a tf.function that every worker runs.

        They travel as one vector: hundreds of small sums would take longer, and seconds to trace.
        """
        if self.count == 1:
            return list(tensors)
        import tensorflow as tf

        vector = self._reduce(tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0))
        parts = tf.split(vector, [tensor.shape.num_elements() for tensor in tensors])
        return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def total(self, values: np.ndarray) -> np.ndarray:
        """Return the vector `values` summed over the workers in float64, the same on each; every worker calls this."""
        return values if self.count == 1 else np.asarray(self._total(np.asarray(values, np.float64)), np.float64)

    def totals(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return each of the `arrays`, one or more, summed as `total` does; they travel as one vector."""
        sums = self.total(np.concatenate([array.ravel() for array in arrays]))
        parts = np.split(sums, np.cumsum([array.size for array in arrays])[:-1])
        return [part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True)]

    def broadcast(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the `arrays` of the first worker on each; every worker calls this with arrays of the same shapes."""
        if self.count == 1 or not arrays:
            return list(arrays)
        own = arrays if self.rank == 0 else [np.zeros_like(array) for array in arrays]
        # float64 holds float32 exactly
        return [first.astype(array.dtype) for first, array in zip(self.totals(own), arrays, strict=True)]

    @functools.cached_property
    def _total(self) -> Any:
        import tensorflow as tf

        # The input signature lets one trace serve vectors of any length.
        return tf.function(self._reduce, input_signature=[tf.TensorSpec([None], tf.float64)], autograph=False)

    def _reduce(self, vector: Any) -> Any:
        import tensorflow as tf

        def reduce(own: Any) -> Any:
            # The copy is on the device of the replica, which the sum needs to know.
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(own))

        return self._strategy.run(reduce, args=(vector,))
