"""Configuration files that start clusters: valid, with the locked versions, and protected by the token."""

from __future__ import annotations

import copy
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from mifsim import __version__
from mifsim.cli.command import _parser
from mifsim.guard.config import GuardConfig
from mifsim.guard.serve_config import EDGE, GUARD, IMPORT_PATH, SHA256, WATCH, Arguments
from tests.cluster.kuberay_schema import schema_of
from tests.cluster.nodes import ROOT

FOLDER = ROOT / "cluster"
CLUSTER_CONFIGS = ("aws.yaml", "machines.yaml")
MANIFESTS = ("raycluster.yaml", "rayjob.yaml", "rayservice.yaml", "storage.yaml")


def locked_version(name: str) -> str:
    """Return the version of a package in the lock file."""
    found = re.search(rf"^{re.escape(name)}==(\S+)", (ROOT / "requirements" / "lock.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def cluster_config(name: str) -> dict[str, Any]:
    """Read a configuration of `ray up` as Ray does, with Ray's defaults."""
    return prepare_config(yaml.safe_load((FOLDER / name).read_text()))


def manifests(name: str) -> list[dict[str, Any]]:
    """Return the manifests of a file for KubeRay."""
    return list(yaml.safe_load_all((FOLDER / "kuberay" / name).read_text()))


def clusters() -> Iterator[dict[str, Any]]:
    """Yield the cluster in each of KubeRay's manifests."""
    yield manifests("raycluster.yaml")[0]["spec"]
    yield manifests("rayjob.yaml")[0]["spec"]["rayClusterSpec"]


def guard_cluster() -> dict[str, Any]:
    """Return the cluster in the manifest of the guard."""
    cluster: dict[str, Any] = manifests("rayservice.yaml")[0]["spec"]["rayClusterConfig"]
    return cluster


def serve_configs() -> Iterator[dict[str, Any]]:
    """Yield the configurations for Ray Serve."""
    yield yaml.safe_load((FOLDER / "serve.yaml").read_text())
    yield yaml.safe_load(manifests("rayservice.yaml")[0]["spec"]["serveConfigV2"])


def pods(cluster: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the pod specification of the head and of each group of workers."""
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]


@pytest.mark.parametrize("name", CLUSTER_CONFIGS)
def test_ray_accepts_its_cluster_files(name: str) -> None:
    config = cluster_config(name)
    validate_config(config)
    invalid = copy.deepcopy(config)
    invalid["idle_timeout"] = 10  # Ray has no such key
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config(invalid)


@pytest.mark.parametrize("name", CLUSTER_CONFIGS)
def test_clusters_require_the_token_and_serve_the_dashboard_on_loopback_only(name: str) -> None:
    config = cluster_config(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        start = next(command for command in commands if "ray start" in command)
        words = " ".join([start, *config["docker"].get("run_options", [])])
        assert "RAY_AUTH_MODE=token" in words
        assert "0.0.0.0" not in start
    head = next(command for command in config["head_start_ray_commands"] if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in head


def test_cloud_machines_use_the_security_group_of_the_user() -> None:
    # Without a security group, Ray creates one that opens port 22 to every address.
    for node_type in cluster_config("aws.yaml")["available_node_types"].values():
        assert node_type["node_config"]["SecurityGroupIds"] == ["REPLACE-sg"]
        assert node_type["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in node_type["node_config"]["BlockDeviceMappings"])


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_have_only_fields_that_kuberay_and_kubernetes_define(name: str) -> None:
    for manifest in manifests(name):
        jsonschema.validate(manifest, schema_of(manifest))
        invalid = copy.deepcopy(manifest)
        invalid["spec"]["replicaz"] = 1
        with pytest.raises(jsonschema.ValidationError, match="replicaz"):
            jsonschema.validate(invalid, schema_of(invalid))


def test_kuberay_clusters_require_the_token_and_restrict_their_pods() -> None:
    for cluster in (*clusters(), guard_cluster()):
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
        for pod in pods(cluster):
            assert pod["securityContext"]["runAsNonRoot"] is True
            for container in pod["containers"]:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                }
        for group in cluster["workerGroupSpecs"]:
            assert group["template"]["spec"]["automountServiceAccountToken"] is False


def test_worker_groups_exist_for_cpus_and_gpus_and_scale_within_limits() -> None:
    for cluster in clusters():
        assert cluster["enableInTreeAutoscaling"] is True
        groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
        assert set(groups) == {"cpu", "gpu"}
        for group in groups.values():
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            assert group["maxReplicas"] > 0
        limits = groups["gpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert limits["nvidia.com/gpu"] == "1"


def test_all_pods_mount_the_volume_of_the_run_and_the_cache() -> None:
    claim = manifests("storage.yaml")[0]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for cluster in (*clusters(), guard_cluster()):
        for pod in pods(cluster):
            volume = next(v for v in pod["volumes"] if v["name"] == "shared")
            assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
            for container in pod["containers"]:
                assert {"name": "shared", "mountPath": "/shared"} in container["volumeMounts"]
                assert {"name": "MIFSIM_CACHE_DIR", "value": "/shared/cache"} in container["env"]
    entrypoint = manifests("rayjob.yaml")[0]["spec"]["entrypoint"]
    assert _parser().parse_args(shlex.split(entrypoint)[1:]).out.is_relative_to("/shared")


def test_the_network_policy_admits_only_the_pods_of_the_cluster_and_the_operator() -> None:
    _, policy = manifests("storage.yaml")
    name = manifests("raycluster.yaml")[0]["metadata"]["name"]
    cluster_labels = {"matchLabels": {"ray.io/cluster": name}}
    assert policy["spec"]["podSelector"] == cluster_labels
    allowed = [source["podSelector"] for rule in policy["spec"]["ingress"] for source in rule["from"]]
    assert cluster_labels in allowed
    assert all(selector["matchLabels"] for selector in allowed), "an empty selector lets every pod in"


def test_the_network_policy_of_the_guard_admits_others_only_to_serves_proxies() -> None:
    service, policy = manifests("rayservice.yaml")
    labels = {"app": service["metadata"]["name"]}
    assert policy["spec"]["podSelector"] == {"matchLabels": labels}
    cluster = guard_cluster()
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["metadata"]["labels"] == labels
    inside, clients = policy["spec"]["ingress"]
    assert {"podSelector": {"matchLabels": labels}} in inside["from"]
    assert all(source["podSelector"]["matchLabels"] for rule in (inside, clients) for source in rule["from"])
    *_, config = serve_configs()
    assert clients["ports"] == [{"protocol": "TCP", "port": config["http_options"]["port"]}]


def test_the_configurations_of_serve_are_those_of_a_guard() -> None:
    for config in serve_configs():
        (application,) = config["applications"]
        assert application["import_path"] == IMPORT_PATH
        arguments = Arguments.parse(application["args"])
        assert arguments.ledger.url.startswith("rediss://")
        names = [deployment["name"] for deployment in application["deployments"]]
        assert names == [EDGE, GUARD, WATCH]
        (settings,) = {json.dumps(deployment["user_config"]) for deployment in application["deployments"]}
        GuardConfig.parse({key: value for key, value in json.loads(settings).items() if key != SHA256})
        assert "request_router_config" not in str(config), "the program sets it"
    hosts = [config["http_options"]["host"] for config in serve_configs()]
    assert hosts == ["127.0.0.1", "0.0.0.0"]  # in a pod, behind the network policy


def test_ray_accepts_the_configurations_of_serve() -> None:
    pytest.importorskip("ray.serve", reason="needs the extra serve", exc_type=ImportError)
    from ray.serve.schema import DeploymentSchema, HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema

    for config in serve_configs():
        ServeDeploySchema.model_validate(config)
        (application,) = config["applications"]
        # Ray ignores keys that it does not know.
        assert set(config) <= set(ServeDeploySchema.model_fields)
        assert set(config["http_options"]) <= set(HTTPOptionsSchema.model_fields)
        assert set(application) <= set(ServeApplicationSchema.model_fields)
        for deployment in application["deployments"]:
            assert set(deployment) <= set(DeploymentSchema.model_fields)


def test_versions_match_the_lock_file() -> None:
    ray = locked_version("ray")
    for cluster in clusters():
        assert cluster["rayVersion"] == ray
        images = {container["image"] for pod in pods(cluster) for container in pod["containers"]}
        assert images == {f"REPLACE-registry/mifsim:{__version__}", f"REPLACE-registry/mifsim:{__version__}-gpu"}
    assert guard_cluster()["rayVersion"] == ray
    images = {container["image"] for pod in pods(guard_cluster()) for container in pod["containers"]}
    assert images == {f"REPLACE-registry/mifsim:{__version__}"}
    assert cluster_config("aws.yaml")["docker"]["image"] == f"REPLACE-registry/mifsim:{__version__}"
    assert f"Ray {ray} " in (FOLDER / "machines.yaml").read_text()
    # The lock file is resolved for the Python version in the Makefile; the image must have the same version.
    python = re.search(r"--python-version (\S+)", (ROOT / "Makefile").read_text())
    assert python is not None
    image = (FOLDER / "Dockerfile").read_text()
    assert re.findall(r"^FROM (\S+)", image, re.MULTILINE) == [f"python:{python[1]}-slim-bookworm"]
    assert "--require-hashes --no-deps --requirement requirements/lock.txt" in image
    assert "USER ray" in image


def test_the_image_contains_every_package(tmp_path: Path) -> None:
    copied = set(re.findall(r"^COPY (\w+) \1$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE))
    packages = re.search(r"^packages = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert packages is not None
    assert copied == set(re.findall(r'"(\w+)"', packages[1]))


def test_the_commands_of_the_readme_are_accepted() -> None:
    text = (FOLDER / "README.md").read_text()
    commands = re.findall(r"^\$ (mifsim [^#>\n]*)", text, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        _parser().parse_args(shlex.split(command)[1:])


def test_the_files_that_the_readme_names_exist() -> None:
    text = (FOLDER / "README.md").read_text()
    named = set(re.findall(r"\bcluster/([\w/.-]+\.(?:yaml|md)|Dockerfile)\b", text))
    assert {"aws.yaml", "machines.yaml", "kuberay/raycluster.yaml", "kuberay/rayjob.yaml", "Dockerfile"} <= named
    for name in named:
        assert (FOLDER / name).is_file(), name
