from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

import pytest

from packing.errors import VerificationError
from packing.example import assemble_pack, encode_example, read_pack
from packing.jsonio import pretty
from packing.parallel import serial
from packing.pipeline import Refresh, refresh
from packing.ports import MemoryStorage
from packing.tfrecord import encode_record, read_records
from packing.types import Parameters
from packing.verify import require, verify_dataset
from tests.builders import random_sizes, raw_shard, store_with

SMALL = Parameters(max_sequence_length=64, max_predictions_per_sequence=10, partition_bytes=40_000)
SHAPE = {"max_sequence_length": 64, "max_sequences_per_pack": 3, "max_predictions_per_sequence": 10}


@pytest.fixture
def packed() -> tuple[MemoryStorage, Refresh]:
    storage = store_with({f"part-{i}": raw_shard(random_sizes(30, seed=i), seed=i) for i in range(6)})
    return storage, refresh(storage, serial(storage), "/raw", "/out", SMALL)


def replace_shard(storage: MemoryStorage, outcome: Refresh, payloads: list[bytes]) -> None:
    """Store other packs in the first shard and let the manifest agree with its size and digest."""
    import hashlib

    shard = outcome.manifest.shards[0]
    content = b"".join(map(encode_record, payloads))
    storage.objects[shard.uri] = content
    document = json.loads(storage.objects[outcome.manifest_uri])
    document["shards"][0] = {**asdict(shard), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    document["totals"]["bytes"] += len(content) - shard.bytes
    storage.objects[outcome.manifest_uri] = pretty(document)


def payloads_of(storage: MemoryStorage, outcome: Refresh) -> list[bytes]:
    uri = outcome.manifest.shards[0].uri
    return [payload for _, payload in read_records(storage.objects[uri], uri)]


def flip_a_bit(storage: MemoryStorage, outcome: Refresh) -> None:
    content = bytearray(storage.objects[outcome.manifest.shards[0].uri])
    content[len(content) // 2] ^= 4
    storage.objects[outcome.manifest.shards[0].uri] = bytes(content)


def remove_a_shard(storage: MemoryStorage, outcome: Refresh) -> None:
    del storage.objects[outcome.manifest.shards[-1].uri]


def drop_a_pack(storage: MemoryStorage, outcome: Refresh) -> None:
    replace_shard(storage, outcome, payloads_of(storage, outcome)[1:])


def double_a_pack(storage: MemoryStorage, outcome: Refresh) -> None:
    payloads = payloads_of(storage, outcome)
    replace_shard(storage, outcome, [payloads[0], *payloads])


def change_a_token(storage: MemoryStorage, outcome: Refresh) -> None:
    first, *others = payloads_of(storage, outcome)
    sequences = read_pack(first, **SHAPE)
    sequences[0].tokens[0] += 1
    replace_shard(storage, outcome, [encode_example(assemble_pack(sequences, **SHAPE)), *others])


def edit_the_recipe(storage: MemoryStorage, outcome: Refresh) -> None:
    uri = f"/out/recipes/{outcome.recipe.recipe_id}.json"
    document = json.loads(storage.objects[uri])
    document["strategies"][0]["count"] += 1
    storage.objects[uri] = pretty(document)


def edit_recipe_field(*path: str, value: object) -> Callable[[MemoryStorage, Refresh], None]:
    """Set one field of the stored recipe that its `recipe_id` does not cover."""

    def alter(storage: MemoryStorage, outcome: Refresh) -> None:
        uri = f"/out/recipes/{outcome.recipe.recipe_id}.json"
        document = json.loads(storage.objects[uri])
        field = document
        for name in path[:-1]:
            field = field[name]
        assert field[path[-1]] != value
        field[path[-1]] = value
        storage.objects[uri] = pretty(document)

    return alter


def edit_a_raw_digest(storage: MemoryStorage, outcome: Refresh) -> None:
    uri = f"/out/recipes/{outcome.recipe.recipe_id}.json"
    document = json.loads(storage.objects[uri])
    document["dataset"]["shards"][0]["sha256"] = "0" * 64
    storage.objects[uri] = pretty(document)


def edit_the_manifest(storage: MemoryStorage, outcome: Refresh) -> None:
    document = json.loads(storage.objects[outcome.manifest_uri])
    document["shards"][0]["sequences"] -= 1
    storage.objects[outcome.manifest_uri] = pretty(document)


def replace_a_raw_shard(storage: MemoryStorage, outcome: Refresh) -> None:
    assert outcome.manifest.sequences
    storage.objects["/raw/part-2"] = raw_shard(random_sizes(30, seed=55), seed=55)


def test_a_sound_dataset_passes_every_check(packed: tuple[MemoryStorage, Refresh]) -> None:
    storage, outcome = packed
    checks = verify_dataset(storage, serial(storage), outcome.manifest_uri, "/raw")
    require(checks)
    assert [check.name for check in checks] == [
        "packed shards",
        "recipe",
        "raw shards as listed",
        "every raw sequence exactly once",
    ]
    assert len(verify_dataset(storage, serial(storage), outcome.manifest_uri)) == 2


@pytest.mark.parametrize(
    ("alter", "where"),
    [
        (flip_a_bit, "part-00000.tfrecord: expected .* bytes with SHA-256"),
        (remove_a_shard, "no such object"),
        (drop_a_pack, r"expected \(packs, sequences, tokens\)"),
        (double_a_pack, r"expected \(packs, sequences, tokens\)"),
        (change_a_token, "1 sequences missing, 1 too many; /raw/part-"),
        (edit_the_recipe, "recipe_id"),
        (edit_recipe_field("statistics", "lower_bound", value=1), r"statistics\.lower_bound: expected \d+, found 1"),
        (edit_recipe_field("statistics", "packing_efficiency", value=1.0), r"statistics\.packing_efficiency"),
        (edit_recipe_field("certificate", "best_pack_value", value=1), "best_pack_value"),
        (edit_recipe_field("certificate", "best_pack_value", value=None), "a field has a type or value that cannot be"),
        (edit_recipe_field("parameters", "seed", value=9), "input_id: expected"),
        (edit_recipe_field("dataset", "fingerprint", value="0" * 64), r"dataset\.fingerprint: expected"),
        (edit_recipe_field("histogram", "counts", value=[1] * 64), "recipe"),
        (edit_a_raw_digest, "fingerprint"),
        (edit_the_manifest, "totals"),
        (replace_a_raw_shard, "30 sequences missing, 30 too many"),
    ],
)
def test_an_alteration_is_found_and_located(
    packed: tuple[MemoryStorage, Refresh], alter: Callable[[MemoryStorage, Refresh], None], where: str
) -> None:
    storage, outcome = packed
    alter(storage, outcome)
    with pytest.raises(VerificationError, match=where):
        require(verify_dataset(storage, serial(storage), outcome.manifest_uri, "/raw"))
