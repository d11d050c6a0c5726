"""Only Ray's public interface is used, because private names change with every minor release."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

# Code inside strings counts too, so the text is searched and not the syntax tree.
PRIVATE = re.compile(
    r"\bray(?:\.\w+)*\._|\bfrom ray(?:\.\w+)* import _|\bray\.core\.generated|\bray(?:\.\w+)*\._internal|_raylet\b"
)
# No public interface reports this; see the module's docstring. The tests in test_autoscaler.py cover the fallback.
ALLOWED = {Path("catdog/cluster/autoscaler.py"): {"ray._private.state.state.get_cluster_config()"}}
SOURCES = [*sorted(Path("catdog").rglob("*.py")), *sorted(Path("jobs").glob("*.py"))]


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_no_private_name_of_ray_is_used(source: Path) -> None:
    text = source.read_text()
    for known in ALLOWED.get(source, ()):
        assert text.count(known) == 1
        text = text.replace(known, "")
    assert not PRIVATE.findall(text)


@pytest.mark.parametrize(
    "line",
    [
        "from ray._private import worker",
        "import ray._common.network_utils",
        "program = 'from ray.train.v2._internal.callbacks import DatasetsCallback'",
        "from ray.core.generated import common_pb2",
        "ray._private.state.state.actor_table(None)",
        "from ray._raylet import GcsClient",
        "from ray.train import _internal",
    ],
)
def test_the_search_finds_private_names(line: str) -> None:
    assert PRIVATE.search(line)
