import os
import subprocess
import sys
from pathlib import Path

import pytest

from catdog.command_line.exit_codes import run
from catdog.errors import BadPhotosError, CatdogError, FailureError, Terminated, UsageError


@pytest.mark.parametrize(
    ("error", "code"),
    [(UsageError("no"), 2), (FailureError("no"), 1), (BadPhotosError("no"), 3), (CatdogError("no"), 1)],
)
def test_an_error_of_ours_is_one_line_and_its_exit_code(
    error: CatdogError, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    assert run(fail) == code
    assert capfd.readouterr().err == "catdog: no\n"


def test_ctrl_c_says_how_to_go_on(capfd: pytest.CaptureFixture[str]) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    assert run(stop) == 130
    assert capfd.readouterr().err == "catdog: interrupted; run the same command to resume\n"


def test_sigterm_says_how_to_go_on(capfd: pytest.CaptureFixture[str]) -> None:
    def stop() -> None:
        raise Terminated

    assert run(stop) == 143
    assert capfd.readouterr().err == "catdog: terminated; run the same command to resume\n"


def test_a_defect_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run(lambda: print(1 // 0))


def test_a_successful_job_is_0_and_says_nothing_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: None) == 0
    assert capfd.readouterr() == ("", "")


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command.replace("catdog", f"{sys.executable} -m catdog")],
        capture_output=True, text=True, check=False, timeout=600,
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), **environment},
    )  # fmt: skip


def test_a_terminal_that_lacks_characters_gets_their_codes() -> None:
    ended = shell("catdog train --photos /nöwhere/猫", PYTHONIOENCODING="ascii")
    line = r"catdog: expected photos at /n\xf6where/\u732b, found nothing there: check the path"
    assert (ended.returncode, ended.stderr) == (2, f"{line}\n")


def test_streams_that_are_closed_or_full_are_no_reason_to_fail() -> None:
    assert shell("catdog --version >&-").returncode == 0
    ended = shell("catdog train --photos /nowhere <&- >&-")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert shell("catdog train --photos /nowhere <&- >&- 2>&-").returncode == 2
    assert shell("catdog train --photos /nowhere 2>/dev/full").returncode == 2


def test_a_working_directory_that_was_deleted_is_told(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    ended = shell(f"cd {tmp_path}/gone && rmdir ../gone && catdog train --photos x")
    assert ended.returncode == 2
    assert ended.stderr == "catdog: the working directory does not exist any more: cd to another one\n"


@pytest.mark.parametrize("arguments", ["train --help", "--help", "--version"])
def test_a_console_that_closes_or_is_full_ends_nothing(arguments: str) -> None:
    ended = shell(
        f"catdog {arguments} > /dev/full; echo $? >&2; set -o pipefail; catdog {arguments} | true; echo $? >&2"
    )
    assert ended.stderr == "0\n0\n"
