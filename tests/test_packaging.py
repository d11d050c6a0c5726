"""pyproject.toml and .ci/constraints.txt, compared with the installed packages."""

from __future__ import annotations

import contextlib
import importlib
import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import catdog

TABLES: dict[str, Any] = tomllib.loads(Path("pyproject.toml").read_text())
PROJECT: dict[str, Any] = TABLES["project"]
PINNED = dict(line.split("==") for line in Path(".ci/constraints.txt").read_text().split())


# What .ci/run and the Dockerfile install.
INSTALLED = [
    *PROJECT["dependencies"],
    *PROJECT["optional-dependencies"]["test"],
    *PROJECT["optional-dependencies"]["optuna"],
    "boto3",
    "tensorflow[and-cuda]",
]


def reached(texts: list[str], extras: set[str], seen: set[tuple[str, str]]) -> Iterator[Requirement]:
    """Yield all requirements that `texts` lead to in this Python; each package is followed once.

    A package that is not installed is not followed: TensorFlow's CUDA packages are only on machines with a GPU.
    """
    for requirement in map(Requirement, texts):
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            continue
        yield requirement
        for extra in sorted(requirement.extras) or [""]:
            name = canonicalize_name(requirement.name)
            if (name, extra) not in seen:
                seen.add((name, extra))
                with contextlib.suppress(metadata.PackageNotFoundError):
                    yield from reached(metadata.requires(name) or [], {extra}, seen)


def test_a_fresh_install_is_pinned_to_the_last_package_and_no_pin_contradicts_a_package() -> None:
    pinned = {canonicalize_name(name): version for name, version in PINNED.items()}
    unpinned, refused = set(), []
    for requirement in reached(INSTALLED, set(), set()):
        version = pinned.get(canonicalize_name(requirement.name))
        if version is None:
            unpinned.add(requirement.name)
        elif not requirement.specifier.contains(version, prereleases=True):
            refused.append(f"{requirement} but {version} is pinned")
    assert (unpinned, refused) == (set(), [])


def test_every_pin_is_within_the_bounds_of_an_extra() -> None:
    pinned = {canonicalize_name(name): version for name, version in PINNED.items()}
    for requirement in (Requirement(text) for extra in PROJECT["optional-dependencies"].values() for text in extra):
        if version := pinned.get(canonicalize_name(requirement.name)):
            assert requirement.specifier.contains(version), requirement


def test_the_command_is_the_function_that_the_jobs_call() -> None:
    module, _, name = PROJECT["scripts"]["catdog"].partition(":")
    assert getattr(importlib.import_module(module), name).__module__ == "catdog.__main__"


def test_the_version_stands_in_both_places() -> None:
    assert PROJECT["version"] == catdog.__version__


def test_an_error_that_names_an_extra_names_one_of_ours() -> None:
    texts = [path.read_text() for path in Path("catdog").rglob("*.py")]
    named = [match for text in texts for match in re.findall(r"pip install '([\w-]+)\[([^]]+)\]'", text)]
    assert named
    for name, extra in named:
        assert name == PROJECT["name"]
        assert extra in PROJECT["optional-dependencies"] or extra.startswith("{")


def test_no_file_of_a_package_s_data_is_left_out_of_a_wheel() -> None:
    patterns: dict[str, list[str]] = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]
    taken = {found for name, globs in patterns.items() for glob in globs for found in Path(*name.split(".")).glob(glob)}
    data = {path for path in Path("catdog").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert data == taken
