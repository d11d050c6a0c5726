import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from catdog.console import ProgressLine, counted, duration, epoch_text, only_our_lines, progress_text, say, table_text


def test_a_progress_line_has_done_total_rate_and_eta() -> None:
    text = progress_text("Trunk pass", "images", done=300, total=900, new=200, seconds=4.0)
    assert text == "Trunk pass: 300/900 images - 50 images/s - ETA 12s"


def test_a_finished_progress_line_has_its_time() -> None:
    text = progress_text("Trunk pass", "images", done=900, total=900, new=900, seconds=90.0)
    assert text == "Trunk pass: 900/900 images - 1m30s - 10 images/s"


def test_a_log_gets_the_last_line_of_a_short_step_and_no_more() -> None:
    stream = io.StringIO()
    line = ProgressLine("Checking photos", "photos", stream=stream)
    for done in (0, 5, 10, 10):
        line(done, 10)
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().startswith("Checking photos: 10/10 photos - 0s")


def test_an_epoch_reads_as_in_keras() -> None:
    row = {"steps": 125, "seconds": 38.0, "loss": 2.5123, "acc": 0.4555, "val_loss": 1.8039, "val_acc": 0.4315}
    assert epoch_text(1, 100, row) == (
        "Epoch   1/100 125/125 - 38.0s 304ms/step - loss: 2.5123 - acc: 0.4555 - val_loss: 1.8039 - val_acc: 0.4315"
    )


def test_durations_read_as_people_say_them() -> None:
    assert [duration(seconds) for seconds in (0.4, 59.4, 125, 12_000)] == ["0s", "59s", "2m05s", "3h20m"]


def test_a_table_is_aligned() -> None:
    assert table_text([("stage", "acc"), ("frozen", "0.9"), ("unfrozen", "0.95")]).splitlines() == [
        "stage      acc",
        "--------  ----",
        "frozen     0.9",
        "unfrozen  0.95",
    ]


def test_while_others_are_silenced_our_lines_still_come(capsys: pytest.CaptureFixture[str]) -> None:
    with only_our_lines():
        print("(raylet) A worker died or was killed while executing a task.")
        say("Plan: all of it")
        ProgressLine("Trunk pass", "images")(3, 3)
    print("and all after it")
    assert capsys.readouterr().out == "Plan: all of it\nTrunk pass: 3/3 images - 0s\nand all after it\n"


@pytest.mark.parametrize("way", ["is full", "closes"])
def test_a_console_that_takes_no_more_ends_no_job(way: str) -> None:
    program = (
        "from catdog.console import ProgressLine, say\n"
        "say('Plan'); ProgressLine('Trunk pass', 'images')(3, 3); say('Done')\n"
        "open('/dev/stderr', 'w').write('the end')"
    )
    reader, writer = os.pipe()
    os.close(reader)  # as `head` does after its last line
    with Path("/dev/full").open("w") as full, os.fdopen(writer, "w") as closed:
        console = full if way == "is full" else closed
        ran = subprocess.run([sys.executable, "-c", program], stdout=console, stderr=subprocess.PIPE, timeout=600)
    assert (ran.returncode, ran.stderr) == (0, b"the end")


def test_a_number_has_its_noun_in_the_right_form() -> None:
    assert [counted(number, "photo") for number in (0, 1, 2, 12_000)] == [
        "0 photos",
        "1 photo",
        "2 photos",
        "12,000 photos",
    ]
