"""Sweep what is trained with: `python jobs/tune.py --photos PetImages --run-dir runs/sweep --trials 32`."""

from __future__ import annotations

import sys
import time

_STARTED = time.monotonic()


def main() -> None:
    """Parse the command line and run the tune job."""
    from catdog.config import TuneConfig, parse_arguments

    config = parse_arguments(TuneConfig, sys.argv[1:], description=__doc__ or "")

    from catdog.cluster.environment import prepare_environment

    prepare_environment(verbose=config.verbose)

    from catdog.tuning.job import tune

    tune(config, started=_STARTED)


if __name__ == "__main__":
    from catdog.command_line import run

    sys.exit(run(main))
