"""The policies allow what a stage asks of the store, and nothing that it does not ask."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import boto3
import pytest

from demo.processes import Supervisor
from packing.adapters import RoutedStorage
from packing.adapters.s3 import client_config
from packing.errors import StorageError
from packing.in_memory import MemoryStorage, MemoryTracker
from packing.manifest import read_manifest
from packing.parallel import serial
from packing.pipeline import refresh
from packing.types import Parameters
from packing.verify import require, verify_dataset
from tests.builders import random_sizes, raw_shard, stages_of, store_with
from tests.docker.images import DOCKER
from tests.docker.store import start_store

POLICIES = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in (DOCKER / "policies").glob("*.json")}
ACTIONS = {
    "list": "s3:ListBucket",
    "head": "s3:GetObject",
    "read": "s3:GetObject",
    "write": "s3:PutObject",
    "delete": "s3:DeleteObject",
}
UPLOAD_IN_PARTS = {"s3:AbortMultipartUpload"}
"""What an upload in parts needs when it fails, which a store in memory does not."""

Asked = tuple[str, str, str]


def asked(requests: list[tuple[str, str]]) -> set[Asked]:
    """Action, resource and, of lists, the prefix as the S3 adapter sends it."""
    found = set()
    for kind, uri in requests:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        listing = kind == "list"
        found.add(
            (ACTIONS[kind], f"arn:aws:s3:::{bucket}" + ("" if listing else f"/{key}"), f"{key}/" if listing else "")
        )
    return found


def allows(statement: dict[str, Any], request: Asked) -> bool:
    action, resource, prefix = request
    condition = statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix", "*")
    return (
        action in statement["Action"]
        and fnmatchcase(resource, statement["Resource"])
        and (not prefix or fnmatchcase(prefix, condition))
    )


def compare(policy: str, requests: list[tuple[str, str]]) -> None:
    statements = POLICIES[policy]["Statement"]
    needed = asked(requests)
    assert [request for request in sorted(needed) if not any(allows(each, request) for each in statements)] == []
    given = {(each["Sid"], action) for each in statements for action in each["Action"] if action not in UPLOAD_IN_PARTS}
    used = {(each["Sid"], request[0]) for each in statements for request in needed if allows(each, request)}
    assert given - used == set()


def test_policies_are_what_iam_reads() -> None:
    assert set(POLICIES) == {"packing", "training", "mlflow", "logs"}
    for policy in POLICIES.values():
        assert policy["Version"] == "2012-10-17"
        sids = [statement["Sid"] for statement in policy["Statement"]]
        assert len(set(sids)) == len(sids)
        for statement in policy["Statement"]:
            assert statement["Effect"] == "Allow"
            assert all(action in {*ACTIONS.values(), *UPLOAD_IN_PARTS} for action in statement["Action"])
            # Other operators are not understood by every store; one that it does not know lets nothing pass.
            assert statement.get("Condition", {}).keys() <= {"StringLike"}
            # A bucket for lists, keys for the rest.
            assert ("/" in statement["Resource"]) == ("s3:ListBucket" not in statement["Action"])


def tells_what_is_missing(policy: str, bucket: str) -> bool:
    """Whether S3 answers 404 for an object that is not there: only to those who may list without a prefix."""
    return any(
        "s3:ListBucket" in each["Action"] and each["Resource"].endswith(f":{bucket}") and "Condition" not in each
        for each in POLICIES[policy]["Statement"]
    )


def test_stages_are_told_what_is_not_there_yet() -> None:
    looked_for = {"packing": "packed", "training": "models", "logs": "airflow-logs", "mlflow": "mlflow"}
    assert all(tells_what_is_missing(policy, bucket) for policy, bucket in looked_for.items())
    assert not tells_what_is_missing("packing", "raw")


def test_packing_asks_for_what_its_policy_allows() -> None:
    shards = {f"train/part-{i}": raw_shard(random_sizes(30, seed=i), seed=i) for i in range(4)}
    storage = store_with(shards, "s3://raw/books")
    parameters = Parameters(max_sequence_length=64, max_predictions_per_sequence=10, partition_bytes=20_000)
    for _ in range(2):
        refresh(storage, stages_of(serial(storage)), "s3://raw/books/train", "s3://packed/books", parameters)
    compare("packing", storage.requests)
    # Raw shards are known to be there, so nobody has to be told that they are not.
    raw = {uri for kind, uri in storage.requests if kind != "list" and uri.startswith("s3://raw/")}
    assert raw == {f"s3://raw/books/{name}" for name in shards}


def test_a_policy_that_is_too_narrow_or_too_wide_is_noticed() -> None:
    with pytest.raises(AssertionError, match="raw/books/shard"):
        compare("packing", [("write", "s3://raw/books/shard")])
    with pytest.raises(AssertionError, match="KeepPacked"):
        compare("packing", [("read", "s3://packed/books/index/shard")])


def identities() -> str:
    """SeaweedFS' users: one for each policy, and one who may do all."""
    users: list[dict[str, Any]] = [{"name": "admin", "actions": ["Admin"]}]
    users += [{"name": name, "policyNames": [name]} for name in POLICIES]
    for user in users:
        user["credentials"] = [{"accessKey": user["name"], "secretKey": f"secret-{user['name']}"}]
    policies = [{"name": name, "content": json.dumps(policy)} for name, policy in POLICIES.items()]
    return json.dumps({"identities": users, "policies": policies})


