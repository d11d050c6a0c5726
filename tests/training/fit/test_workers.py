"""Two real processes that train as one: sums over both, and the same steps as a single process on all rows."""

import json
import os
import socket
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from catdog.training.fit.workers import Workers

# Each worker has every second row of the same batch. A dense layer and a batch normalization are trained.
PROGRAM = """
import gc, json, sys
import numpy as np
from catdog.cluster.environment import import_tensorflow

rank, count = int(sys.argv[1]), int(sys.argv[2])
import_tensorflow()
collects, spared = gc.isenabled(), gc.get_freeze_count()
import tensorflow as tf
import tf_keras
from catdog.config import UnfrozenStageConfig
from catdog.training.fit.train_step import StepPlan, Tail
from catdog.training.fit.workers import Workers

workers = Workers(tf.distribute.MultiWorkerMirroredStrategy(), rank=rank) if count > 1 else Workers()
tf_keras.utils.set_random_seed(rank)  # the workers begin with different weights
image = tf_keras.Input((6,), name="image")
feature = tf_keras.layers.BatchNormalization()(tf_keras.layers.Dense(4, activation="relu")(image))
network = tf_keras.Model(image, tf_keras.layers.Dense(2, activation="softmax", name="fc_out")(feature))
network.set_weights(workers.broadcast(network.get_weights()))
start = network.get_weights()

def tail(train_batch_norm):
    settings = UnfrozenStageConfig(learning_rate=0.1, optimizer="sgd", train_batch_norm=train_batch_norm)
    return Tail(network, workers, cut="input", settings=settings, plan=StepPlan(batch=8))

rng = np.random.default_rng(0)
features, labels = rng.normal(size=(8, 6)).astype(np.float32), np.array([0, 1, 1, 0, 1, 0, 0, 1], np.int32)
own = slice(rank, None, count)
step = tail(False)
sums = step.total(step.train(features[own], labels[own]))
trained = network.get_weights()
step = tail(True)
step.train(features[own], labels[own])
step.share_statistics()
print(json.dumps({
    "garbage": [collects, spared > 100_000],
    "total": workers.total(np.array([1.0 + rank, 1e-9, 1e9])).tolist(),
    "sums": sums.tolist(),
    "start": [values.tolist() for values in start],
    "trained": [values.tolist() for values in trained],
    "statistics": [values.numpy().tolist() for values in step.model.non_trainable_weights],
}))
"""


def run(count: int) -> list[dict[str, Any]]:
    """Run the program in `count` processes, and return what each has found."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    processes = []
    for rank in range(count):
        place = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        environment = {**os.environ, **({"TF_CONFIG": json.dumps(place)} if count > 1 else {})}
        command = [sys.executable, "-c", PROGRAM, str(rank), str(count)]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    return [json.loads(process.communicate(timeout=300)[0]) for process in processes]


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    (found,) = run(1)
    return found


@pytest.fixture(scope="module")
def two() -> list[dict[str, Any]]:
    return run(2)


def test_sums_over_two_workers_are_exact_and_the_same_on_each(two: list[dict[str, Any]]) -> None:
    assert two[0]["total"] == two[1]["total"] == [3.0, 2e-9, 2e9]


def test_two_workers_start_with_the_weights_of_the_first_and_stay_equal(
    one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    assert two[0]["start"] == two[1]["start"] == one["start"]
    assert two[0]["trained"] == two[1]["trained"]
    assert two[0]["statistics"] == two[1]["statistics"]


def test_two_workers_take_the_step_that_one_takes_on_all_rows(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    assert two[0]["sums"] == two[1]["sums"] == pytest.approx(one["sums"], rel=1e-6)
    for alone, together in zip(one["trained"], two[0]["trained"], strict=True):
        np.testing.assert_allclose(together, alone, atol=1e-6)
    assert one["trained"] != one["start"]


def test_moving_means_are_those_of_all_rows(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    # Halves of the same size: the mean of their means is the mean of all. This is not so for variances.
    np.testing.assert_allclose(two[0]["statistics"][0], one["statistics"][0], atol=1e-6)
    assert two[0]["statistics"][1] != one["statistics"][1]


def test_garbage_collection_goes_on_after_the_import_of_tensorflow_and_skips_what_was_imported(
    one: dict[str, Any],
) -> None:
    assert one["garbage"] == [True, True]


def test_a_single_worker_needs_no_sums() -> None:
    alone, values = Workers(), [np.arange(3.0), np.ones((2, 2))]
    assert alone.count == 1
    assert alone.total(values[0]) is values[0]
    assert alone.broadcast(values) == values
    assert alone.summed(values) == values
