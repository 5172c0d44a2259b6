from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from packing.errors import ObjectNotFoundError, VerificationError
from packing.parallel import serial
from packing.tfrecord import encode_record, read_records
from packing.verify import Check, require, verify_dataset
from tests.builders import random_sizes, raw_shard
from tests.packing.forgery import Dataset, flip_a_bit, make_dataset, raw_shards, seal_manifest


@pytest.fixture(scope="module")
def sound() -> Dataset:
    return make_dataset(raw_shards())


@pytest.fixture
def packed(sound: Dataset) -> Dataset:
    return sound.copy()


def verify(dataset: Dataset, source: str | None = "/raw") -> list[Check]:
    return verify_dataset(dataset.storage, serial(dataset.storage), dataset.manifest_uri, source)


def remove_a_shard(dataset: Dataset) -> None:
    del dataset.storage.objects[dataset.manifest["shards"][-1]["uri"]]


def cut_off(dataset: Dataset) -> None:
    uri = dataset.manifest["shards"][0]["uri"]
    dataset.storage.objects[uri] = dataset.storage.objects[uri][:-3]


def drop_a_pack(dataset: Dataset) -> None:
    dataset.replace_packs(dataset.packs()[1:])
    redo_digests_alone(dataset)


def double_a_pack(dataset: Dataset) -> None:
    packs = dataset.packs()
    dataset.replace_packs([packs[0], *packs])
    redo_digests_alone(dataset)


def redo_digests_alone(dataset: Dataset) -> None:
    """A manifest that agrees with its shards but for the number of packs, sequences and tokens."""
    before = dataset.manifest
    seal_manifest(dataset)

    def edit(document: Any) -> None:
        for shard, stated in zip(document["shards"], before["shards"], strict=True):
            shard.update({name: stated[name] for name in ("packs", "sequences", "tokens")})
        document["totals"].update({name: before["totals"][name] for name in ("packs", "sequences", "tokens")})

    dataset.edit_manifest(edit)


def change_a_token(dataset: Dataset) -> None:
    packs = dataset.packs()
    packs[0][0].tokens[0] += 1
    dataset.replace_packs(packs)
    seal_manifest(dataset)


def edit_recipe(*path: Any, value: object) -> Callable[[Dataset], None]:
    def edit(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        assert document[path[-1]] != value
        document[path[-1]] = value

    return lambda dataset: dataset.edit_recipe(edit)


def edit_the_manifest(dataset: Dataset) -> None:
    dataset.edit_manifest(lambda document: document["shards"][0].update(sequences=1))


def replace_a_raw_shard(dataset: Dataset) -> None:
    dataset.storage.objects["/raw/c"] = raw_shard(random_sizes(25, seed=55), seed=55)


def spoil_a_raw_shard(dataset: Dataset) -> None:
    dataset.storage.objects["/raw/c"] = b"no tfrecord at all"


def repair_a_rejected_record(dataset: Dataset) -> None:
    """The raw record that was rejected is a good one now, as if it had been rejected without reason."""
    payloads = [payload for _, payload in read_records(raw_shards()["e"], "")]
    content = dataset.storage.objects["/raw/b"]
    rejected = dataset.recipe["rejected"][-1]
    dataset.storage.objects["/raw/b"] = content[: rejected["offset"]] + encode_record(payloads[0])


def pack_a_rejected_record(dataset: Dataset) -> None:
    """A sequence of another shard is listed as rejected, but packed."""
    offset = len(encode_record(next(read_records(raw_shards()["c"], ""))[1]))
    rejection = {"shard": "c", "record": 1, "offset": offset, "expected": "better", "found": "worse"}
    dataset.edit_recipe(lambda document: document["rejected"].append(rejection))


def tell_nothing_of_rejected_records(dataset: Dataset) -> None:
    dataset.edit_recipe(lambda document: document.update(rejected=[]))


def test_a_sound_dataset_passes_every_check(packed: Dataset) -> None:
    checks = verify(packed)
    require(checks)
    assert [check.name for check in checks] == [
        "packed shards",
        "recipe",
        "raw shards as listed",
        "every raw sequence exactly once",
    ]
    assert checks[3].detail == "120 sequences of 5 raw shards, 3 records rejected with reason"
    assert len(verify(packed, source=None)) == 2


@pytest.mark.parametrize(
    ("alter", "where"),
    [
        (flip_a_bit, "part-00000.tfrecord: expected .* bytes with SHA-256"),
        (flip_a_bit, r"part-00000.tfrecord: pack \d+ at offset \d+: expected"),
        (remove_a_shard, "no such object"),
        (cut_off, r"after \d+ packs: expected a whole record, found \d+ bytes"),
        (drop_a_pack, r"expected \(packs, sequences, tokens\)"),
        (double_a_pack, r"expected \(packs, sequences, tokens\)"),
        (change_a_token, "1 sequences missing, 1 too many; /raw/"),
        (edit_recipe("strategies", 0, "count", value=99), "recipe_id"),
        (edit_recipe("statistics", "lower_bound", value=1), r"statistics\.lower_bound: expected \d+, found 1"),
        (edit_recipe("statistics", "packing_efficiency", value=1.0), r"statistics\.packing_efficiency"),
        (edit_recipe("certificate", "best_pack_value", value=1), "best_pack_value"),
        (edit_recipe("certificate", "best_pack_value", value=None), "expected an integer of at least 1, found None"),
        (edit_recipe("parameters", "seed", value=9), "input_id: expected"),
        (edit_recipe("dataset", "fingerprint", value="0" * 64), r"dataset\.fingerprint: expected"),
        (edit_recipe("dataset", "shards", 0, "sha256", value="0" * 64), "fingerprint"),
        (edit_recipe("dataset", "shards", 0, "size", value=1), r"a\.gz: expected a size of 1 bytes, found"),
        (edit_recipe("histogram", "counts", value=[1] * 64), "recipe"),
        (edit_the_manifest, "totals"),
        (replace_a_raw_shard, "25 sequences missing, 25 too many"),
        (replace_a_raw_shard, "c: replaced, expected SHA-256"),
        (spoil_a_raw_shard, "/raw/c: after 0 records: expected CRC"),
        (repair_a_rejected_record, "/raw/b: record 22: a good sequence that the recipe lists as rejected"),
        (pack_a_rejected_record, "/raw/c: record 1: a good sequence that the recipe lists as rejected"),
        (tell_nothing_of_rejected_records, r"record 5 at offset \d+: .*; the recipe does not list it as rejected"),
    ],
)
def test_an_alteration_is_found_and_located(packed: Dataset, alter: Callable[[Dataset], object], where: str) -> None:
    before = dict(packed.storage.objects)
    alter(packed)
    assert packed.storage.objects != before
    with pytest.raises(VerificationError, match=where):
        require(verify(packed))


def test_a_damaged_pack_costs_no_other_its_place(packed: Dataset) -> None:
    """Only the sequences of the pack that cannot be read are missing."""
    flip_a_bit(packed)
    checks = {check.name: check for check in verify(packed)}
    missing = int(checks["every raw sequence exactly once"].detail.split()[0])
    assert 1 <= missing <= 3


def test_without_a_manifest_there_is_nothing_to_verify(packed: Dataset) -> None:
    with pytest.raises(ObjectNotFoundError):
        verify_dataset(packed.storage, serial(packed.storage), "/out/manifests/none.json")
