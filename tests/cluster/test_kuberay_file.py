"""kuberay.yaml, checked against KubeRay's resource definitions without any Kubernetes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

TEXT = Path("kuberay.yaml").read_text()
ITEMS: dict[str, dict[str, Any]] = {item["kind"]: item for item in yaml.safe_load(TEXT)["items"]}
CLUSTER: dict[str, Any] = ITEMS["RayCluster"]["spec"]
PODS = {
    group.get("groupName", "head"): group["template"]["spec"]
    for group in (CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"])
}
# The fields in KubeRay 1.5's API reference. Any other field would be ignored or refused.
FIELDS = {
    "RayCluster": {
        "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec",
        "headServiceAnnotations", "managedBy", "rayVersion", "suspend", "upgradeStrategy", "workerGroupSpecs",
    },
    "RayJob": {
        "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint",
        "entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata",
        "rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode", "submitterConfig",
        "submitterPodTemplate", "suspend", "ttlSecondsAfterFinished",
    },
    "autoscalerOptions": {
        "env", "envFrom", "idleTimeoutSeconds", "image", "imagePullPolicy", "resources", "securityContext",
        "upscalingMode", "version", "volumeMounts",
    },
    "headGroupSpec": {
        "enableIngress", "headService", "labels", "rayStartParams", "resources", "serviceType", "template",
    },
    "workerGroupSpecs": {
        "groupName", "idleTimeoutSeconds", "labels", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams",
        "replicas", "resources", "scaleStrategy", "suspend", "template",
    },
}  # fmt: skip


def test_the_file_is_a_list_of_a_cluster_and_a_job_that_are_chosen_by_label() -> None:
    whole = yaml.safe_load(TEXT)
    assert (whole["apiVersion"], whole["kind"], len(whole["items"])) == ("v1", "List", 2)
    assert {kind: item["apiVersion"] for kind, item in ITEMS.items()} == {
        "RayCluster": "ray.io/v1",
        "RayJob": "ray.io/v1",
    }
    labels = [item["metadata"]["labels"]["catdog"] for item in ITEMS.values()]
    assert sorted(labels) == sorted(re.findall(r"kubectl apply -l catdog=(\w+) -f kuberay.yaml", TEXT))
    # KubeRay derives the names of pods and services from these names, so they must be short and valid.
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]{0,40}[a-z0-9])?", item["metadata"]["name"]) for item in ITEMS.values())


def test_every_field_is_one_of_kuberay_s() -> None:
    parts = {"RayCluster": [CLUSTER], "RayJob": [ITEMS["RayJob"]["spec"]]}
    parts |= {name: [CLUSTER[name]] for name in ("autoscalerOptions", "headGroupSpec")}
    parts |= {"workerGroupSpecs": CLUSTER["workerGroupSpecs"]}
    for name, tables in parts.items():
        for table in tables:
            assert table.keys() <= FIELDS[name]


def test_the_job_runs_a_job_of_ours_on_a_cluster_of_its_own_that_ends_with_it() -> None:
    spec = ITEMS["RayJob"]["spec"]
    assert spec["rayClusterSpec"] == CLUSTER
    assert "clusterSelector" not in spec
    assert (spec["submissionMode"], spec["shutdownAfterJobFinishes"]) == ("K8sJobMode", True)
    python, script, *flags = spec["entrypoint"].split()
    assert (python, script) == ("python", "/home/ray/catdog/jobs/train.py")
    assert {"--photos", "--run-dir", "--cluster.use-gpu"} <= set(flags)
    # A retry starts on other machines, which share only a bucket with the first ones.
    assert [flag for flag in flags if flag.startswith("/")] == []


def test_the_images_are_those_of_the_dockerfile_and_the_version_is_their_ray_s() -> None:
    dockerfile = Path("Dockerfile").read_text()
    cpu, gpu = re.findall(r"docker build -t (\S+)", dockerfile)
    images = {name: [container["image"] for container in pod["containers"]] for name, pod in PODS.items()}
    assert images == {"head": [cpu], "cpu": [cpu], "gpu": [gpu]}
    assert f"rayproject/ray:{CLUSTER['rayVersion']}-py311" in dockerfile


@pytest.mark.parametrize("name", PODS)
def test_a_machine_gets_what_it_asks_for_and_one_container_for_ray(name: str) -> None:
    (container,) = PODS[name]["containers"]
    resources = container["resources"]
    # Ray counts the limits. A pod that requests less could be killed while Ray believes that it has resources left.
    assert resources["requests"] == resources["limits"]
    assert {"cpu", "memory"} <= resources["limits"].keys()
    assert all(isinstance(value, str) for value in resources["limits"].values())
    # Version 2 of the autoscaler requires `restartPolicy: Never`.
    assert (PODS[name]["restartPolicy"], PODS[name]["serviceAccountName"]) == ("Never", "catdog")


def test_the_head_does_no_work_and_workers_come_on_demand() -> None:
    assert CLUSTER["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert (CLUSTER["enableInTreeAutoscaling"], CLUSTER["autoscalerOptions"]["version"]) == (True, "v2")
    for group in CLUSTER["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    assert [group["groupName"] for group in CLUSTER["workerGroupSpecs"]] == ["cpu", "gpu"]


def test_gpus_are_asked_for_by_the_gpu_group_alone_and_its_pods_tolerate_their_taint() -> None:
    asked = {name: pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for name, pod in PODS.items()}
    assert asked == {"head": None, "cpu": None, "gpu": "1"}
    assert PODS["gpu"]["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_a_token_is_asked_for_and_no_secret_stands_in_the_file() -> None:
    assert CLUSTER["authOptions"] == {"mode": "token"}
    assert tuple(map(int, CLUSTER["rayVersion"].split("."))) >= (2, 52, 0)  # older versions have no tokens
    assert not re.search(r"AKIA|secretKey|BEGIN .*PRIVATE KEY|password", TEXT, re.IGNORECASE)
    assert not re.search(r"type: LoadBalancer|NodePort", TEXT)
