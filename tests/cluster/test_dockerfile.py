"""The Dockerfile, checked as text, because there is no Docker where the tests run."""

from __future__ import annotations

import re
from pathlib import Path

import catdog

TEXT = Path("Dockerfile").read_text()
PINNED = Path(".ci/constraints.txt").read_text().split()


def test_the_base_is_the_pinned_ray_in_the_python_that_is_tested() -> None:
    (version, python) = re.findall(r"^FROM rayproject/ray:([\d.]+)-(py\d+)-\$\{DEVICE\}$", TEXT, re.MULTILINE)[0]
    assert (f"ray=={version}" in PINNED, python) == (True, "py311")


def test_one_argument_decides_between_cpu_and_gpu() -> None:
    tags = re.findall(r"docker build -t \S+/catdog:(\S+)(?: --build-arg DEVICE=(\w+))? \.$", TEXT, re.MULTILINE)
    assert tags == [(f"{catdog.__version__}-cpu", ""), (f"{catdog.__version__}-gpu", "gpu")]
    assert "ARG DEVICE=cpu\nFROM" in TEXT


def test_what_is_copied_is_there_and_all_packages_are_pinned() -> None:
    copied = [words.split()[:-1] for words in re.findall(r"^COPY --chown=\S+ (.*)$", TEXT, re.MULTILINE)]
    assert all(Path(name).exists() for names in copied for name in names)
    assert "pip install --no-cache-dir -c .ci/constraints.txt " in TEXT
    names = {line.split("==")[0] for line in PINNED}
    assert {"boto3", "optuna", "tensorflow", "nvidia-cudnn-cu12", "nvidia-cublas-cu12"} <= names
