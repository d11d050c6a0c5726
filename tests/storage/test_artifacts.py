from pathlib import Path

import pytest

from catdog.errors import UsageError
from catdog.storage import artifacts


def test_a_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert artifacts.fingerprint({"a": 1, "b": [2, 3]}) == artifacts.fingerprint({"b": [2, 3], "a": 1})
    assert artifacts.fingerprint({"a": 1}) != artifacts.fingerprint({"a": 2})
    assert artifacts.fingerprint({"a": 1}) == "015abd7f5cc57a2d"


def test_a_finished_artifact_is_found_with_its_summary(tmp_path: Path) -> None:
    directory = str(tmp_path / "step")
    assert artifacts.completed(directory, inputs={"seed": 1}) is None
    artifacts.mark_complete(directory, inputs={"seed": 1}, summary={"rows": 3})
    assert artifacts.completed(directory, inputs={"seed": 1}) == {"rows": 3}


def test_an_artifact_of_other_inputs_is_refused_with_the_difference(tmp_path: Path) -> None:
    directory = str(tmp_path / "step")
    artifacts.mark_complete(directory, inputs={"seed": 1, "views": 3}, summary={})
    with pytest.raises(UsageError) as caught:
        artifacts.completed(directory, inputs={"seed": 2, "views": 3})
    assert str(caught.value) == (
        f"{directory} was made with other settings (seed was 1, is now 2): "
        "give the settings it was made with, or another --run-dir"
    )
