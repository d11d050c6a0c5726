"""Measure this machine or cluster: `python jobs/benchmark.py --photos photos`."""

import sys

from catdog.__main__ import run_job

if __name__ == "__main__":
    sys.exit(run_job("benchmark", sys.argv[1:], program="python jobs/benchmark.py"))
