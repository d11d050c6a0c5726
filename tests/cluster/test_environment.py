"""The settings that keep Ray and TensorFlow quiet."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading

import pytest
import ray
from ray.tune.constants import TUNE_ENV_VARS

from catdog.cluster.environment import import_in_background, prepare_environment, quiet_datasets, worker_environment

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@pytest.fixture
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the environment with one without our variables, which the test may change."""
    monkeypatch.setattr(os, "environ", {name: os.environ[name] for name in ("HOME", "PATH")})


@pytest.fixture
def own_levels() -> object:
    """Restore the levels of Ray's loggers at the end of the test."""
    names = ("ray", "ray.data", "ray.data.dataset", "ray.train", "ray.tune")
    before = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def test_native_code_and_processes_of_the_cluster_are_quiet_by_variables(
    own_environment: None, own_levels: None
) -> None:
    os.environ["PYTHONWARNINGS"] = "default"  # the user's own value is kept
    prepare_environment(verbose=False)
    assert {name: os.environ[name] for name in QUIET} == {**QUIET, "PYTHONWARNINGS": "default"}
    assert worker_environment().items() >= {**QUIET, "PYTHONWARNINGS": "default"}.items()


def test_ray_s_loggers_tell_of_errors_only(own_environment: None, own_levels: None) -> None:
    prepare_environment(verbose=False)
    assert {logging.getLogger(name).level for name in ("ray", "ray.data", "ray.train", "ray.tune")} == {logging.ERROR}


def test_a_verbose_job_silences_nothing(own_environment: None, own_levels: None) -> None:
    logging.getLogger("ray").setLevel(logging.INFO)
    prepare_environment(verbose=True)
    assert not QUIET.keys() & os.environ.keys()
    assert logging.getLogger("ray").level == logging.INFO


def test_later_imports_are_made_in_the_background_and_one_that_fails_stops_no_other() -> None:
    sys.modules.pop("colorsys", None)
    import_in_background(["no_such_module", "colorsys"])
    for thread in threading.enumerate():
        if thread.name == "imports":
            thread.join(60)
    assert "colorsys" in sys.modules


def test_ray_data_draws_no_bars_and_its_errors_come_as_our_one_line(own_levels: None) -> None:
    context = ray.data.DataContext.get_current()
    quiet_datasets(verbose=False)
    assert (context.enable_progress_bars, context.print_on_execution_start) == (False, False)
    assert logging.getLogger("ray.data").level == logging.CRITICAL


def test_ctrl_c_ends_a_sweep_as_it_ends_any_job(own_environment: None, own_levels: None) -> None:
    # Tune would take Ctrl-C as the end of all trials, and the sweep would choose its winner among the finished ones.
    prepare_environment(verbose=False)
    assert "TUNE_DISABLE_SIGINT_HANDLER" in TUNE_ENV_VARS  # Tune still reads this name
    assert os.environ["TUNE_DISABLE_SIGINT_HANDLER"] == "1"
    assert worker_environment()["TUNE_DISABLE_SIGINT_HANDLER"] == "1"


def test_a_lost_trial_is_our_one_line_and_no_traceback_of_ray_s(own_environment: None, own_levels: None) -> None:
    prepare_environment(verbose=False)
    assert "TUNE_PRINT_ALL_TRIAL_ERRORS" in TUNE_ENV_VARS
    assert os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] == "0"


def test_a_call_after_the_end_of_the_connection_starts_no_ray(own_environment: None, own_levels: None) -> None:
    prepare_environment(verbose=False)
    program = "import ray\ntry:\n    ray.put(1)\nexcept Exception as error:\n    print(type(error).__name__)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, timeout=600)
    assert (ended.stdout, ended.returncode) == ("RaySystemError\n", 0)
