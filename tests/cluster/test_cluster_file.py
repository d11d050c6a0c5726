"""cluster.yaml, read and checked by Ray's own code, without any cloud."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

TEXT = Path("cluster.yaml").read_text()


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    """Return the settings of the file, with Ray's defaults filled in."""
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
    # The file has a single number, which limits each type and all types together.
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
    # The file names only the path of the token.
    assert set(re.findall(r"\S*auth_token\S*", TEXT)) == {"~/.ray/auth_token:", "~/.ray/auth_token"}


def test_the_token_that_the_comment_makes_is_its_owner_s_alone(tmp_path: Path) -> None:
    (line,) = re.findall(r"^#   (ray get-auth-token .*)$", TEXT, re.MULTILINE)
    environment = {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", line], env=environment, check=True, timeout=600)
    assert (tmp_path / ".ray/auth_token").stat().st_mode & 0o777 == 0o600


def test_the_machines_run_the_images_of_the_dockerfile_with_this_checkout_in_them(settings: dict[str, Any]) -> None:
    images = re.findall(r"docker build -t (\S+)", Path("Dockerfile").read_text())
    worker = settings["available_node_types"]["gpu"]["docker"]["worker_image"]
    assert [settings["docker"]["image"], worker] == images
    # The files are copied to the image's own checkout, which is installed in editable mode.
    assert settings["file_mounts"]["~/catdog"] == "."
    assert "WORKDIR /home/ray/catdog\n" in Path("Dockerfile").read_text()


def test_your_own_machines_take_the_few_lines_that_the_comment_says() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    (line,) = (text[1:] for text in TEXT.splitlines() if text.startswith("#   provider: {type: local"))
    own = {**yaml.safe_load(TEXT), **yaml.safe_load(line)}
    for name in ("max_workers", "available_node_types", "head_node_type"):
        del own[name]
    validate_config(prepare_config(own))
