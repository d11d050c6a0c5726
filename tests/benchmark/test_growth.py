"""Growth: lines fitted to measurements, and projections computed from unit costs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from heard import heard
from recorded_programs import recorded_bench

from catdog.benchmark.microbenchmarks import TrunkRates
from catdog.benchmark.scaling.growth import (
    UnitCosts,
    doubled,
    fit_line,
    measure_growth,
    project,
)
from catdog.config import BenchmarkConfig

COSTS = UnitCosts(
    list_a_photo=1e-5, read_a_photo=1e-4, decode_a_photo=2e-3, model_a_photo=5e-3, commit_a_photo=1e-5,
    schedule_a_call=0.001, driver_bytes_a_shard=1000,
)  # fmt: skip


def test_a_line_is_numpy_s_and_says_how_well_it_fits() -> None:
    line = fit_line([(1000, 30.0), (2000, 40.0), (4000, 60.0)])
    assert (line.start, line.each) == (pytest.approx(20.0), pytest.approx(0.01))
    assert line.r_squared == pytest.approx(1.0)
    points = [(1000, 31.0), (2000, 38.0), (4000, 61.0)]
    assert fit_line(points).r_squared == pytest.approx(np.corrcoef(np.array(points).T)[0, 1] ** 2)
    with pytest.raises(ValueError, match="two points"):
        fit_line([(1000, 30.0)])


def test_sizes_double_up_to_the_largest() -> None:
    assert doubled(8000) == [1000, 2000, 4000, 8000]
    assert doubled(24) == [12, 24]


def test_a_million_photos_on_one_machine_wait_for_the_model() -> None:
    one = project(1_000_000, nodes=1, cores=16, costs=COSTS)
    assert one.bottleneck == "model"
    assert one.seconds == {
        "listing": 0.625, "reading": 6.25, "decoding": 125.0, "model": 312.5, "waiting": 0.0, "scheduler": 0.287,
        "commit": 0.625,
    }  # fmt: skip
    assert one.total == pytest.approx(0.625 + 6.25 + 125.0 + 312.5 + 0.625, abs=0.1)
    assert one.driver_bytes == 21_000


def test_many_machines_would_wait_for_the_scheduler_of_one_driver() -> None:
    many = project(10_000_000_000, nodes=100_000, cores=16, costs=COSTS)
    assert many.bottleneck == "scheduler"
    assert many.total == pytest.approx(0.0625 + 2842 + 0.0625, abs=1)


def test_a_distant_store_does_not_hold_the_cores() -> None:
    far = project(1_000_000, nodes=1, cores=16, costs=COSTS, wait_a_read=0.05)
    assert far.bottleneck == "model"
    assert far.seconds["waiting"] == pytest.approx(1e6 * 0.05 / (4 * 3 * 64), abs=0.001)
    assert project(1_000_000, nodes=1, cores=16, costs=COSTS, wait_a_read=5.0).bottleneck == "waiting"


def test_growth_is_measured_fitted_and_projected(ray_session: None, photo_folder: Path, tmp_path: Path) -> None:
    config = BenchmarkConfig(photos=str(photo_folder), count=30, grow_to=24, label_to=30)
    bench, commands = recorded_bench(config, tmp_path)
    rates = dict.fromkeys([field.name for field in dataclasses.fields(TrunkRates)], 100.0)
    bench.results["trunk"] = rates
    found = heard([], measure_growth, bench)
    assert [command[0] for command in commands] == ["train", "train", "predict", "predict", "predict"]
    assert [point["photos"] for point in found["train"]["points"]] == [12, 24]
    assert found["train"]["line"] == {
        "start": pytest.approx(20),
        "each": pytest.approx(1),
        "r_squared": pytest.approx(1),
    }
    assert [point["seconds"] for point in found["predict"]["points"]] == [20, 32, 38]
    assert [one["photos"] for one in found["projections"]] == 2 * [
        1_000_000,
        1_000_000,
        100_000_000,
        100_000_000,
        10_000_000_000,
    ]
    assert 0 < found["costs"]["list_a_photo"] < 1
    assert 500 < found["costs"]["driver_bytes_a_shard"] < 20_000
    assert found["costs"]["schedule_a_call"] > 0
