from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from packing.uris import absolute
from tests.docker.airflow_options import is_variable
from tests.docker.images import DOCKER, IMAGES, REPOSITORY
from tests.docker.stack import (
    COMPOSE,
    COMPOSE_FILE,
    FAKE_SECRETS,
    SECRET_NAMES,
    SERVICES,
    env_file,
    references,
    service,
)
from training.launchers.config import _SECRET_VARIABLE, quantity_bytes

OURS = {name: spec for name, spec in SERVICES.items() if spec["image"].startswith("stowage-")}
KEEPING = ("Read", "List", "Write")
HELM_VALUES = DOCKER / "helm-values.yaml"
AIRFLOW = {name: spec for name, spec in OURS.items() if "AIRFLOW__CORE__AUTH_MANAGER" in spec["environment"]}


def validate(file: Path) -> int:
    command = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", file]
    return subprocess.run(command, capture_output=True, check=False).returncode


def test_the_file_has_the_schema_of_compose(tmp_path: Path) -> None:
    assert validate(COMPOSE_FILE) == 0
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(yaml.safe_dump({**COMPOSE, "services": {**SERVICES, "redis": {"imag": "redis"}}}))
    assert validate(wrong) == 1


def test_the_whole_stack_is_there() -> None:
    assert {"postgres", "redis", "s3", "mlflow"} <= SERVICES.keys()
    components = {"api-server", "scheduler", "dag-processor", "triggerer", "celery worker"}
    assert {" ".join(spec["command"][1:]) for spec in AIRFLOW.values() if spec["command"][0] == "airflow"} == components
    assert env_file("celery.env")["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_pinned_watched_and_confined(name: str) -> None:
    spec = SERVICES[name]
    image, _, tag = spec["image"].rpartition(":")
    assert re.match(r"\d+\.\d+", tag)
    once = name.endswith("-init")
    assert spec.get("restart", "no") == ("no" if once else "unless-stopped")
    own_check = name in ("worker", "scheduler", "dag-processor", "triggerer")
    assert spec.get("healthcheck") == {"disable": True} if once else own_check or spec["healthcheck"]["test"]
    assert "localhost" not in str(spec.get("healthcheck")), "BusyBox takes that for ::1"
    assert all(port.startswith("127.0.0.1:") for port in spec.get("ports", ()))
    if name in OURS:
        assert spec["build"]["target"] == image.removeprefix("stowage-")
        assert spec["build"]["target"] in IMAGES
        assert (REPOSITORY / spec["build"]["dockerfile"]).is_file()
        assert spec["cap_drop"] == ["ALL"]
        assert spec["security_opt"] == ["no-new-privileges:true"]


def before(name: str) -> set[str]:
    """All services that have to be ready before this one starts."""
    direct = set(SERVICES[name].get("depends_on", ()))
    return direct.union(*(before(each) for each in direct))


def test_nothing_starts_before_what_it_needs() -> None:
    for spec in SERVICES.values():
        for name, how in spec.get("depends_on", {}).items():
            ready = "service_completed_successfully" if name.endswith("-init") else "service_healthy"
            assert how == {"condition": ready}, name
    assert before("mlflow") == {"postgres", "s3", "s3-init"}
    for name in AIRFLOW.keys() - {"airflow-init", "worker"}:
        assert before(name) == {"postgres", "airflow-init", "redis"}
    assert before("worker") == SERVICES.keys() - {"worker", "scheduler", "dag-processor", "triggerer"}


def test_a_worker_is_given_the_time_that_its_tasks_take_to_stop() -> None:
    from stowage_airflow.process import GRACE_SECONDS

    minutes = re.fullmatch(r"(\d+)m", SERVICES["worker"]["stop_grace_period"])
    assert minutes is not None
    assert int(minutes[1]) * 60 > GRACE_SECONDS


def test_what_is_mounted_is_there() -> None:
    mounts = [str(mount) for spec in SERVICES.values() for mount in spec.get("volumes", ())]
    assert len(mounts) > 5
    for source in {mount.split(":")[0] for mount in mounts}:
        assert (DOCKER / source).is_file() if source.startswith("./") else source in COMPOSE["volumes"]
    for spec in OURS.values():
        for mount in spec.get("volumes", ()):
            # An empty volume takes over the folder's owner, who is the image's user.
            assert re.search(rf"install -d -o 50000 .*{mount.split(':')[1]}( |$)", IMAGES["airflow"].all("RUN")[-1])


def test_what_the_configuration_names_is_in_the_image() -> None:
    configuration = [*IMAGES["airflow"].environment.values(), COMPOSE_FILE.read_text(), HELM_VALUES.read_text()]
    named = set(re.findall(r"/opt/stowage/([-\w./]+)", "\n".join(configuration)))
    assert {"dags", "plugins", "docker/pools.json"} <= named
    assert {*named, "packing", "training"} <= set(IMAGES["airflow"].copied)


def variables() -> Iterator[tuple[str, str, str]]:
    """Service, name and value of every environment variable."""
    for name, spec in SERVICES.items():
        yield from ((name, variable, value) for variable, value in spec.get("environment", {}).items())


def test_no_file_holds_a_secret() -> None:
    secret = [
        each for each in variables() if _SECRET_VARIABLE.search(each[1]) or re.search("PGPASSWORD|CLI_AUTH", each[1])
    ]
    assert len(secret) > 12
    for name, variable, value in secret:
        assert re.fullmatch(r"\$\{[A-Z0-9_]+:\?[^}]+\}", value), (name, variable)
    for name, variable, value in variables():
        for url in re.findall(r"://([^/\s]*)@", value):
            assert re.fullmatch(r"\w*|\w*:\$\{[A-Z0-9_]+:\?[^}]+\}", url), (name, variable)


def test_a_missing_secret_is_an_error_that_says_what_to_do() -> None:
    text = COMPOSE_FILE.read_text()
    needed = {name for name, kind in references(text) if kind == ":?"}
    assert needed == set(SECRET_NAMES)
    assert set(re.findall(r":\?([^}]*)\}", text)) == {"make docker/.env with docker/make_env.py"}
    assert {name for name, kind in references(text) if kind == ":-"} <= {f"STOWAGE_{name}" for name in asked_for()}


def made_environment() -> dict[str, str]:
    made = subprocess.run([sys.executable, DOCKER / "make_env.py"], capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in made.splitlines() if line)


def test_the_environment_that_is_made_is_complete_and_random() -> None:
    first, second = made_environment(), made_environment()
    assert list(first) == SECRET_NAMES
    assert len({*first.values(), *second.values()}) == 2 * len(SECRET_NAMES)
    assert all(re.fullmatch(r"[-\w]{43,}=?", value) for value in first.values())
    assert len(base64.urlsafe_b64decode(first["AIRFLOW_FERNET_KEY"])) == 32
    # RFC 7518: no less than the digest of the signature, which is SHA-512.
    assert len(first["AIRFLOW_JWT_SECRET"]) >= 64


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugins, where Airflow finds them."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "plugins"))


def asked_for() -> set[str]:
    """The settings that the DAGs read, without their prefix."""
    from stowage_airflow.settings import read_settings

    class Recording(dict[str, str]):
        def get(self, name: str, default: Any = None) -> Any:
            asked.add(name.removeprefix("STOWAGE_"))
            return default

    asked: set[str] = set()
    read_settings(Recording())
    return asked


def test_every_option_of_airflow_exists() -> None:
    names = {variable for spec in AIRFLOW.values() for variable in spec["environment"]}
    of_images = {variable for image in IMAGES.values() for variable in image.environment}
    shipped = {variable for spec in AIRFLOW.values() for file in spec["env_file"] for variable in env_file(file)}
    options = {name for name in {*names, *of_images, *shipped} if name.startswith("AIRFLOW__")}
    assert len(options) > 15
    assert [name for name in sorted(options) if not is_variable(name)] == []
    assert not is_variable("AIRFLOW__CORE__DAG_FOLDER")


def test_every_setting_is_one_that_the_dags_read() -> None:
    settings = {name.removeprefix("STOWAGE_") for _, name, _ in variables() if name.startswith("STOWAGE_")}
    assert len(settings) > 4
    assert settings <= asked_for()


def test_the_defaults_of_the_dags_are_places_in_buckets_that_are_made() -> None:
    from stowage_airflow.settings import read_settings

    settings = read_settings(service("worker")["environment"])
    made = re.findall(r'"(\w+)"', re.search(r"for name in (\(.*\)):", SERVICES["s3-init"]["command"][2])[1])  # type: ignore[index]
    assert sorted(made) == ["mlflow", "models", "packed", "raw"]
    for place in (settings.source, settings.destination, settings.train_model_dir):
        assert absolute(place).split("/")[2] in made
    assert f"--artifacts-destination=s3://{made[-1]}" in SERVICES["mlflow"]["command"]


def test_the_pools_that_bound_the_load_are_made() -> None:
    pools = json.loads((DOCKER / "pools.json").read_text())
    used = {value for _, name, value in variables() if name.endswith("_POOL")}
    assert used == pools.keys()
    assert all(pool["slots"] > 0 for pool in pools.values())
    # A task that is deferred while a cluster trains holds GPUs; one that packs never is.
    assert {name: pool["include_deferred"] for name, pool in pools.items()} == {"store": False, "training": True}
    assert "airflow pools import /opt/stowage/docker/pools.json" in SERVICES["airflow-init"]["command"][2]
    assert "docker/pools.json" in IMAGES["airflow"].copied


def test_a_worker_has_the_memory_that_a_task_asks_of_a_cluster_for_each_of_its_tasks() -> None:
    values = yaml.safe_load(HELM_VALUES.read_text())
    task = quantity_bytes("memory", values["workers"]["kubernetes"]["resources"]["requests"]["memory"])
    limit = SERVICES["worker"]["deploy"]["resources"]["limits"]["memory"]
    tasks = int(SERVICES["worker"]["environment"]["AIRFLOW__CELERY__WORKER_CONCURRENCY"])
    # Compose's g is 2^30.
    assert tasks * task <= quantity_bytes("memory", limit.replace("g", "Gi"))


def test_connections_lead_to_the_services() -> None:
    environment = service("worker")["environment"]
    aws = json.loads(environment["AIRFLOW_CONN_AWS_DEFAULT"])
    mlflow = json.loads(environment["AIRFLOW_CONN_MLFLOW_DEFAULT"])
    assert (aws["login"], aws["password"]) == (
        FAKE_SECRETS["S3_STOWAGE_ACCESS_KEY"],
        FAKE_SECRETS["S3_STOWAGE_SECRET_KEY"],
    )
    assert (
        aws["extra"]["endpoint_url"] == SERVICES["mlflow"]["environment"]["MLFLOW_S3_ENDPOINT_URL"] == "http://s3:8333"
    )
    holders = {
        name: [each for each, spec in AIRFLOW.items() if f"AIRFLOW_CONN_{name}_DEFAULT" in spec["environment"]]
        for name in ("AWS", "MLFLOW")
    }
    assert holders == {"AWS": ["worker"], "MLFLOW": ["api-server", "worker"]}
    page = service("api-server")["environment"]["AIRFLOW_CONN_MLFLOW_DEFAULT"]
    assert page == environment["AIRFLOW_CONN_MLFLOW_DEFAULT"]
    assert (mlflow["login"], mlflow["password"]) == ("stowage", FAKE_SECRETS["MLFLOW_STOWAGE_PASSWORD"])
    assert FAKE_SECRETS["MLFLOW_ADMIN_PASSWORD"] not in environment.values()
    assert f"{mlflow['host']}:{mlflow['port']}" in allowed_hosts(SERVICES["mlflow"]["command"])
    values = [value for name in SERVICES for value in service(name).get("environment", {}).values()]
    hosts = {urlsplit(url).hostname for value in values for url in re.findall(r'[a-z0-9+]+://[^\s"]+', value)}
    assert {"postgres", "redis", "s3", "api-server"} <= hosts <= {*SERVICES, "localhost", "raw", "packed", "models"}


def allowed_hosts(command: list[str]) -> list[str]:
    return next(word.partition("=")[2] for word in command if word.startswith("--allowed-hosts")).split(",")


def identities() -> Mapping[str, Any]:
    content = json.loads(service_config())
    return {identity["name"]: identity for identity in content["identities"]}


def service_config() -> str:
    from tests.docker.stack import filled

    return str(filled(COMPOSE["configs"]["s3"]["content"], FAKE_SECRETS))


def test_each_user_of_the_store_has_keys_of_its_own_and_no_more_rights_than_it_needs() -> None:
    users = identities()
    keys = {key["accessKey"] for user in users.values() for key in user["credentials"]}
    assert len(keys) == len(users) == 3
    from stowage_airflow.settings import read_settings

    settings = read_settings(service("worker")["environment"])
    kept = [absolute(place).split("/")[2] for place in (settings.destination, settings.train_model_dir)]
    read = absolute(settings.source).split("/")[2]
    assert {name: set(user["actions"]) for name, user in users.items()} == {
        "admin": {"Admin"},
        "stowage": {f"Read:{read}", f"List:{read}", *(f"{verb}:{bucket}" for bucket in kept for verb in KEEPING)},
        "mlflow": {f"{verb}:mlflow" for verb in KEEPING},
    }
