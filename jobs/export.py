"""Export a model: `python jobs/export.py --model runs/pets/model --to tflite --out pets.tflite`."""

from __future__ import annotations

import sys


def main() -> None:
    """Parse the command line, write the model and say where it is."""
    from catdog.config import ExportConfig, parse_arguments

    config = parse_arguments(ExportConfig, sys.argv[1:], description=__doc__ or "")

    from catdog.cluster.environment import prepare_environment

    prepare_environment(verbose=config.verbose)

    from catdog.model.export import export

    print(f"Exported: {export(config)}")


if __name__ == "__main__":
    from catdog.command_line import run

    sys.exit(run(main))
