"""The search space as a user gives it, in a file or on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from catdog.config import TrainConfig
from catdog.errors import UsageError
from catdog.tuning.space import parse_space
from catdog.tuning.space_file import read_space


def test_a_file_gives_the_space_and_an_item_of_the_command_line_adds_to_it(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(
        "dropout: uniform:0,0.5\nfrozen:\n  learning-rate: loguniform:1e-4,1e-2\nunfrozen.patience: randint:1,3\n"
    )
    found = read_space([str(file), "dropout=uniform:0,0.3"], default={})
    assert found == {
        "dropout": "uniform:0,0.3",
        "frozen.learning_rate": "loguniform:1e-4,1e-2",
        "unfrozen.patience": "randint:1,3",
    }
    assert parse_space(TrainConfig, found)["frozen.learning_rate"].is_log
    assert read_space([], default={"dropout": "uniform:0,1"}) == {"dropout": "uniform:0,1"}
    file.write_text("- dropout\n")
    with pytest.raises(UsageError, match=r"expected lines such as `dropout: uniform:0,0.5`, found \['dropout'\]"):
        read_space([str(file)], default={})
    with pytest.raises(UsageError, match="expected a YAML file of settings and domains"):
        read_space([str(tmp_path / "nowhere.yaml")], default={})
