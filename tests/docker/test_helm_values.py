from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.docker.airflow_options import is_option, is_variable
from tests.docker.images import DOCKER, IMAGES, pins
from tests.docker.stack import env_file
from training.launchers.config import _SECRET_VARIABLE, LaunchConfig, quantity_bytes
from training.launchers.kubernetes import GPU

VALUES: dict[str, Any] = yaml.safe_load((DOCKER / "helm-values.yaml").read_text(encoding="utf-8"))
CHART: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("chart_values.yaml").read_text(encoding="utf-8"))
DEPLOYING = (DOCKER.parent / "docs" / "deploy.md").read_text(encoding="utf-8")
ROLE, BINDING = yaml.safe_load_all((DOCKER / "launcher-role.yaml").read_text(encoding="utf-8"))
ENVIRONMENT = {entry["name"]: entry["value"] for entry in VALUES["env"]}
TYPES = {"string": str, "boolean": bool, "integer": int, "array": list, "any": object}
SCHEMAS = ("1.25", "1.37")


def unknown(values: dict[str, Any], chart: dict[str, Any], above: str = "") -> Iterator[str]:
    """Paths of values that the chart does not have, or not with that type."""
    for key, value in values.items():
        known = chart.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            yield from unknown(value, known, f"{above}{key}.")
        elif not isinstance(known, str) or not isinstance(value, TYPES[known]):
            yield f"{above}{key}"


def test_every_key_is_one_of_the_chart_s() -> None:
    assert list(unknown(VALUES, CHART)) == []
    wrong = {"executer": "KubernetesExecutor", "redis": {"enable": False}, "scheduler": {"replicas": "2"}}
    assert list(unknown(wrong, CHART)) == ["executer", "redis.enable", "scheduler.replicas"]


def test_airflow_s_version_and_the_image_s_are_the_same() -> None:
    assert VALUES["airflowVersion"] == pins(DOCKER / "airflow.lock")["apache-airflow"]
    assert VALUES["defaultAirflowRepository"].rpartition("/")[2] == "stowage-airflow"
    assert f"-t stowage-airflow:{VALUES['defaultAirflowTag']} ." in (DOCKER / "airflow.Dockerfile").read_text()
    assert ENVIRONMENT["STOWAGE_TRAIN_IMAGE"].rpartition("/")[2] == GPU.image
    assert "/entrypoint" in IMAGES["airflow"].all("COPY")[-1]


def test_every_option_of_airflow_exists() -> None:
    options = [(section, option) for section, set_there in VALUES["config"].items() for option in set_there]
    assert len(options) > 8
    assert [each for each in options if not is_option(*each)] == []
    assert [entry for entry in VALUES["triggerer"]["env"] if not is_variable(entry["name"])] == []


def test_the_api_server_finds_a_triggerer_by_its_address() -> None:
    """A Deployment's pods have no names in DNS, which those of a StatefulSet with volumes would have."""
    assert VALUES["triggerer"]["persistence"] == {"enabled": False}
    (entry,) = VALUES["triggerer"]["env"]
    assert entry["name"] == "AIRFLOW__CORE__HOSTNAME_CALLABLE"
    module, _, function = entry["value"].rpartition(".")
    source = distribution("apache-airflow-core").locate_file(f"{module.replace('.', '/')}.py")
    assert f"def {function}()" in Path(str(source)).read_text()


def test_lost_tasks_are_found_as_soon_as_with_celery() -> None:
    celery = env_file("celery.env")
    config = {
        f"AIRFLOW__{section}__{option}".upper(): str(value)
        for section, options in VALUES["config"].items()
        for option, value in options.items()
        if "heartbeat" in option
    }
    assert len(config) == 3
    assert config.items() <= celery.items()


def test_secrets_are_references() -> None:
    assert not [name for name in ENVIRONMENT if _SECRET_VARIABLE.search(name)]
    for entry in VALUES["secret"]:
        assert entry.keys() == {"envName", "secretName", "secretKey"}
    assert not re.search(r"://[^/\s]*:[^/\s]*@", json.dumps(VALUES))
    # The chart would otherwise make keys of its own, new ones each time, and a user whose password is known.
    assert {"fernetKeySecretName", "apiSecretKeySecretName", "jwtSecretName"} <= VALUES.keys()
    assert VALUES["createUserJob"] == {"enabled": False}


def referenced() -> set[tuple[str, str]]:
    """Name and key of every Secret that the values refer to; the chart itself chooses the keys of its own."""
    own = {
        (VALUES["data"]["metadataSecretName"], "connection"),
        (VALUES["fernetKeySecretName"], "fernet-key"),
        (VALUES["jwtSecretName"], "jwt-secret"),
        (VALUES["apiSecretKeySecretName"], "api-secret-key"),
    }
    launched = re.findall(r"--secret-env \w+=(\w+):(\w+)", ENVIRONMENT["STOWAGE_TRAIN_LAUNCH_OPTIONS"])
    return {*own, *((entry["secretName"], entry["secretKey"]) for entry in VALUES["secret"]), *launched}


def test_the_secrets_are_those_that_the_documentation_makes() -> None:
    made = re.findall(r"create secret generic (\S+) --from-env-file \S+ +# (.*)", DEPLOYING)
    keys = {(name, key) for name, comment in made for key in re.findall(r"([-\w]+)=(?:,|$)", comment)}
    assert len(keys) > 8
    assert keys == referenced()


