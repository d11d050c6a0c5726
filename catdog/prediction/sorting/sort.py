"""Sorts the photos of a finished job into folders: checks the request, places them, reports and records the outcome."""

from __future__ import annotations

from catdog.console import ProgressLine, counted, say
from catdog.errors import UsageError
from catdog.prediction import output
from catdog.prediction.output import SORTED_FILE, UNSORTED_FOLDER
from catdog.prediction.request import Cluster, Inputs, Request
from catdog.prediction.results.commit import result_files
from catdog.prediction.results.rows import LabelRule
from catdog.prediction.sorting.names import check_sorting
from catdog.prediction.sorting.placement import clean_copies, place_photos
from catdog.storage import files
from catdog.storage.lease import hold_lease
from catdog.storage.ownership import check_folder, mark_folder


def is_sorted(out: str, *, directory: str, mode: str) -> bool:
    """Return whether the photos of the job in `out` were already sorted into the absolute `directory` with `mode`."""
    mark = files.join(out, SORTED_FILE)
    return files.exists(mark) and {"directory": directory, "mode": mode}.items() <= files.read_json(mark).items()


def sort_photos(out: str, *, rule: LabelRule, directory: str, mode: str, num_cpus: float) -> None:
    """Sort the photos of the committed rows in `out` into the absolute `directory`, and report how many."""
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


# What a job asks for


def sort(request: Request, inputs: Inputs, cluster: Cluster) -> None:
    """Sort the photos by label, if requested."""
    config, out = request.config, request.out
    if not config.sort_into:
        return
    check_sort(request, inputs)
    directory = files.absolute(config.sort_into)
    if is_sorted(out, directory=directory, mode=config.sort):
        say(f"Nothing to sort: {directory} is sorted already.")
        return
    moved = {"moved": True} if config.sort == "move" else {}
    with hold_lease(directory, flag="--sort-into"):
        mark_folder(directory, kind="sorted")
        clean_copies(directory)
        output.write_job(out, {**output.read_job(out), "exclude": inputs.exclude, **moved})
        sort_photos(out, rule=request.rule, directory=directory, mode=config.sort, num_cpus=cluster.plan().task_cpus)


def check_sort(request: Request, inputs: Inputs) -> None:
    """Raise UsageError if the photos of the job cannot be sorted as requested; nothing is written."""
    config = request.config
    if not config.sort_into:
        return
    directory = files.absolute(config.sort_into)
    if directory not in output.read_job(request.out).get("exclude", []):  # unless this job sorted into it before
        check_folder(directory, kind="sorted", flag="--sort-into")
    sample: list[str] = []
    if inputs.listed:
        first = inputs.shards[0].read()  # a job labels files or rows of tables, not both
        if first["table"].null_count < first.num_rows:
            raise UsageError("--sort-into: expected photos that are files, found a Parquet table: leave it out")
        sample = first["path"].slice(0, 1000).to_pylist()
    check_sorting(directory, mode=config.sort, classes=request.rule.labels, sample_paths=sample)
