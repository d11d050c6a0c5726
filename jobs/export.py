"""Export a model: `python jobs/export.py --model runs/pets/model --to tflite --out pets.tflite`."""

import sys

from catdog.__main__ import run_job

if __name__ == "__main__":
    sys.exit(run_job("export", sys.argv[1:], program="python jobs/export.py"))
