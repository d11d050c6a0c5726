"""Train a classifier on photos: `python jobs/train.py --photos PetImages --run-dir runs/pets`."""

import sys

from catdog.__main__ import run_job

if __name__ == "__main__":
    sys.exit(run_job("train", sys.argv[1:], program="python jobs/train.py"))
