import itertools

import pytest

from catdog.cluster.autoscaler import Node
from catdog.cluster.plan import make_plan, make_predict_plan, predict_plan_text, train_plan_text, usable_gpus
from catdog.cluster.resources import Resources
from catdog.config import ClusterConfig, PredictClusterConfig
from catdog.errors import UsageError


def one_node(cpus: int, gpus: int) -> Resources:
    return Resources(nodes=(Node(cpus=cpus, gpus=gpus),))


def test_a_laptop_of_two_cores_gets_one_worker_and_one_actor_of_two_threads() -> None:
    plan = make_plan(one_node(2, 0), ClusterConfig())
    assert (plan.workers, plan.worker_cpus, plan.worker_gpus) == (1, 0.5, 0.0)
    assert (plan.actors, plan.actor_cpus, plan.threads, plan.task_cpus) == (1, 1.0, 2, 0.5)
    assert train_plan_text(plan, batches={"frozen": 32, "unfrozen": 16}, storage="/runs/pets") == (
        "Plan: 1 train worker on CPU, 1 trunk actor (2 threads each), 0 GPUs; batch 32 frozen, 16 unfrozen; "
        "stored in the folder /runs/pets."
    )


def test_gpus_are_taken_where_there_are_any_one_worker_each() -> None:
    plan = make_plan(one_node(64, 4), ClusterConfig())
    assert (plan.workers, plan.actors) == (4, 4)
    assert train_plan_text(plan, batches={"frozen": 32}, storage="s3://bucket/runs") == (
        "Plan: 4 train workers on GPU, 4 trunk actors (a GPU each), 4 GPUs; batch 32 frozen; stored in the URI s3://bucket/runs."
    )


def test_two_train_workers_never_share_a_gpu_but_a_worker_and_an_actor_do() -> None:
    plan = make_plan(one_node(8, 1), ClusterConfig())
    assert 2 * plan.worker_gpus > 1
    assert plan.worker_gpus + plan.actor_gpus <= 1


CLUSTERS = [
    [(0, 0), (1, 0), (1, 0)],
    [(2, 0), (2, 0), (2, 0)],
    [(4, 0), (16, 0), (64, 0)],
    [(0, 0), (3, 0)],
    [(4, 0), (4, 1), (16, 0), (16, 0)],
    [(8, 0), (96, 8), (96, 8)],
]


def packed(items: list[tuple[float, float]], nodes: list[tuple[int, int]]) -> bool:
    """Return whether all `items` (CPUs, GPUs) fit on `nodes` if each takes the emptiest suitable node."""
    left = [[float(cpus), float(gpus)] for cpus, gpus in nodes]
    for cpus, gpus in items:
        fitting = [node for node in left if node[0] + 1e-9 >= cpus and node[1] + 1e-9 >= gpus]
        if not fitting:
            return False
        node = max(fitting, key=lambda node: (-node[1], node[0]) if not gpus else (node[1], node[0]))
        node[0] -= cpus
        node[1] -= gpus
    return True


@pytest.mark.parametrize("nodes", CLUSTERS)
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_each_worker_actor_and_task_finds_a_node_that_holds_it(nodes: list[tuple[int, int]], workers: int) -> None:
    resources = Resources(nodes=tuple(Node(cpus=cpus, gpus=gpus) for cpus, gpus in nodes))
    if resources.gpus and workers > resources.gpus:
        pytest.skip("refused")
    plan = make_plan(resources, ClusterConfig(workers=workers))
    items = [(plan.worker_cpus, plan.worker_gpus)] * plan.workers + [(plan.actor_cpus, plan.actor_gpus)] * plan.actors
    assert packed([*items, (plan.task_cpus, 0.0)], nodes)


