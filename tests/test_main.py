import subprocess
import sys
from pathlib import Path

import pytest

from catdog.__main__ import JOBS


def start(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, timeout=600)


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


@pytest.mark.parametrize("name", ["ingest", "train", "tune"])
def test_photos_that_are_not_there_are_told_before_ray_starts(name: str, tmp_path: Path) -> None:
    # No cluster listens at this address: a job that tried to join it would fail later, with another error.
    program = (
        "import os, sys; os.environ['RAY_ADDRESS'] = '127.0.0.1:1'\n"
        "from catdog.__main__ import run_job; sys.exit(run_job(sys.argv[1], sys.argv[2:], program='catdog'))"
    )
    ended = start("-c", program, name, "--photos", f"{tmp_path}/PetImages", "--run-dir", f"{tmp_path}/run")
    assert (ended.returncode, ended.stdout) == (2, "")
    expected = f"catdog: expected photos at {tmp_path}/PetImages, found nothing there: check the path\n"
    assert ended.stderr == expected
