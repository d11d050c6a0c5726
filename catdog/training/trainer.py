"""The TensorflowTrainer of a job, and what its controller does for the workers.

Import this module only when a trainer is started, because it imports Ray Train. The controller imports it too, and
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

    A trainer with the same `run_dir` in a later process resumes from the last checkpoint. `single_node` says that no
    node can be preempted while the driver lives.
    """
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(cluster.start_timeout_seconds)
    # The watcher for nodes that a cloud preempts is a separate process, which a single node does not need.
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
            # On CPUs, the cores of several nodes matter more than a short path between the workers.
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
    """Return ray.train.tensorflow.TensorflowTrainer, for a process that does not compute with TensorFlow itself.

    Its package imports TensorFlow only to check that it is installed and to name its types in annotations. That takes
    two to six core seconds, which a driver would take from its trunk pass. So a stand-in takes TensorFlow's place here.
    The real one is used once Ray's modules need it, or if this process has already imported it or Ray's package.
    No other thread may import TensorFlow at the same time, because it would get the stand-in.
    Raises ModuleNotFoundError if TensorFlow is missing.
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
    """A stand-in for TensorFlow, or for a name in it, that imports nothing before `let_go`.

    After that, each attribute access looks up the real attribute.
    """

    def __init__(self, name: str, *, root: Deferred | None = None) -> None:
        super().__init__(name)
        self.__path__: list[str] = []  # marks a package, so that `from tensorflow import keras` works
        self.__root = root or self
        self.__gone = False

    def let_go(self) -> None:
        """Look up names in the real TensorFlow from now on."""
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
    """Gives each worker the addresses of all workers, as ray.train.tensorflow.TensorflowConfig does.

    Ray's own class is in a package that imports TensorFlow. The controller never computes, but it would wait for that
    import before it starts a worker.
    """

    @property
    def backend_cls(self) -> type[Backend]:
        """The class whose `on_start` sends the addresses."""
        return _ClusterSpec


class _ClusterSpec(Backend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        import ray

        places = worker_group.execute(_free_place)
        ray.get([worker_group.execute_single_async(rank, _set_cluster, places, rank) for rank in range(len(places))])


def _free_place() -> str:
    """Return address:port of this worker, with a free port; the other workers will connect there."""
    import ray

    address = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind(("", 0))
        port = listener.getsockname()[1]
    return f"[{address}]:{port}" if family == socket.AF_INET6 else f"{address}:{port}"


def _set_cluster(places: list[str], rank: int) -> None:
    """Set TF_CONFIG, which tf.distribute reads; the variable for the legacy Keras is set for the whole job."""
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": places}, "task": {"type": "worker", "index": rank}})


class LossNotice(UserCallback):  # type: ignore[misc]
    """Reports each failure of workers to the driver, from the trainer's controller."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Post which worker failed first, and why."""
        first = first_loss(worker_exceptions)
        messages.notify(f"Workers failed and restart from the last checkpoint: {first}")


def first_loss(errors: Mapping[int, Exception]) -> str:
    """Return one line on the worker that failed first; the others fail because it no longer answers."""
    causes = {rank: root_cause(error) for rank, error in sorted(errors.items())}
    own = {rank: cause for rank, cause in causes.items() if "Collective" not in cause}
    for rank, cause in own.items():
        return f"worker {rank}: {cause.partition('. ')[0]}"
    return f"worker {', '.join(map(str, causes))} lost the connection to the others"
