"""The policies allow what a stage asks of the store, and nothing that it does not ask."""

from __future__ import annotations

import json
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from packing.parallel import serial
from packing.pipeline import refresh
from packing.ports import MemoryStorage, MemoryTracker
from packing.types import Parameters
from tests.builders import random_sizes, raw_shard, stages_of, store_with
from tests.docker.images import DOCKER

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
    condition = statement.get("Condition", {}).get("StringLikeIfExists", {}).get("s3:prefix", "*")
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
            # A bucket for lists, keys for the rest.
            assert ("/" in statement["Resource"]) == ("s3:ListBucket" not in statement["Action"])


def test_packing_asks_for_what_its_policy_allows() -> None:
    shards = {f"train/part-{i}": raw_shard(random_sizes(30, seed=i), seed=i) for i in range(4)}
    storage = store_with(shards, "s3://raw/books")
    parameters = Parameters(max_sequence_length=64, max_predictions_per_sequence=10, partition_bytes=20_000)
    for _ in range(2):
        refresh(storage, stages_of(serial(storage)), "s3://raw/books/train", "s3://packed/books", parameters)
    compare("packing", storage.requests)


def test_a_policy_that_is_too_narrow_or_too_wide_is_noticed() -> None:
    with pytest.raises(AssertionError, match="raw/books/shard"):
        compare("packing", [("write", "s3://raw/books/shard")])
    with pytest.raises(AssertionError, match="KeepPacked"):
        compare("packing", [("read", "s3://packed/books/index/shard")])


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
