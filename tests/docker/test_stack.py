"""The services that Compose starts, started by the same commands with the same environment on 127.0.0.1."""

from __future__ import annotations

import base64
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.exceptions import ClientError

from demo.processes import Supervisor, free_port
from demo.stack import plain_environment
from demo.waiting import wait_until
from packing.adapters.s3 import client_config
from tests.celery.servers import database_folder, start_postgresql
from tests.docker.images import DOCKER, IMAGES, REPOSITORY
from tests.docker.stack import COMPOSE, env_file, filled, service
from tests.docker.store import START_SECONDS, replaced, start_store

pytestmark = pytest.mark.exhaustive

BIN = Path(sys.executable).parent
PLUGINS = os.pathsep.join([str(REPOSITORY / "plugins"), str(REPOSITORY)])
TRACK = """
from stowage_airflow.connections import open_tracker
run = open_tracker().start_run("any", "run", params={"a": "1"}, tags={})
run.log_artifacts({"figure.txt": b"figure"})
print(run.run_id)
"""


@pytest.fixture(scope="module")
def database_files() -> Iterator[Path]:
    with database_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def running(database_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """Ends before `database_files` goes."""
    del database_files
    with Supervisor(tmp_path_factory.mktemp("logs")) as supervisor:
        yield supervisor


@pytest.fixture(scope="module")
def made_secrets() -> dict[str, str]:
    """A docker/.env of this test's own."""
    made = subprocess.run([sys.executable, DOCKER / "make_env.py"], capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in made.splitlines() if line)


def environment(own: Mapping[str, str], **here: str) -> dict[str, str]:
    """What a container has, but for what is elsewhere here; commands are found beside this Python."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**plain_environment(os.environ), **own, "PATH": path, **here}


@pytest.fixture(scope="module")
def postgres(running: Supervisor, database_files: Path, made_secrets: dict[str, str]) -> str:
    """Host and port of a PostgreSQL with the roles and databases that the shipped script makes."""
    superuser = urlsplit(start_postgresql(running, database_files, environment({})))
    spec = service("postgres", made_secrets)
    (script,) = [mount.split(":")[0] for mount in spec["volumes"] if mount.startswith("./")]
    here = {"PGHOST": "127.0.0.1", "PGPORT": str(superuser.port), "PGPASSWORD": str(superuser.password)}
    own = environment({**spec["environment"], **here})
    subprocess.run([DOCKER / script], env=own, check=True, capture_output=True, timeout=60)
    return f"127.0.0.1:{superuser.port}"


def on(address: str, url: str) -> str:
    """The URL of a database of the service `postgres`, at its address here."""
    assert "@postgres/" in url
    return url.replace("@postgres/", f"@{address}/")


def answer(
    port: int, path: str, *, user: str = "", host: str = "", token: str = "", body: Any = None
) -> tuple[int, str]:
    """Status and content; a POST if there is a body."""
    headers = {"Content-Type": "application/json", **({"Host": host} if host else {})}
    if user:
        headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    if token:
        headers["Authorization"] = f"Bearer {token}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()


def check(name: str, port: int) -> int:
    """The status of a service's health check, at its port here."""
    kind, *command = service(name)["healthcheck"]["test"]
    assert kind == "CMD"
    own_port = service(name)["ports"][0].rpartition(":")[2]
    assert any(f"127.0.0.1:{own_port}/" in word for word in command)
    here = [word.replace(f"127.0.0.1:{own_port}/", f"127.0.0.1:{port}/") for word in command]
    return subprocess.run(here, env=environment({}), capture_output=True, check=False, timeout=60).returncode


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("objects")


@pytest.fixture(scope="module")
def store(running: Supervisor, made_secrets: dict[str, str], objects: Path) -> str:
    """The address of a SeaweedFS with the buckets of the stack, which keeps them in the folder `objects`."""
    url = start_store(running, objects, filled(COMPOSE["configs"]["s3"]["content"], made_secrets))
    buckets = service("s3-init", made_secrets)
    for _ in range(2):
        own = environment(buckets["environment"], AWS_ENDPOINT_URL=url)
        subprocess.run(buckets["command"], env=own, check=True, timeout=120)
    return url


def client(store: str, made_secrets: Mapping[str, str], user: str) -> Any:
    keys = (made_secrets[f"S3_{user}_ACCESS_KEY"], made_secrets[f"S3_{user}_SECRET_KEY"])
    return boto3.session.Session(*keys, region_name="us-east-1").client(
        "s3", endpoint_url=store, config=client_config()
    )


def refusal(call: Callable[..., Any], **arguments: Any) -> int:
    """The status with which the store refuses."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return int(caught.value.response["ResponseMetadata"]["HTTPStatusCode"])


def test_the_store_gives_each_user_its_own_rights(store: str, made_secrets: dict[str, str]) -> None:
    admin, stowage, mlflow = (client(store, made_secrets, user) for user in ("ADMIN", "STOWAGE", "MLFLOW"))
    admin.put_object(Bucket="raw", Key="books/shard", Body=b"raw")
    assert stowage.get_object(Bucket="raw", Key="books/shard")["Body"].read() == b"raw"
    assert [entry["Key"] for entry in stowage.list_objects_v2(Bucket="raw")["Contents"]] == ["books/shard"]
    mlflow.put_object(Bucket="mlflow", Key="artifact", Body=b"figure")
    stowage.put_object(Bucket="models", Key="books/old", Body=b"checkpoint")
    stowage.delete_object(Bucket="models", Key="books/old")
    assert refusal(stowage.get_object, Bucket="models", Key="books/old") == 404
    assert refusal(stowage.put_object, Bucket="raw", Key="books/shard", Body=b"other") == 403
    assert refusal(stowage.delete_object, Bucket="raw", Key="books/shard") == 403
    assert refusal(stowage.get_object, Bucket="mlflow", Key="artifact") == 403
    assert refusal(stowage.create_bucket, Bucket="more") == 403
    assert refusal(mlflow.get_object, Bucket="raw", Key="books/shard") == 403
    port = int(store.rpartition(":")[2])
    assert answer(port, "/raw/books/shard")[0] == 403


def test_the_store_takes_no_more_room_than_what_it_holds(
    store: str, made_secrets: dict[str, str], objects: Path
) -> None:
    admin = client(store, made_secrets, "ADMIN")
    buckets = [bucket["Name"] for bucket in admin.list_buckets()["Buckets"]]
    assert len(buckets) == 4
    for bucket in buckets:
        admin.put_object(Bucket=bucket, Key="room", Body=b"one")
    volumes = list(objects.glob("*.dat"))
    assert len(volumes) >= len(buckets)
    assert sum(volume.stat().st_blocks * 512 for volume in volumes) < 100_000_000


def test_the_store_enforces_conditional_writes(store: str, made_secrets: dict[str, str]) -> None:
    stowage = client(store, made_secrets, "STOWAGE")
    for bucket in ("packed", "models"):
        stowage.put_object(Bucket=bucket, Key="books/shard", Body=b"first", IfNoneMatch="*")
        assert refusal(stowage.put_object, Bucket=bucket, Key="books/shard", Body=b"second", IfNoneMatch="*") == 412
        assert stowage.get_object(Bucket=bucket, Key="books/shard")["Body"].read() == b"first"


def test_mlflow_asks_who_is_there(
    running: Supervisor, store: str, postgres: str, made_secrets: dict[str, str], tmp_path: Path
) -> None:
    config = tmp_path / "auth.ini"
    config.write_text(on(postgres, (DOCKER / "mlflow-auth.ini").read_text()))
    port = free_port()
    spec = service("mlflow", made_secrets)
    (runs,) = [word.partition("=")[2] for word in spec["command"] if word.startswith("--backend-store-uri=")]
    here = {
        "--host": "127.0.0.1",
        "--port": port,
        "--allowed-hosts": f"mlflow:5000,localhost:{port}",
        "--backend-store-uri": on(postgres, runs),
    }
    own = environment(spec["environment"], MLFLOW_AUTH_CONFIG_PATH=str(config), MLFLOW_S3_ENDPOINT_URL=store)
    running.start("mlflow", replaced(spec["command"], here), own)
    wait_until(lambda: answer(port, "/health", host="mlflow:5000")[0] == 200, "MLflow", running, START_SECONDS)
    assert check("mlflow", port) == 0

    password = made_secrets["MLFLOW_ADMIN_PASSWORD"]
    experiments = "/api/2.0/mlflow/experiments/search?max_results=1"
    statuses = [
        answer(port, experiments, user=user, host="mlflow:5000")[0] for user in ("", "admin:x", f"admin:{password}")
    ]
    assert statuses == [401, 401, 200]
    assert answer(port, experiments, user=f"admin:{password}", host="elsewhere:5000")[0] == 403

    users = service("mlflow-init", made_secrets)
    for _ in range(2):
        own = environment(users["environment"], MLFLOW_TRACKING_URI=f"http://localhost:{port}")
        subprocess.run(users["command"], env=own, check=True, timeout=120)
    connection = json.loads(service("worker", made_secrets)["environment"]["AIRFLOW_CONN_MLFLOW_DEFAULT"])
    stowage = f"{connection['login']}:{connection['password']}"
    user = {"username": "other", "password": "long enough for MLflow"}
    assert answer(port, "/api/2.0/mlflow/users/create", user=stowage, body=user, host="mlflow:5000")[0] == 403

    here = json.dumps({**connection, "host": "localhost", "port": port})
    done = subprocess.run(
        [sys.executable, "-c", TRACK],
        env=environment({"AIRFLOW_CONN_MLFLOW_DEFAULT": here, "AIRFLOW_HOME": str(tmp_path), "PYTHONPATH": PLUGINS}),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert connection["password"] not in done.stdout + done.stderr
    run_id = done.stdout.splitlines()[-1]
    kept = client(store, made_secrets, "MLFLOW").list_objects_v2(Bucket="mlflow")["Contents"]
    assert [key for entry in kept if (key := entry["Key"]).endswith(f"{run_id}/artifacts/figure.txt")]


def test_airflow_is_set_up_and_asks_who_is_there(
    running: Supervisor, postgres: str, made_secrets: dict[str, str], tmp_path: Path
) -> None:
    spec = service("airflow-init", made_secrets)
    image = {
        name: value.replace("/opt/stowage", str(REPOSITORY)).replace("/opt/airflow", str(tmp_path))
        for name, value in IMAGES["airflow"].environment.items()
    }
    databases = {
        name: on(postgres, value)
        for name, value in spec["environment"].items()
        if name.startswith("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN")
    }
    assert len(databases) == 2
    own = environment(
        {**image, **env_file("celery.env"), **spec["environment"], **databases},
    )
    setup = [word.replace("/opt/stowage", str(REPOSITORY)) for word in spec["command"]]
    for _ in range(2):
        subprocess.run(setup, env=own, check=True, timeout=300, capture_output=True)
    no_job = subprocess.run(
        IMAGES["airflow"].health_check, env=own, check=False, capture_output=True, text=True, timeout=120
    )
    assert (no_job.returncode, no_job.stderr.splitlines()[-1]) == (1, "No alive jobs found.")

    port = free_port()
    command = [*service("api-server")["command"], "--host", "127.0.0.1", "--port", str(port)]
    running.start("api-server", command, own)
    wait_until(lambda: answer(port, "/api/v2/monitor/health")[0] == 200, "Airflow", running, START_SECONDS)
    assert check("api-server", port) == 0
    login = {"username": "admin", "password": made_secrets["AIRFLOW_ADMIN_PASSWORD"]}
    token = json.loads(answer(port, "/auth/token", body=login)[1])["access_token"]
    assert answer(port, "/auth/token", body={**login, "password": "admin"})[0] == 401
    assert [answer(port, "/api/v2/pools", token=given)[0] for given in ("", token[:-9])] == [401, 403]
    pools = {pool["name"]: pool for pool in json.loads(answer(port, "/api/v2/pools", token=token)[1])["pools"]}
    for name, shipped in json.loads((DOCKER / "pools.json").read_text()).items():
        assert {key: pools[name][key] for key in shipped} == shipped
