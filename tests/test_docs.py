"""README and docs: their commands parse, and their links and paths exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from catdog.__main__ import JOBS
from catdog.command_line.arguments import parse_arguments
from catdog.command_line.settings import flatten_config

PAGES = [Path("README.md"), *sorted(Path("docs").glob("*.md"))]
TEXT = {page: page.read_text() for page in PAGES}


def commands(text: str) -> list[list[str]]:
    """Return the words of each `jobs/X.py …` command, in code blocks and in running text."""
    joined = re.sub(r"\\\n\s*", " ", text)
    found = re.findall(r"jobs/(\w+\.py[^\n`]*)", joined)
    return [shlex.split(line, comments=True) for line in found]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_command_has_flags_that_its_job_knows(page: Path) -> None:
    for name, *arguments in commands(TEXT[page]):
        job = JOBS[name.removesuffix(".py")]
        placed = [word for word in arguments if word not in ("…", "--help")]
        parse_arguments(job.config_class, placed, description="", program=name)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_flag_that_is_named_belongs_to_a_job(page: Path) -> None:
    words = (word for line in re.findall(r"`([^`\n]+)`", TEXT[page]) for word in line.split())
    flags = {word for word in words if re.fullmatch(r"--[a-z][\w.-]*\w", word)}
    for flag in flags - {"--address", "--working-dir", "--build-arg", "--version", "--help"}:
        assert any(knows(job.config_class, flag) for job in JOBS.values()), flag


def knows(config_class: type, flag: str) -> bool:
    key = flag.removeprefix("--").replace("-", "_")
    names = {*flatten_config(config_class()), "config"}
    return key in names or key.removeprefix("no_") in names or key.startswith("space.")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_and_path_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", TEXT[page]):
        assert not target or (page.parent / target).exists(), target
    for path in re.findall(r"`((?:catdog|jobs|docs|tests)/[\w/.]+)`", TEXT[page]):
        assert Path(path).exists(), path


def test_every_heading_that_is_linked_to_is_there() -> None:
    for page, text in TEXT.items():
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]*)\)", text):
            headings = re.findall(r"^#+ (.*)$", TEXT[Path(page.parent, target) if target else page], flags=re.M)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{page}: {target}#{anchor}"
