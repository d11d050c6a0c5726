"""The jobs by name, for `catdog train …`, `python -m catdog train …` and `python jobs/train.py …`."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from catdog.command_line.arguments import parse_arguments, version_text
from catdog.command_line.exit_codes import run
from catdog.command_line.suggestions import suggest
from catdog.command_line.supervisor import supervise
from catdog.config import BenchmarkConfig, ExportConfig, IngestConfig, PredictConfig, TrainConfig, TuneConfig
from catdog.console import say
from catdog.errors import UsageError

_STARTED = time.monotonic()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A job: its config, its texts for --help, and the function that runs it."""

    config_class: type[Any]
    summary: str
    example: str
    start: Callable[[Any], None]


# These functions import in their bodies, so that --help and a wrong flag do not import Ray.


def _ingest(config: IngestConfig) -> None:
    from catdog.cluster.connection import connected
    from catdog.cluster.shared_paths import check_shared
    from catdog.photos.annotations.labelling import read_annotations
    from catdog.photos.ingest import draw_missing_sample, find_photos, ingest
    from catdog.storage import files
    from catdog.storage.run_directory import hold_run, open_run

    run_dir = open_run(config, fingerprints=read_annotations(config).fingerprints())
    found = find_photos(config, run_dir=run_dir)
    draw = partial(draw_missing_sample, config, run_dir=run_dir)
    with hold_run(run_dir), connected(verbose=config.verbose, meanwhile=draw):
        check_shared(written={"--run-dir": run_dir}, read={"--photos": config.photos})
        ingest(config, run_dir=run_dir, found=found)
    say(f"Manifest: {files.join(run_dir, 'manifest')}")


def _train(config: TrainConfig) -> None:
    from catdog.training.job import train

    train(config, started=_STARTED)


def _tune(config: TuneConfig) -> None:
    from catdog.tuning.job import tune

    tune(config, started=_STARTED)


def _predict(config: PredictConfig) -> None:
    from catdog.prediction.job import predict, predict_one
    from catdog.prediction.request import is_one_photo
    from catdog.prediction.results.proof import verify

    if config.verify:
        verify(config.out)
    elif is_one_photo(config):
        predict_one(config)
    else:
        predict(config, started=_STARTED)


def _export(config: ExportConfig) -> None:
    from catdog.model.export import export

    say(f"Exported: {export(config)}")


def _benchmark(config: BenchmarkConfig) -> None:
    from catdog.benchmark.job import run_benchmark

    run_benchmark(config)


JOBS: Mapping[str, Job] = {
    "ingest": Job(
        config_class=IngestConfig,
        summary="Check, deduplicate and split photos",
        example="--photos PetImages --run-dir runs/pets",
        start=_ingest,
    ),
    "train": Job(
        config_class=TrainConfig,
        summary="Train a classifier on photos",
        example="--photos PetImages --run-dir runs/pets",
        start=_train,
    ),
    "tune": Job(
        config_class=TuneConfig,
        summary="Tune the hyperparameters of a training",
        example="--photos PetImages --run-dir runs/sweep --trials 32",
        start=_tune,
    ),
    "predict": Job(
        config_class=PredictConfig,
        summary="Label photos",
        example="--photos FOLDER --model runs/pets/model --out labels",
        start=_predict,
    ),
    "export": Job(
        config_class=ExportConfig,
        summary="Export a model to another format",
        example="--model runs/pets/model --to tflite --out pets.tflite",
        start=_export,
    ),
    "benchmark": Job(
        config_class=BenchmarkConfig,
        summary="Measure this machine or cluster",
        example="--photos PetImages",
        start=_benchmark,
    ),
}


def run_job(name: str, arguments: Sequence[str], *, program: str) -> int:
    """Parse `arguments`, run the job `name` and return the exit code; `program` is its name in help texts."""
    job = partial(_do, JOBS[name], arguments, program=program)
    return supervise(partial(run, job), quiet="--verbose" not in arguments)


def _do(job: Job, arguments: Sequence[str], *, program: str) -> None:
    description = f"{job.summary}: `{program} {job.example}`"
    config = parse_arguments(job.config_class, arguments, description=description, program=program)

    from catdog.cluster.environment import prepare_environment

    prepare_environment(verbose=config.verbose)
    job.start(config)


def main() -> int:
    """Run the job that the first argument names, and return the exit code; the command `catdog` calls this."""
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name in JOBS:
        return run_job(name, arguments, program=f"catdog {name}")
    return run(partial(_do_without_job, name))


def _do_without_job(name: str) -> None:
    if name == "--version":
        say(version_text())
    elif name in ("-h", "--help"):
        say("usage: catdog JOB [flags]; `catdog JOB --help` lists the flags\n")
        say("\n".join(f"  {known:<10} {job.summary}" for known, job in JOBS.items()))
    else:
        near = suggest(name, dict.fromkeys(JOBS, ()), prefix="") if name else ""
        raise UsageError(f"expected a job, one of {', '.join(JOBS)}, found {name or 'none'}{near}")


if __name__ == "__main__":
    sys.exit(main())
