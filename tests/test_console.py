import io
import subprocess
import sys

from catdog.console import ProgressLine, counted, duration, epoch_text, progress_text, table_text


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


def test_native_chatter_is_dropped_from_stderr_and_all_else_passes() -> None:
    program = (
        "import os, sys\n"
        "from catdog.console import quiet_stderr\n"
        "with quiet_stderr():\n"
        "    os.write(2, b'I0000 00:00:1.5 port.cc:153] oneDNN\\n')\n"
        "    os.write(2, b'[2026-11-24 03:07:29,149 E 9944 9944] core_worker.cc:2465: noise\\n')\n"
        "    print('mine', file=sys.stderr)\n"
        "print('after', file=sys.stderr)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stderr.splitlines() == ["mine", "after"]


def test_a_number_has_its_noun_in_the_right_form() -> None:
    assert [counted(number, "photo") for number in (0, 1, 2, 12_000)] == [
        "0 photos",
        "1 photo",
        "2 photos",
        "12,000 photos",
    ]
