"""The photos of a finished job sorted into folders: what was asked for, what is said of it, and what is recorded."""

from __future__ import annotations

from catdog.console import ProgressLine, counted, say
from catdog.prediction.output import SORTED_FILE, UNSORTED_FOLDER
from catdog.prediction.results.commit import result_files
from catdog.prediction.results.rows import LabelRule
from catdog.prediction.sorting.placement import place_photos
from catdog.storage import files


def is_sorted(out: str, *, directory: str, mode: str) -> bool:
    """Tell whether the photos of the job in `out` were laid out below the absolute `directory` already."""
    mark = files.join(out, SORTED_FILE)
    return files.exists(mark) and {"directory": directory, "mode": mode}.items() <= files.read_json(mark).items()


def sort_photos(out: str, *, rule: LabelRule, directory: str, mode: str, num_cpus: float) -> None:
    """Lay the photos of the committed rows in `out` out below the absolute `directory`, and say how many."""
    unsorted = files.join(out, UNSORTED_FOLDER)
    result = place_photos(
        result_files(out, rule=rule),
        directory=directory,
        mode=mode,
        failures=unsorted,
        num_cpus=num_cpus,
        progress=ProgressLine("Sorting", "photos"),
    )
    verb = {"copy": "copied", "link": "linked", "move": "moved"}[mode]
    say(f"{counted(result.placed, 'photo')} {verb} into {directory}, {result.already} already there.")
    for line in result.first_failed:
        say(f"  not {verb}: {line}")
    if result.failed > len(result.first_failed):
        say(f"  and {result.failed - len(result.first_failed)} more: all of them are listed in {unsorted}")
    files.write_json(
        files.join(out, SORTED_FILE),
        {
            "directory": directory,
            "mode": mode,
            "placed": result.placed + result.already,
            "failed": list(result.first_failed),
            "failures": result.failed,
        },
    )
