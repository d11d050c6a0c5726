"""cluster.yaml, read and checked by Ray's own code, without any cloud."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

TEXT = Path("cluster.yaml").read_text()


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    """The file with Ray's defaults filled in."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(yaml.safe_load(TEXT))
    validate_config(prepared)  # Ray's schema and Ray's own rules
    return prepared


def test_ray_accepts_the_file(settings: dict[str, Any]) -> None:
    assert settings["provider"]["type"] == "aws"
    assert set(settings["available_node_types"]) == {"head", "cpu", "gpu"}


def test_ray_would_refuse_a_mistake_in_it() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    for wrong in ({"max_worker": 8}, {"available_node_types": {"head": {"node_config": {}}}}):
        with pytest.raises(Exception, match=r"max_worker|resources|head"):
            validate_config(prepare_config({**yaml.safe_load(TEXT), **wrong}))


def test_the_head_does_no_work_and_machines_that_cost_come_on_demand_and_go(settings: dict[str, Any]) -> None:
    types = settings["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert [types[name]["min_workers"] for name in ("cpu", "gpu")] == [0, 0]
    # One number decides, for each type and for all together.
    assert [types[name]["max_workers"] for name in ("cpu", "gpu")] == [settings["max_workers"]] * 2
    assert len(re.findall(r"^ *max_workers:", TEXT, re.MULTILINE)) == 1
    assert types["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert 0 < settings["idle_timeout_minutes"] <= 30


def test_nothing_listens_to_the_world_and_a_token_is_asked_for(settings: dict[str, Any]) -> None:
    (rule,) = settings["provider"]["security_group"]["IpPermissions"]
    assert (rule["FromPort"], rule["ToPort"]) == (22, 22)
    assert "0.0.0.0" not in TEXT
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert settings[name][-1].startswith("RAY_AUTH_MODE=token ray start ")
    assert "--dashboard-host=127.0.0.1" in settings["head_start_ray_commands"][-1]


def test_no_secret_stands_in_the_file() -> None:
    assert not re.search(r"AKIA|aws_secret|BEGIN .*PRIVATE KEY|password", TEXT, re.IGNORECASE)
    # The token is named by its place alone.
    assert re.findall(r"\S*auth_token\S*", TEXT) == ["~/.ray/auth_token:", "~/.ray/auth_token"]


def test_the_machines_install_this_checkout_with_the_ray_that_is_tested(settings: dict[str, Any]) -> None:
    import ray

    assert settings["docker"]["image"] == f"rayproject/ray:{ray.__version__}-py311-cpu"
    worker = settings["available_node_types"]["gpu"]["docker"]["worker_image"]
    assert worker == f"rayproject/ray:{ray.__version__}-py311-gpu"
    assert f"ray=={ray.__version__}" in Path(".ci/constraints.txt").read_text().split()
    assert settings["file_mounts"]["~/catdog"] == "."
    assert all("-c ~/catdog/.ci/constraints.txt -e ~/catdog[" in text for text in settings["setup_commands"])


def test_your_own_machines_take_the_few_lines_that_the_comment_says() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    (line,) = (text[1:] for text in TEXT.splitlines() if text.startswith("#   provider: {type: local"))
    own = {**yaml.safe_load(TEXT), **yaml.safe_load(line)}
    for name in ("max_workers", "available_node_types", "head_node_type"):
        del own[name]
    validate_config(prepare_config(own))
