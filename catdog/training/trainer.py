"""The TensorflowTrainer of a job, and what its controller does for the workers.

Import this module where a trainer is started, not before: it imports Ray Train. The controller imports it, too, and
must not wait for TensorFlow.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import socket
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.backend import Backend, BackendConfig

from catdog.cluster import messages
from catdog.cluster.actors import accepted
from catdog.cluster.failures import root_cause
from catdog.cluster.plan import Plan
from catdog.config import ClusterConfig

_TENSORFLOW = "tensorflow"
_RAYS_PACKAGES = ("ray.train.tensorflow", "ray.train.v2.tensorflow")


def make_trainer(
    loop: Callable[[], None], *, run_dir: str, plan: Plan, cluster: ClusterConfig, single_node: bool
) -> Any:
    """Return a TensorflowTrainer that runs `loop` on each worker of `plan`; its checkpoints go below `run_dir`.

    The trainer of the same `run_dir` in a later process goes on from the last checkpoint. `single_node` tells that no
    node can be preempted while the driver lives.
    """
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(cluster.start_timeout_seconds)
    # It watches for nodes that a cloud preempts, in a process of its own.
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = str(int(not single_node))
    return trainer_class()(
        loop,
        tensorflow_config=TensorflowWorkers(),
        scaling_config=ScalingConfig(
            num_workers=plan.workers,
            use_gpu=plan.worker_gpus > 0,
            resources_per_worker={
                "CPU": plan.worker_cpus,
                **({"GPU": plan.worker_gpus} if plan.worker_gpus else {}),
            },
            # On CPUs the cores of several nodes are worth more than a short way between the workers.
            placement_strategy="PACK" if plan.worker_gpus else "SPREAD",
        ),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=run_dir,
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            failure_config=FailureConfig(
                max_failures=cluster.max_failures,
                **accepted(
                    FailureConfig,
                    controller_failure_limit=cluster.max_failures,
                    max_preemption_failures=cluster.max_preemptions,
                ),
            ),
            callbacks=[LossNotice()],
        ),
    )


def trainer_class() -> Any:
    """Return ray.train.tensorflow.TensorflowTrainer, in a process that computes nothing with TensorFlow itself.

    Its package imports TensorFlow to see that it is there and to name its types in annotations. That takes two to six
    seconds of a core, which a driver would take from its trunk pass. So it is imported where Ray's modules use it after
    all, and where this process has it already. No other thread may import TensorFlow at the same time: it would get the
    stand-in. Raises ModuleNotFoundError where it is missing.
    """
    if any(name in sys.modules for name in (_TENSORFLOW, *_RAYS_PACKAGES)) or not importlib.util.find_spec(_TENSORFLOW):
        return _import_trainer()
    deferred = Deferred(_TENSORFLOW)
    sys.modules[_TENSORFLOW] = deferred
    try:
        return _import_trainer()
    except Exception:  # a version of Ray that computes with TensorFlow when it is imported
        for name in [name for name in sys.modules if name.startswith(_RAYS_PACKAGES)]:
            del sys.modules[name]
    finally:
        if sys.modules[_TENSORFLOW] is deferred:
            del sys.modules[_TENSORFLOW]
        deferred.let_go()
    return _import_trainer()


def _import_trainer() -> Any:
    from ray.train.tensorflow import TensorflowTrainer

    return TensorflowTrainer


class Deferred(types.ModuleType):
    """TensorFlow, or a name in it, that is not looked up before `let_go`; then it is, whenever it is used."""

    def __init__(self, name: str, *, root: Deferred | None = None) -> None:
        super().__init__(name)
        self.__path__: list[str] = []  # a package, so that `from tensorflow import keras` finds a name
        self.__root = root or self
        self.__gone = False

    def let_go(self) -> None:
        """Stand for the real thing from now on."""
        self.__gone = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if not self.__root.__gone:
            return Deferred(f"{self.__name__}.{name}", root=self.__root)
        found: Any = importlib.import_module(_TENSORFLOW)
        for part in self.__name__.split(".")[1:]:
            found = getattr(found, part)
        return getattr(found, name)


class TensorflowWorkers(BackendConfig):  # type: ignore[misc]
    """Tells each worker where all of them are, as ray.train.tensorflow.TensorflowConfig does.

    Ray's own lies in a package that imports TensorFlow, so that the controller, which never computes, would wait for
    that import before it starts a worker.
    """

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
    import ray

    address = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind(("", 0))
        port = listener.getsockname()[1]
    return f"[{address}]:{port}" if family == socket.AF_INET6 else f"{address}:{port}"


def _set_cluster(places: list[str], rank: int) -> None:
    """Set what tf.distribute reads; the legacy Keras is set for the whole job."""
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": places}, "task": {"type": "worker", "index": rank}})


class LossNotice(UserCallback):  # type: ignore[misc]
    """Tells the driver of each loss of workers, from the trainer's controller."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Post which worker was lost first, and why."""
        first = first_loss(worker_exceptions)
        messages.notify(f"Workers were lost and restart from the last checkpoint: {first}")


def first_loss(errors: Mapping[int, Exception]) -> str:
    """Return in a line which worker went first: the others fail because it no longer answers."""
    causes = {rank: root_cause(error) for rank, error in sorted(errors.items())}
    own = {rank: cause for rank, cause in causes.items() if "Collective" not in cause}
    for rank, cause in own.items():
        return f"worker {rank}: {cause.partition('. ')[0]}"
    return f"worker {', '.join(map(str, causes))} lost the connection to the others"