def test_airflow_s_two_ways_to_its_database_are_one_connection() -> None:
    (asynchronous,) = [entry for entry in VALUES["secret"] if entry["envName"].endswith("SQL_ALCHEMY_CONN_ASYNC")]
    assert is_variable(asynchronous["envName"])
    assert (asynchronous["secretName"], asynchronous["secretKey"]) == (
        VALUES["data"]["metadataSecretName"],
        "connection",
    )


def test_logs_go_where_the_policy_lets_them() -> None:
    logging = VALUES["config"]["logging"]
    assert logging["remote_log_conn_id"] == "aws_default"
    place = logging["remote_base_log_folder"].removeprefix("s3://")
    statements = json.loads((DOCKER / "policies" / "logs.json").read_text())["Statement"]
    assert {each["Resource"] for each in statements} == {
        f"arn:aws:s3:::{place}/*",
        f"arn:aws:s3:::{place.partition('/')[0]}",
    }


def test_pods_of_failed_tasks_that_are_kept_are_removed_later() -> None:
    assert VALUES["executor"] == "KubernetesExecutor"
    assert VALUES["config"]["kubernetes_executor"]["delete_worker_pods_on_failure"] == "False"
    assert VALUES["cleanup"]["enabled"]


def resources(values: Any) -> Iterator[dict[str, dict[str, str]]]:
    """Every `resources` among the values."""
    for key, value in values.items() if isinstance(values, dict) else ():
        yield from [value] if key == "resources" else resources(value)


def test_what_pods_ask_for_is_no_more_than_what_they_may_take() -> None:
    found = list(resources(VALUES))
    assert len(found) == 5
    for each in found:
        for name in each["limits"]:
            assert 0 < quantity_bytes(name, each["requests"][name]) <= quantity_bytes(name, each["limits"][name])


def test_pods_run_as_the_image_s_user() -> None:
    context = VALUES["securityContexts"]["pod"]
    user = LaunchConfig(image="any", resources=GPU.resources).user_id
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == IMAGES["airflow"].all("USER")[-1] == f"{user}:0"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "any"},
        "spec": {
            "securityContext": context,
            "containers": [{"name": "any", "image": "any", "resources": VALUES["workers"]["kubernetes"]["resources"]}],
        },
    }
    for version in SCHEMAS:
        kubernetes_validate.validate(pod, version, strict=True)


def test_the_pools_that_bound_the_load_are_made_with_the_database() -> None:
    pools = json.loads((DOCKER / "pools.json").read_text())
    assert {value for name, value in ENVIRONMENT.items() if name.endswith("_POOL")} == pools.keys()
    assert VALUES["migrateDatabaseJob"]["args"][2].endswith("airflow pools import /opt/stowage/docker/pools.json")


def test_launch_options_are_options_of_render() -> None:
    command = [sys.executable, "-m", "training", "render", "--launcher", ENVIRONMENT["STOWAGE_TRAIN_LAUNCHER"]]
    options = [*ENVIRONMENT["STOWAGE_TRAIN_LAUNCH_OPTIONS"].split(), "--data=s3://b/d/manifests/r.json"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    job = yaml.safe_load(done.stdout)
    references = [entry for entry in job["spec"]["template"]["spec"]["containers"][0]["env"] if "valueFrom" in entry]
    assert len(references) == ENVIRONMENT["STOWAGE_TRAIN_LAUNCH_OPTIONS"].count("--secret-env")


@pytest.mark.parametrize("version", SCHEMAS)
def test_the_launcher_s_role_is_valid_and_binds_the_account_of_tasks_and_triggerer(version: str) -> None:
    for manifest in (ROLE, BINDING):
        kubernetes_validate.validate(manifest, version, strict=True)
    namespace = json.loads(ENVIRONMENT["AIRFLOW_CONN_KUBERNETES_DEFAULT"])["extra"]["namespace"]
    assert ROLE["metadata"]["namespace"] == BINDING["metadata"]["namespace"] == namespace
    assert BINDING["roleRef"]["name"] == ROLE["metadata"]["name"]
    (subject,) = BINDING["subjects"]
    assert VALUES["workers"]["kubernetes"]["serviceAccount"] == {"create": True, "name": subject["name"]}
    assert VALUES["triggerer"]["serviceAccount"] == {"create": False, "name": subject["name"]}


def test_the_role_allows_what_the_launcher_asks_and_nothing_else() -> None:
    """By the calls of Kubernetes' client in the plugin, whose names say the verb and the kind."""
    verbs = {"create": "create", "read": "get", "list": "list", "delete": "delete", "patch": "patch"}
    plural = {"job": "jobs", "service": "services", "pod": "pods", "event": "events", "pod_log": "pods/log"}
    source = (DOCKER.parent / "plugins" / "stowage_airflow" / "cluster.py").read_text(encoding="utf-8")
    calls = re.findall(r"\.([a-z]+)_namespaced_([a-z_]+)", source)
    assert len(calls) > 5
    asked = {(verbs[verb], plural[kind]) for verb, kind in calls}
    allowed = {(verb, resource) for rule in ROLE["rules"] for verb in rule["verbs"] for resource in rule["resources"]}
    assert asked == allowed
