"""kuberay.yaml against what KubeRay's resource definitions ask for, without any Kubernetes."""

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
# The fields of KubeRay 1.5's API reference: anything else in them would be ignored, or refused.
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
    # A name has to do for the names of pods and services that KubeRay makes of it.
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
    # Where machines are not shared, only a bucket is: a retry begins on other machines.
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
    # Ray counts the limits; a pod that was promised less would be killed while Ray thinks there is more.
    assert resources["requests"] == resources["limits"]
    assert {"cpu", "memory"} <= resources["limits"].keys()
    assert all(isinstance(value, str) for value in resources["limits"].values())
    # `restartPolicy: Never` is asked for by the autoscaler's version 2.
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
    assert tuple(map(int, CLUSTER["rayVersion"].split("."))) >= (2, 52, 0)  # older ones have no token
    assert not re.search(r"AKIA|secretKey|BEGIN .*PRIVATE KEY|password", TEXT, re.IGNORECASE)
    assert not re.search(r"type: LoadBalancer|NodePort", TEXT)
