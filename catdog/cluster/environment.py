"""What Ray and TensorFlow read from the environment, and how both are kept quiet.

Three means, each where the other two do not reach: variables for native code and for processes of the cluster, the
levels of documented loggers, and the settings of Ray Data. What Ray prints to stdout none of them stops:
console.only_our_lines does; native log lines on stderr are dropped by command_line.supervisor.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from catdog.storage.files import cache_directory
from catdog.storage.outages import PATIENCE_VARIABLE

# Set before Ray is imported, in the driver and through it in every process of the cluster.
_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a report waits for the controller's poll: 2 s by default
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_task_oom_retries": "5",  # without limit by default, when memory runs out
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a call after the end of the connection must not start a Ray
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune would end the sweep as if all its trials had run
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune prints boxes in it whatever its verbosity; our own lines stand in their place
}
_QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "1",  # its value is the default; naming it silences a line about it
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # asked for by a warning of Ray's
    "PYTHONWARNINGS": "ignore",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # with their tracebacks; our own line tells of a lost trial
}


def keras_environment() -> Mapping[str, str]:
    """Return the variables: the legacy Keras, and a home of its own for its settings."""
    return {
        "TF_USE_LEGACY_KERAS": "1",  # Ray's TensorFlow workers set it too: one Keras everywhere
        # Keras makes a folder in the user's home, and obeys settings that it finds there, such as channels_first.
        "KERAS_HOME": str(cache_directory() / "keras"),
    }


def set_keras_environment() -> None:
    """Set the variables that are not set yet."""
    for name, value in keras_environment().items():
        os.environ.setdefault(name, value)


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
    """Set what a Ray reads that is started for one job.

    A process that waits for work stays for a minute instead of a second: the next step of the job uses it, where
    another process would take a second or two of a core to start.
    """
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")


def worker_environment() -> dict[str, str]:
    """Return the variables that every process of the cluster gets from the driver."""
    names = (*_ENVIRONMENT, *keras_environment(), *_QUIET, PATIENCE_VARIABLE)
    return {name: os.environ[name] for name in names if name in os.environ}


def quiet_datasets(*, verbose: bool) -> None:
    """Keep Ray Data's progress bars and log lines off the console; our own lines stand in their place."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = verbose
    context.print_on_execution_start = verbose
    context.execution_options.verbose_progress = verbose
    if not verbose:
        for name in ("ray.data", "ray.data.dataset"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # an error reaches the user once, as our one line
