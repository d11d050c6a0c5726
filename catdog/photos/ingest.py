"""The ingest step of every job: the manifest of a folder of photos, made once in a run directory."""

from __future__ import annotations

from pathlib import Path

from catdog.config import IngestConfig
from catdog.console import ProgressLine, say
from catdog.errors import UsageError
from catdog.photos.annotations.corrections import read_corrections
from catdog.photos.decoding.limits import DecodeLimits
from catdog.photos.manifest import Manifest, build_manifest, read_manifest, write_manifest
from catdog.photos.sample import draw_sample
from catdog.photos.sources.files import source_exists
from catdog.storage import artifacts, files
from catdog.storage.run_directory import record_config


def corrections_fingerprint(config: IngestConfig) -> str:
    """Return what names the content of `config.corrections`, empty without any.

    Their content counts, not their path: the same file with another line in it is another setting.
    Raises what read_corrections raises.
    """
    return read_corrections(config.corrections).fingerprint if config.corrections else ""


def require_photos(config: IngestConfig, *, run_dir: str) -> None:
    """Raise UsageError where nothing is at --photos: before a cluster is started, which takes ten seconds.

    A run whose manifest is finished may go on without its photos, as far as their features are cached.
    """
    finished = files.exists(files.join(run_dir, "manifest", artifacts.COMPLETE))
    if config.photos and not finished and not source_exists(config.photos):
        raise UsageError(f"--photos {config.photos}: expected photos, found nothing there: check the path")


def ingest(config: IngestConfig, *, run_dir: str) -> Manifest:
    """Make the manifest of `config.photos` in `run_dir`, or read the one that is finished there.

    Without photos the sample is drawn first. Raises what build_manifest raises.
    """
    directory = files.join(run_dir, "manifest")
    names = ("photos", "train_per_class", "validation_per_class", "test_per_class", "seed", "max_pixels")
    source = files.absolute(config.photos) if config.photos else _sample(run_dir, seed=0)
    corrections = corrections_fingerprint(config)
    inputs = {**{name: getattr(config, name) for name in names}, "photos": source, "corrections": corrections}
    if artifacts.completed(directory, inputs=inputs) is not None:
        manifest = read_manifest(directory)
        say(manifest.summary_lines()[0])
        record_config(config, run_dir=run_dir, corrections=corrections)
        return manifest
    manifest = build_manifest(
        source,
        train_per_class=config.train_per_class,
        validation_per_class=config.validation_per_class,
        test_per_class=config.test_per_class,
        seed=config.seed,
        limits=DecodeLimits(max_pixels=config.max_pixels),
        corrections=read_corrections(config.corrections) if config.corrections else None,
        progress=ProgressLine("Checking photos", "photos"),
    )
    write_manifest(manifest, directory=directory)
    artifacts.mark_complete(directory, inputs=inputs, summary={"counts": manifest.counts()})
    record_config(config, run_dir=run_dir, corrections=corrections)
    for line in manifest.summary_lines():
        say(line)
    return manifest


def _sample(run_dir: str, *, seed: int) -> str:
    if files.is_uri(run_dir):
        raise UsageError("the drawn sample needs a local --run-dir; give --photos, or a local path")
    directory = Path(run_dir) / "sample"
    if not directory.exists():
        say("No --photos given: drawing a sample of cats and dogs.")
        draw_sample(directory, seed=seed)
    return str(directory)
