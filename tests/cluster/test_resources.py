from catdog.cluster.autoscaler import Limit, Node
from catdog.cluster.plan import make_plan, make_predict_plan, usable_gpus
from catdog.cluster.resources import Resources, upcoming_nodes
from catdog.config import ClusterConfig, PredictClusterConfig


def test_nodes_that_the_autoscaler_would_add_are_planned_for() -> None:
    head, worker = Node(cpus=0), Node(cpus=8)
    assert upcoming_nodes([head, worker], [(head, 1), (worker, 3)]) == (worker, worker)
    assert upcoming_nodes([head], [(worker, 0)]) == ()
    assert len(upcoming_nodes([head], [(worker, -1)])) == 16
    plan = make_predict_plan(Resources(nodes=(head,), upcoming=(worker, worker)), PredictClusterConfig(), gpus=0)
    assert (plan.actors, plan.threads) == (4, 4)


def test_gpus_that_would_have_to_be_rented_are_taken_on_demand_only() -> None:
    resources = Resources(nodes=(Node(cpus=8),), upcoming=(Node(cpus=8, gpus=1), Node(cpus=8, gpus=1)))
    assert [usable_gpus(resources, use_gpu) for use_gpu in ("auto", "yes", "no")] == [0, 2, 0]
    without, rented = (make_plan(resources, ClusterConfig(use_gpu=use_gpu)) for use_gpu in ("auto", "yes"))
    assert (without.workers, without.gpus, rented.workers, rented.gpus) == (1, 0, 2, 2)


def test_groups_that_share_one_limit_are_not_counted_beyond_it() -> None:
    head, small, large = Node(cpus=0), Node(cpus=16), Node(cpus=8, gpus=1)
    nodes = (head, small)
    upcoming = upcoming_nodes(nodes, [(small, 8), (large, 8)])
    assert upcoming == (small,) * 7 + (large,) * 8
    whole = Resources(nodes=nodes, upcoming=upcoming, limit=Limit(nodes=9))
    assert whole.scaled(gpus=False).nodes == (head, small, *[small] * 7)
    # If GPUs are requested, their nodes come first, so that CPU nodes do not use up the limit.
    assert whole.scaled(gpus=True).nodes == (head, small, *[large] * 7)
    cores = Resources(nodes=nodes, upcoming=upcoming, limit=Limit(cpus=64, gpus=2))
    assert cores.scaled(gpus=True).nodes == (head, small, large, large, small, small)
