"""Tune the hyperparameters of a training: `python jobs/tune.py --photos PetImages --run-dir runs/sweep`."""

import sys

from catdog.__main__ import run_job

if __name__ == "__main__":
    sys.exit(run_job("tune", sys.argv[1:], program="python jobs/tune.py"))
