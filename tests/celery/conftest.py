"""A cluster for the tests of a module: PostgreSQL, Redis, an S3 server, MLflow, Airflow on Celery."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from demo.airflow import connections
from demo.processes import Supervisor
from demo.servers import MlflowServer, ObjectStore
from demo.stack import plain_environment, s3_client
from packing.adapters import RoutedStorage
from packing.ports import Storage
from tests.builders import random_sizes, raw_shard
from tests.celery.cluster import Cluster, start_cluster
from tests.celery.servers import database_folder, start_postgresql, start_redis

SOURCE = "s3://raw/celery"
SHARDS, SEQUENCES = 48, 50
TASKS = 6
OPTIONS = {"source": SOURCE, "partition_bytes": 20_000}


@pytest.fixture(scope="module")
def storage(object_store: ObjectStore) -> Storage:
    """The object store, with raw shards in it."""
    storage = RoutedStorage(lambda: s3_client(object_store))
    for number in range(SHARDS):
        sizes = random_sizes(SEQUENCES, seed=number, longest=500, predictions=76)
        storage.write(f"{SOURCE}/part-{number:03}", raw_shard(sizes, seed=number, slots=512, predictions=76))
    return storage


@pytest.fixture(scope="module")
def cluster(
    object_store: ObjectStore, mlflow_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("celery")
    plain = plain_environment(os.environ)
    base = {**plain, **connections(object_store, mlflow_server), "STOWAGE_PARALLEL_TASKS": str(TASKS)}
    with database_folder() as database_files, Supervisor(folder / "logs") as supervisor:
        database = start_postgresql(supervisor, database_files, plain)
        broker = start_redis(supervisor, folder, plain)
        yield start_cluster(supervisor, folder / "airflow", base, database, broker)
