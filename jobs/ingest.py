"""Check, deduplicate and split photos: `python jobs/ingest.py --photos PetImages --run-dir runs/pets`."""

import sys

from catdog.__main__ import run_job

if __name__ == "__main__":
    sys.exit(run_job("ingest", sys.argv[1:], program="python jobs/ingest.py"))
