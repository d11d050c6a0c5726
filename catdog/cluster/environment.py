"""The environment variables of Ray and TensorFlow, and how both are kept quiet.

There are three means, each for what the other two do not reach: variables for native code and for processes of the
cluster, the levels of documented loggers, and the settings of Ray Data. None of them stops what Ray prints to stdout;
console.only_our_lines does. command_line.supervisor drops native log lines on stderr.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import sys
import threading
from collections.abc import Mapping, Sequence

from catdog.storage.files import cache_directory
from catdog.storage.outages import PATIENCE_VARIABLE

# Set in the driver before Ray is imported; the driver passes them to every process of the cluster.
_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a report waits for the controller's poll: 2 s by default
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_task_oom_retries": "5",  # without limit by default, when memory runs out
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a call after the connection has ended must not start a new Ray
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune's handler would end the sweep as if all its trials had run
    "RAY_AIR_NEW_OUTPUT": "0",  # with it, Tune prints boxes at any verbosity; we print our own lines instead
}
_QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "1",  # this is the default; setting it silences a log line about it
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a warning of Ray asks for it
    "PYTHONWARNINGS": "ignore",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # Tune adds their tracebacks; our own line reports a lost trial
}


def keras_environment() -> Mapping[str, str]:
    """Return the variables that select the legacy Keras and give its settings their own home."""
    return {
        "TF_USE_LEGACY_KERAS": "1",  # Ray's TensorFlow workers set it too: one Keras everywhere
        # By default Keras creates a folder in the user's home and obeys settings there, such as channels_first.
        "KERAS_HOME": str(cache_directory() / "keras"),
    }


def import_tensorflow() -> None:
    """Import TensorFlow and its Keras, with their variables set.

    Garbage collection pauses meanwhile, and later skips what was imported: hundreds of thousands of objects, none of
    them garbage. With that, the import and the first step of a network take a seventh less time.
    """
    for name, value in keras_environment().items():
        os.environ.setdefault(name, value)
    if "tensorflow" in sys.modules and "tf_keras" in sys.modules:
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module("tensorflow")
        importlib.import_module("tf_keras")
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


def prepare_environment(*, verbose: bool) -> None:
    """Set the variables that Ray and TensorFlow read when they are imported; quiet unless `verbose`."""
    for name, value in {**_ENVIRONMENT, **keras_environment()}.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere unless the user asks for it
    if not verbose:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        for name in ("ray", "ray.data", "ray.train", "ray.tune"):
            logging.getLogger(name).setLevel(logging.ERROR)


def prepare_local_ray() -> None:
    """Set the variables for a Ray that is started for one job.

    An idle process stays for a minute instead of a second, so that the next step of the job can use it. Starting
    another process would cost a second or two of a core.
    """
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")


def worker_environment() -> dict[str, str]:
    """Return the variables that every process of the cluster gets from the driver."""
    names = (*_ENVIRONMENT, *keras_environment(), *_QUIET, PATIENCE_VARIABLE)
    return {name: os.environ[name] for name in names if name in os.environ}


def import_in_background(modules: Sequence[str]) -> None:
    """Import `modules` on a thread, in this order, for later steps of a job; nothing waits for it.

    A step that needs a module before that waits for it, or imports it itself. An import that fails does so there.
    """

    def import_all() -> None:
        for module in modules:
            with contextlib.suppress(Exception):
                importlib.import_module(module)

    threading.Thread(target=import_all, name="imports", daemon=True).start()


def quiet_datasets(*, verbose: bool) -> None:
    """Keep Ray Data's progress bars and log lines off the console; we print our own lines instead."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = verbose
    context.print_on_execution_start = verbose
    context.execution_options.verbose_progress = verbose
    if not verbose:
        for name in ("ray.data", "ray.data.dataset"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # an error reaches the user once, as our one line
