"""Label photos: `python jobs/predict.py --photos FOLDER --model runs/pets/model --out labels`."""

from __future__ import annotations

import sys
import time

_STARTED = time.monotonic()


def main() -> None:
    """Parse the command line and run the predict job."""
    from catdog.config import PredictConfig, parse_arguments

    config = parse_arguments(PredictConfig, sys.argv[1:], description=__doc__ or "")

    from catdog.cluster.environment import prepare_environment

    prepare_environment(verbose=config.verbose)

    from catdog.prediction import job as inference

    if config.verify:
        inference.verify(config.out)
    elif inference.is_one_photo(config):
        inference.predict_one(config)
    else:
        inference.predict(config, started=_STARTED)


if __name__ == "__main__":
    from catdog.command_line import run

    sys.exit(run(main))