@pytest.mark.exhaustive
def test_a_store_that_enforces_the_policies_serves_packing_and_refuses_the_rest(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    with Supervisor(tmp_path / "logs") as supervisor:
        url = start_store(supervisor, tmp_path / "objects", identities())

        def client(user: str) -> Any:
            session = boto3.session.Session(user, f"secret-{user}", region_name="us-east-1")
            return session.client("s3", endpoint_url=url, config=client_config())

        for bucket in ("raw", "packed", "models"):
            client("admin").create_bucket(Bucket=bucket)
        for place in ("books/train", "books/held-out", "others"):
            shard = raw_shard(random_sizes(30, seed=1), seed=1)
            client("admin").put_object(Bucket="raw", Key=f"{place}/part", Body=shard)
        storage = RoutedStorage(lambda: client("packing"))
        parameters = Parameters(max_sequence_length=64, max_predictions_per_sequence=10)
        refreshed = refresh(
            storage, stages_of(serial(storage)), "s3://raw/books/train", "s3://packed/books", parameters
        )
        require(verify_dataset(storage, serial(storage), refreshed.manifest_uri, "s3://raw/books/train"))

        training = RoutedStorage(lambda: client("training"))
        assert read_manifest(training, refreshed.manifest_uri).recipe_id == refreshed.recipe.recipe_id
        assert len(list(training.list("s3://raw/books/held-out"))) == 1
        training.write("s3://models/books/run/old", b"checkpoint")
        training.delete("s3://models/books/run/old")

        refusals: list[Callable[[], object]] = [
            lambda: storage.read("s3://raw/others/part"),
            lambda: list(storage.list("s3://raw/others")),
            lambda: storage.write("s3://raw/books/train/part", b""),
            lambda: storage.delete(refreshed.manifest_uri),
            lambda: training.write(refreshed.manifest_uri, b""),
            lambda: list(training.list("s3://packed/books")),
            lambda: training.read("s3://raw/books/train/part"),
        ]
        for call in refusals:
            with pytest.raises(StorageError, match="refused access"):
                call()


@pytest.mark.exhaustive
def test_training_asks_for_what_its_policy_allows(tmp_path: Path) -> None:
    from tests.training.packs import MODEL, write_dataset
    from training.config import TrainingConfig
    from training.shards import Cache
    from training.train import train

    storage = MemoryStorage()
    manifest, raw = write_dataset(storage, "s3://packed/books")
    held_out = "s3://raw/books/held-out"
    for info in storage.list(raw):
        storage.write(f"{held_out}/{info.uri.rpartition('/')[2]}", storage.read(info.uri))
    storage.requests.clear()
    config = TrainingConfig(
        (manifest,), steps=4, sequences_per_step=6, learning_rate=0.1, checkpoint_every=1, eval_data=held_out
    )
    cache = Cache(tmp_path / "cache")
    for steps in (4, 5):  # the second goes on from the first one's checkpoint
        longer = replace(config, steps=steps, keep_checkpoints=2)
        train(storage, MemoryTracker(), MODEL, longer, "s3://models/books/run", work=tmp_path, cache=cache)
    compare("training", storage.requests)
