"""A small packed dataset, and ways to alter it: carelessly, or so carefully that all digests agree again."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from packing.example import (
    RawSequence,
    assemble_pack,
    decode_example,
    encode_example,
    read_pack,
)
from packing.in_memory import MemoryStorage
from packing.jsonio import digest, pretty
from packing.manifest import manifest_to_json
from packing.parallel import serial
from packing.pipeline import Stages, refresh
from packing.recipe import (
    dataset_input_id,
    derived_statistics,
    fingerprint_of,
    partition_input_id,
    recipe_from_json,
    strategies_from_json,
    strategies_to_json,
)
from packing.tfrecord import encode_record, read_records
from packing.types import Histogram, Manifest, PackedShard, Parameters, Partition, merge_strategies
from tests.builders import random_sizes, raw_example, raw_features, raw_shard

PARAMETERS = Parameters(max_sequence_length=64, max_predictions_per_sequence=10, partition_bytes=6000)


@dataclass
class Dataset:
    """A packed dataset in memory, by its manifest."""

    storage: MemoryStorage
    manifest_uri: str

    def copy(self) -> Dataset:
        storage = MemoryStorage()
        storage.objects = dict(self.storage.objects)
        return Dataset(storage, self.manifest_uri)

    @property
    def manifest(self) -> Any:
        return json.loads(self.storage.objects[self.manifest_uri])

    @property
    def recipe_uri(self) -> str:
        return self.manifest_uri.replace("/manifests/", "/recipes/")

    @property
    def recipe(self) -> Any:
        return json.loads(self.storage.objects[self.recipe_uri])

    def edit_recipe(self, edit: Callable[[Any], object]) -> None:
        document = self.recipe
        edit(document)
        self.storage.objects[self.recipe_uri] = pretty(document)

    def edit_manifest(self, edit: Callable[[Any], object]) -> None:
        document = self.manifest
        edit(document)
        self.storage.objects[self.manifest_uri] = pretty(document)

    def packs(self, number: int = 0) -> list[list[RawSequence]]:
        """The packs of a packed shard."""
        uri, shape = self.manifest["shards"][number]["uri"], shape_of(self.recipe)
        return [read_pack(payload, **shape) for _, payload in read_records(self.storage.objects[uri], uri)]

    def replace_packs(self, packs: Sequence[Sequence[RawSequence]], number: int = 0) -> None:
        """Put other packs into a packed shard, each well-formed."""
        uri, shape = self.manifest["shards"][number]["uri"], shape_of(self.recipe)
        content = b"".join(encode_record(encode_example(assemble_pack(pack, **shape))) for pack in packs)
        self.storage.objects[uri] = content


def shape_of(recipe: Any) -> dict[str, int]:
    names = ("max_sequence_length", "max_sequences_per_pack", "max_predictions_per_sequence")
    return {name: recipe["parameters"][name] for name in names}


def bad_record(number: int) -> bytes:
    features = raw_features(20, 3, seed=5000 + number)
    features["segment_ids"][3] = 7
    return encode_record(encode_example(features))


def damaged_record() -> bytes:
    record = bytearray(encode_record(raw_example(9, 1, seed=6000)))
    record[-1] ^= 1
    return bytes(record)


def raw_shards() -> dict[str, bytes]:
    """Plain, GZIP and ZLIB shards; `b` has three records that cannot be packed, the last one too long."""
    return dict(_raw_shards())


@cache
def _raw_shards() -> dict[str, bytes]:
    good = [encode_record(raw_example(*size, seed=200 + i)) for i, size in enumerate(random_sizes(20, seed=2))]
    bad = [bad_record(0), damaged_record(), encode_record(raw_example(70, 3, slots=80, seed=7000))]
    return {
        "a.gz": raw_shard(random_sizes(20, seed=1), seed=1, compression="gzip"),
        "b": b"".join([*good[:5], bad[0], *good[5:9], bad[1], *good[9:], bad[2]]),
        "c": raw_shard(random_sizes(25, seed=3), seed=3),
        "d.zz": raw_shard(random_sizes(30, seed=4), seed=4, compression="zlib"),
        "e": raw_shard(random_sizes(25, seed=5), seed=5),
    }


def large_shard(filler: int) -> bytes:
    """60 sequences and a bad record; each sequence has a feature of `filler` bytes that is not packed."""
    unused = np.zeros(filler, dtype=np.int64)
    records = [
        encode_record(encode_example({**raw_features(length, masked, seed=900 + i), "unused": unused}))
        for i, (length, masked) in enumerate(random_sizes(60, seed=9))
    ]
    return b"".join([*records[:20], bad_record(1), *records[20:]])


def make_dataset(shards: dict[str, bytes], parameters: Parameters = PARAMETERS, max_rejected: int = 3) -> Dataset:
    storage = MemoryStorage()
    for name, content in shards.items():
        storage.write(f"/raw/{name}", content)
    stages = Stages(serial(storage), serial(storage))
    outcome = refresh(storage, stages, "/raw", "/out", parameters, max_rejected=max_rejected)
    return Dataset(storage, outcome.manifest_uri)


def seal_manifest(dataset: Dataset) -> None:
    """Make a manifest, and the pointer to it, agree with its packed shards as they are now."""
    shards = [_counted(dataset.storage, PackedShard(**shard)) for shard in dataset.manifest["shards"]]
    recipe = dataset.recipe
    manifest = Manifest(recipe["recipe_id"], **shape_of(recipe), shards=tuple(shards))
    dataset.storage.objects[dataset.manifest_uri] = pretty(manifest_to_json(manifest))
    point_to_manifest(dataset)


def point_to_manifest(dataset: Dataset) -> None:
    recipe, manifest = dataset.recipe, dataset.manifest
    uri = f"/out/index/inputs/{recipe['input_id']}.json"
    pointer = {"recipe_id": recipe["recipe_id"], "manifest_digest": digest(manifest), "etags": {}}
    dataset.storage.objects[uri] = pretty({"document": pointer, "sha256": digest(pointer)})


def _counted(storage: MemoryStorage, shard: PackedShard) -> PackedShard:
    content = storage.objects[shard.uri]
    masks = [decode_example(payload)["input_mask"] for _, payload in read_records(content, shard.uri)]
    return PackedShard(
        uri=shard.uri,
        bytes=len(content),
        packs=len(masks),
        sequences=sum(int(mask.max()) for mask in masks),
        tokens=sum(int(np.count_nonzero(mask)) for mask in masks),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def forge(dataset: Dataset, edit: Callable[[Any], object]) -> None:
    """Edit the recipe, then make all digests, figures, names and the manifest agree with it again."""
    recipe, shards = dataset.recipe, dataset.manifest["shards"]
    del dataset.storage.objects[dataset.recipe_uri], dataset.storage.objects[dataset.manifest_uri]
    edit(recipe)
    moved = _seal_recipe(recipe)
    for shard in shards:
        content = dataset.storage.objects.pop(shard["uri"])
        folder = shard["uri"].split("/")[-2]
        shard["uri"] = shard["uri"].replace(folder, moved.get(folder, folder))
        dataset.storage.objects[shard["uri"]] = content
    dataset.manifest_uri = f"/out/manifests/{recipe['recipe_id']}.json"
    dataset.storage.objects[dataset.recipe_uri] = pretty(recipe)
    dataset.storage.objects[dataset.manifest_uri] = pretty({"shards": shards})
    seal_manifest(dataset)


def _seal_recipe(recipe: Any) -> dict[str, str]:
    """Derive again what can be derived of a recipe; gives the new digest of each partition by its old one."""
    parameters = Parameters(**recipe["parameters"])
    contents = {shard["name"]: shard["sha256"] for shard in recipe["dataset"]["shards"]}
    recipe["dataset"]["fingerprint"] = fingerprint_of(contents)
    recipe["input_id"] = dataset_input_id(parameters, contents)
    moved = {}
    for entry in recipe["partitions"]:
        own = {name: contents.get(name, "0" * 64) for name in entry["shards"]}
        entry["input_id"] = partition_input_id(parameters, own, entry["records"] and tuple(entry["records"]))
        old, new = entry["digest"], digest({"input_id": entry["input_id"], "strategies": entry["strategies"]})
        entry["digest"] = moved[old] = new
    partitions = [_partition(entry) for entry in recipe["partitions"]]
    merged = merge_strategies(strategy for partition in partitions for strategy in partition.strategies)
    recipe["strategies"] = strategies_to_json(merged)
    recipe["recipe_id"] = digest({name: recipe[name] for name in ("input_id", "strategies", "partitions")})
    recipe["histogram"]["max_sequence_length"] = len(recipe["histogram"]["counts"])
    histogram = Histogram(tuple(recipe["histogram"]["counts"]))
    bound, rejected = recipe["statistics"]["lower_bound"], len(recipe["rejected"])
    recipe["statistics"].update(derived_statistics(parameters, histogram, partitions, bound, rejected))
    assert recipe_from_json(recipe, "/forged").recipe_id == recipe["recipe_id"]
    return moved


def _partition(entry: Any) -> Partition:
    return Partition(
        **{**entry, "shards": tuple(entry["shards"]), "strategies": strategies_from_json(entry["strategies"])}
    )


def proven_bound(recipe: Any) -> int:
    """What a certificate would prove if it were right."""
    prices, best = recipe["certificate"]["prices"], recipe["certificate"]["best_pack_value"]
    worth = sum(price * count for price, count in zip(prices, recipe["histogram"]["counts"], strict=True))
    return math.ceil(worth / best)


def pass_off(dataset: Dataset, shards: dict[str, bytes]) -> None:
    """Let the recipe of other raw data claim to be that of these raw shards, and put these in their place."""

    def edit(recipe: Any) -> None:
        for shard in recipe["dataset"]["shards"]:
            content = shards[shard["name"]]
            shard["size"], shard["sha256"] = len(content), hashlib.sha256(content).hexdigest()

    forge(dataset, edit)
    for name, content in shards.items():
        dataset.storage.objects[f"/raw/{name}"] = content


def flip_a_bit(dataset: Dataset) -> None:
    uri = dataset.manifest["shards"][0]["uri"]
    content = bytearray(dataset.storage.objects[uri])
    content[len(content) // 2] ^= 4
    dataset.storage.objects[uri] = bytes(content)
