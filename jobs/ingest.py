"""Check, deduplicate and split photos: `python jobs/ingest.py --photos PetImages --run-dir runs/pets`."""

from __future__ import annotations

import sys


def main() -> None:
    """Parse the command line and make the manifest."""
    from catdog.config import IngestConfig, parse_arguments

    config = parse_arguments(IngestConfig, sys.argv[1:], description=__doc__ or "")

    from catdog.cluster.connection import connected, quiet_datasets
    from catdog.cluster.environment import prepare_environment
    from catdog.cluster.shared_paths import check_shared
    from catdog.storage import files

    prepare_environment(verbose=config.verbose)

    from catdog.photos.ingest import corrections_fingerprint, ingest
    from catdog.storage.run_directory import open_run

    run_dir = open_run(config, corrections=corrections_fingerprint(config))
    with connected(verbose=config.verbose, dashboard=False):
        quiet_datasets(verbose=config.verbose)
        check_shared(written={"--run-dir": run_dir}, read={"--photos": config.photos})
        ingest(config, run_dir=run_dir, say=print)
    print(f"Manifest: {files.join(run_dir, 'manifest')}")


if __name__ == "__main__":
    from catdog.command_line import run

    sys.exit(run(main))