@pytest.mark.parametrize("nodes", CLUSTERS)
def test_model_actors_fit_and_leave_room_for_decoding(nodes: list[tuple[int, int]]) -> None:
    resources = Resources(nodes=tuple(Node(cpus=cpus, gpus=gpus) for cpus, gpus in nodes))
    gpus = usable_gpus(resources, "auto")
    plan = make_predict_plan(resources, PredictClusterConfig(), gpus=gpus)
    tasks = int(resources.cpus / 4 / plan.task_cpus)
    assert packed([(plan.actor_cpus, plan.actor_gpus)] * plan.actors + [(plan.task_cpus, 0.0)] * tasks, nodes)
    assert plan.actors == (gpus or sum(cpus // plan.threads for cpus, _ in nodes))


def test_a_predict_plan_is_said_in_one_line() -> None:
    two = make_predict_plan(one_node(2, 0), PredictClusterConfig(), gpus=0)
    assert predict_plan_text(two, "tensorflow", storage="/labels") == (
        "Plan: 1 model actor on tensorflow (2 threads each), 0 GPUs; batch 32; stored in the folder /labels."
    )
    fast = predict_plan_text(two, "openvino", precision="bfloat16", storage="/labels")
    assert (" on openvino in bfloat16 (" in fast, "; a photo a thread; " in fast) == (True, True)
    four = make_predict_plan(one_node(32, 4), PredictClusterConfig(), gpus=4)
    assert predict_plan_text(four, "tensorflow", storage="gs://labels/pets") == (
        "Plan: 4 model actors on tensorflow (a GPU each), 4 GPUs; batch 256; stored in the URI gs://labels/pets."
    )
    assert (four.actor_cpus, four.actor_gpus, four.task_cpus, four.batch_size) == (1.0, 1.0, 1.0, 256)


def test_actors_and_batch_size_are_the_user_s_where_given() -> None:
    plan = make_predict_plan(one_node(8, 0), PredictClusterConfig(actors=4, batch_size=64), gpus=0)
    assert (plan.actors, plan.threads, plan.actor_cpus, plan.batch_size) == (4, 2, 1.0, 64)
    with pytest.raises(UsageError, match=r"--cluster\.actors 99: expected at most 16"):
        make_predict_plan(one_node(2, 0), PredictClusterConfig(actors=99), gpus=0)


def test_photos_are_decoded_by_the_actors_on_cpus_and_by_tasks_for_gpus() -> None:
    assert make_plan(one_node(8, 0), ClusterConfig()).decoders == 4
    assert make_plan(one_node(64, 4), ClusterConfig()).decoders == 0


def test_gpus_are_left_alone_on_request() -> None:
    assert make_plan(one_node(8, 2), ClusterConfig(use_gpu="no")).worker_gpus == 0


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers", "actors"),
    [
        case
        for case in itertools.product([1, 2, 3, 4, 7, 16, 96, 1000], [0, 1, 4], [0, 1, 2, 4], [0, 1, 3])
        if not case[1] or case[2] <= case[1]  # more workers than GPUs are refused
    ],
)
def test_what_runs_at_the_same_time_always_fits(cpus: int, gpus: int, workers: int, actors: int) -> None:
    plan = make_plan(one_node(cpus, gpus), ClusterConfig(workers=workers, trunk_actors=actors))
    booked = plan.workers * plan.worker_cpus + plan.actors * plan.actor_cpus + plan.task_cpus
    assert booked <= cpus
    assert plan.workers * plan.worker_gpus + plan.actors * plan.actor_gpus <= gpus + 1e-9


@pytest.mark.parametrize(
    ("resources", "config", "message"),
    [
        (one_node(2, 0), ClusterConfig(use_gpu="yes"), "--cluster.use-gpu yes: expected a GPU"),
        (one_node(2, 0), ClusterConfig(workers=9), "--cluster.workers 9: expected at most 8"),
        (one_node(2, 1), ClusterConfig(workers=2), "--cluster.workers 2: expected at most 1"),
        (one_node(1, 0), ClusterConfig(trunk_actors=9), "--cluster.trunk-actors 9: expected at most 8"),
    ],
)
def test_more_than_the_cluster_has_is_refused(resources: Resources, config: ClusterConfig, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_plan(resources, config)


def test_a_capacity_that_is_unknown_is_said() -> None:
    resources = Resources(nodes=(Node(cpus=2),), is_capacity_known=False)
    plan = make_plan(resources, ClusterConfig())
    assert train_plan_text(plan, batches={"unfrozen": 16}, storage="/runs/pets") == (
        "Plan: 1 train worker on CPU, 1 trunk actor (2 threads each), 0 GPUs; batch 16 unfrozen; stored in the folder "
        "/runs/pets; nodes that an autoscaler may add are unknown and not counted."
    )
    labels = make_predict_plan(resources, PredictClusterConfig(), gpus=0)
    assert "; nodes that an autoscaler may add are unknown" in predict_plan_text(labels, "openvino", storage="/labels")
