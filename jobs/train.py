"""Train a classifier on photos: `python jobs/train.py --photos PetImages --run-dir runs/pets`."""

from __future__ import annotations

import sys
import time

_STARTED = time.monotonic()


def main() -> None:
    """Parse the command line and run the train job."""
    from catdog.config import TrainConfig, parse_arguments

    config = parse_arguments(TrainConfig, sys.argv[1:], description=__doc__ or "")

    from catdog.cluster.environment import prepare_environment

    prepare_environment(verbose=config.verbose)

    from catdog.training.job import train

    train(config, started=_STARTED)


if __name__ == "__main__":
    from catdog.command_line import run

    sys.exit(run(main))
