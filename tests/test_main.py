import subprocess
import sys
from pathlib import Path

import pytest

from catdog.__main__ import JOBS


def start(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("name", JOBS)
def test_every_job_has_a_file_of_its_own_and_helps_without_ray_or_tensorflow(name: str) -> None:
    program = (
        f"import runpy, sys; sys.argv = ['{name}.py', '--help']\n"
        f"try: runpy.run_path('jobs/{name}.py', run_name='__main__')\n"
        "except SystemExit as stop: print(stop.code)\n"
        "print(sorted({'tensorflow', 'ray', 'cv2', 'pyarrow', 'numpy'} & sys.modules.keys()))"
    )
    ran = start("-c", program)
    assert ran.stdout.startswith(f"usage: python jobs/{name}.py [--config FILE] [flags]")
    assert ran.stdout.splitlines()[-2:] == ["0", "[]"]


def test_jobs_has_no_other_files() -> None:
    assert {path.stem for path in Path("jobs").glob("*.py")} == JOBS.keys()


def test_the_command_lists_its_jobs_and_answers_a_near_miss() -> None:
    shown = start("-m", "catdog", "--help")
    assert shown.returncode == 0
    assert all(f"  {name} " in shown.stdout for name in JOBS)
    wrong = start("-m", "catdog", "trian")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    jobs = "ingest, train, tune, predict, export, benchmark"
    assert wrong.stderr == f"catdog: expected a job, one of {jobs}, found trian; did you mean train?\n"
