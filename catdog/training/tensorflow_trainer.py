"""Ray's TensorflowTrainer without what a job of ours has no use for: seconds of a core, and hundreds of MB.

Ray imports TensorFlow in the driver and in the trainer's controller only to name the backend that sets TF_CONFIG on the
workers, and starts two processes besides. Import this module where a trainer is started: it imports Ray Train.
"""

from __future__ import annotations

import json
import os
from typing import Any

from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.tensorflow.tensorflow_trainer import TensorflowTrainer


class LeanTensorflowTrainer(TensorflowTrainer):  # type: ignore[misc]
    """A TensorflowTrainer whose workers are made known to each other by TensorflowWorkers.

    Arguments are Ray's, but for `datasets`: what workers read they open themselves.
    """

    def __init__(self, train_loop_per_worker: Any, **arguments: Any) -> None:
        # Past TensorflowTrainer's own, which does nothing but import TensorFlow to make its default backend.
        super(TensorflowTrainer, self).__init__(train_loop_per_worker, backend_config=TensorflowWorkers(), **arguments)

    def _create_default_callbacks(self) -> list[Any]:
        import ray

        # The cleaner frees the workers' places when the controller was killed and the rest of the job goes on, as a
        # sweep does around a trial, an actor. A train job ends then, and its places with it.
        is_trial = ray.get_runtime_context().get_actor_id() is not None
        lean: list[Any] = []
        for callback in super()._create_default_callbacks():
            if isinstance(callback, DatasetsCallback):
                lean.append(_DataContext(train_run_context=self.train_run_context, datasets={}))
            elif is_trial or not isinstance(callback, PlacementGroupCleanerCallback):
                lean.append(callback)
        return lean


class _DataContext(DatasetsCallback):  # type: ignore[misc]
    """Hands Ray Data's settings to the workers, as its base does, and starts no process to share datasets out."""

    def before_init_train_context(self, workers: list[Any]) -> dict[str, list[Any]]:
        return {}


class TensorflowWorkers(BackendConfig):  # type: ignore[misc]
    """Tells each worker where all of them are, as ray.train.tensorflow.TensorflowConfig does."""

    @property
    def backend_cls(self) -> type[Backend]:
        """The class whose `on_start` does it."""
        return _ClusterSpec


class _ClusterSpec(Backend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        import ray

        places = worker_group.execute(_free_place)
        ray.get([worker_group.execute_single_async(rank, _set_cluster, places, rank) for rank in range(len(places))])


def _free_place() -> str:
    """Return address:port of this worker, where the others will find it."""
    from ray._common.network_utils import build_address
    from ray.train._internal.utils import get_address_and_port

    return str(build_address(*get_address_and_port()))


def _set_cluster(places: list[str], rank: int) -> None:
    """Set what tf.distribute reads; the legacy Keras is set for the whole job."""
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": places}, "task": {"type": "worker", "index": rank}})
