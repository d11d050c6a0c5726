"""The run directory: its location, the settings it was made with, and the time that its steps took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from catdog.command_line.settings import flatten_config
from catdog.config import VALUES_BEFORE, IngestConfig
from catdog.storage import artifacts, files, lease, ownership

_FILES = ("corrections", "labels", "groups")  # settings that name a file


class Stopwatch:
    """Seconds and counts by step, kept in the run directory so that a resumed run includes the earlier work."""

    def __init__(self, run_dir: str) -> None:
        self._path = files.join(run_dir, "seconds.json")
        kept = files.read_json(self._path) if files.exists(self._path) else {}
        self.counts: dict[str, int] = kept.pop("counts", {})
        if "trunk_rows" in kept:  # a run of an earlier version has it among the seconds
            self.counts["trunk_rows"] = int(kept.pop("trunk_rows"))
        self.seconds: dict[str, float] = kept

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time of the block to step `name`, even if the block raises."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add `seconds` to step `name`."""
        self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 3)

    def count(self, name: str, number: int) -> None:
        """Add `number` to the count `name`."""
        self.counts[name] = self.counts.get(name, 0) + number

    def save(self) -> None:
        """Write the measurements; call this only once the run directory is known to be ours."""
        files.write_json(self._path, {**self.seconds, "counts": self.counts})


def default_run_dir(config: IngestConfig) -> str:
    """Return the run directory of a run without --run-dir; the same command finds it again."""
    name = Path(files.split_query(config.photos)[0].rstrip("/")).stem if config.photos else "sample"
    recipe = getattr(config, "recipe", "default")
    return f"runs/{name}" + ("" if recipe == "default" else f"-{recipe}")


def open_run(config: IngestConfig, *, fingerprints: Mapping[str, str] | None = None) -> str:
    """Check that the run directory is new or was made with the same settings; return its absolute path or URI.

    `fingerprints` maps each setting that names a file to the fingerprint of the file's content.

    Raises UsageError with the differences if it was made with other settings, if its bucket does not exist, and for a
    folder that is not ours.
    """
    run_dir = files.absolute(config.run_dir or default_run_dir(config))
    files.require_bucket(run_dir, flag="--run-dir")
    ownership.check_folder(run_dir, kind="run", flag="--run-dir")
    wanted = {key: value for key, value in _settings(config, fingerprints).items() if key not in _FILES}
    remedy = f"--config {run_dir}/config.json, which has them, or another --run-dir"
    artifacts.refuse_difference(run_dir, found=_recorded(run_dir), wanted=wanted, remedy=remedy)
    return run_dir


@contextlib.contextmanager
def hold_run(run_dir: str) -> Iterator[None]:
    """Keep every other job out of the run directory until the block ends, and mark it as ours.

    Raises UsageError, which names the other job, if one is writing there.
    """
    with lease.hold_lease(run_dir, flag="--run-dir"):
        ownership.mark_folder(run_dir, kind="run")
        yield


def record_config(config: IngestConfig, *, run_dir: str, fingerprints: Mapping[str, str] | None = None) -> None:
    """Write config.json, once the settings are known to be valid; settings of an earlier job stay in it."""
    files.write_json(files.join(run_dir, "config.json"), {**_recorded(run_dir), **_settings(config, fingerprints)})


def _recorded(run_dir: str) -> dict[str, Any]:
    path = files.join(run_dir, "config.json")
    if not files.exists(path):
        return {}
    found = files.read_json(path)
    # Earlier versions had no such files, or recorded the fingerprint of the corrections in place of their path.
    before = {f"{name}_fingerprint": found.get(name, "") for name in _FILES}
    older = VALUES_BEFORE if "frozen.epochs" in found else {}
    return {"splits": "", **before, **older, **found}


def _settings(config: IngestConfig, fingerprints: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the settings that decide the result, as JSON values, and the fingerprints of the files they name."""
    given = flatten_config(config, identity_only=True)
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
    settings |= {key: files.absolute(str(settings[key])) for key in ("photos", *_FILES) if settings[key]}
    return settings | {f"{name}_fingerprint": found for name, found in (fingerprints or {}).items()}
