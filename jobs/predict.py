"""Label photos: `python jobs/predict.py --photos FOLDER --model runs/pets/model --out labels`."""

import sys

from catdog.__main__ import run_job

if __name__ == "__main__":
    sys.exit(run_job("predict", sys.argv[1:], program="python jobs/predict.py"))
