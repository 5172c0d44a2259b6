"""Every planted alteration is found, by the lines that should find it: careless ones, and ones with all digests redone."""

from __future__ import annotations

import copy
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packing.adapters import open_storage
from packing.audit import LINES, audit_dataset
from packing.errors import InputError, ObjectNotFoundError
from packing.parallel import process_pool, serial
from packing.pipeline import Stages, refresh
from packing.recipe import strategies_to_json
from packing.solvers import solve
from packing.tfrecord import encode_record, read_records
from packing.types import Histogram, Parameters
from packing.verify import require
from tests.builders import random_sizes, raw_shard
from tests.packing.forgery import (
    PARAMETERS,
    Dataset,
    bad_record,
    forge,
    large_shard,
    make_dataset,
    pass_off,
    point_to_manifest,
    proven_bound,
    raw_shards,
    seal_manifest,
)

WIKIPEDIA = Path(__file__).resolve().parents[3] / "shared" / "data" / "wikipedia"

MANIFEST, RECIPE, RAW, REJECTED = "manifest", "recipe", "raw shards as listed", "rejected records"
HISTOGRAM, PARTITIONS, STRATEGIES, BOUND = "histogram", "partitions", "strategies", "bound"
OBJECTS, PACKS, SEQUENCES, BYTES = "packed shards", "packs", "every raw sequence exactly once", "packed bytes made again"

NEED_MANIFEST = {OBJECTS, PACKS, SEQUENCES, BYTES}
NEED_RECIPE = {RAW, REJECTED, HISTOGRAM, PARTITIONS, STRATEGIES, BOUND, BYTES}

Alteration = Callable[[Dataset], object]


@pytest.fixture(scope="module")
def small() -> Dataset:
    return make_dataset(raw_shards())


@pytest.fixture(scope="module")
def divided() -> Dataset:
    parameters = Parameters(**{**vars(PARAMETERS), "partition_bytes": 4000})
    return make_dataset({"a": raw_shards()["a.gz"], "large": large_shard(), "z": raw_shards()["b"]}, parameters)


def failed_lines(dataset: Dataset) -> dict[str, str]:
    checks = audit_dataset(dataset.storage, serial(dataset.storage), dataset.manifest_uri, "/raw")
    assert [check.name for check in checks] == list(LINES)
    assert all(check.detail for check in checks)
    return {check.name: check.detail for check in checks if not check.passed}


def altered(dataset: Dataset, alter: Alteration) -> dict[str, str]:
    """The lines that fail after an alteration, which must have changed what is stored."""
    changed = dataset.copy()
    alter(changed)
    assert changed.storage.objects != dataset.storage.objects
    return failed_lines(changed)


def then(*steps: Alteration) -> Alteration:
    def alter(dataset: Dataset) -> None:
        for step in steps:
            step(dataset)

    return alter


def in_recipe(*path: Any, to: Callable[[Any], Any]) -> Callable[[Any], None]:
    """An edit of one value of a document."""

    def edit(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        before = copy.deepcopy(document[path[-1]])
        document[path[-1]] = to(document[path[-1]])
        assert document[path[-1]] != before

    return edit


def careless(edit: Callable[[Any], object]) -> Alteration:
    return lambda dataset: dataset.edit_recipe(edit)


def careful(edit: Callable[[Any], object]) -> Alteration:
    return lambda dataset: forge(dataset, edit)


def flip_a_bit(dataset: Dataset) -> None:
    uri = dataset.manifest["shards"][0]["uri"]
    content = bytearray(dataset.storage.objects[uri])
    content[len(content) // 2] ^= 4
    dataset.storage.objects[uri] = bytes(content)


def flip_a_bit_of_a_token(dataset: Dataset) -> None:
    """With the record's checksum right again."""
    payloads, packs = dataset.payloads(), dataset.packs()
    packs[3][0].tokens[0] ^= 4
    dataset.replace_packs([*payloads[:3], dataset.encode(packs[3]), *payloads[4:]])


def swap_two_sequences(dataset: Dataset) -> None:
    """Of equal length and with as many masked tokens, in different packs: every other figure stays as it was."""
    packs = dataset.packs(1)
    places = [(pack, slot) for pack, sequences in enumerate(packs) for slot in range(len(sequences))]
    one, other = next(
        (a, b)
        for a in places
        for b in places
        if a[0] < b[0] and len(packs[a[0]][a[1]].tokens) == len(packs[b[0]][b[1]].tokens)
    )
    packs[one[0]][one[1]], packs[other[0]][other[1]] = packs[other[0]][other[1]], packs[one[0]][one[1]]
    dataset.replace_packs([dataset.encode(pack) for pack in packs], 1)


def swap_two_packs(dataset: Dataset) -> None:
    first, second, *others = dataset.payloads()
    dataset.replace_packs([second, first, *others])


def remove_a_sequence(dataset: Dataset) -> None:
    packs = dataset.packs()
    pack = next(pack for pack in packs if len(pack) > 1)
    del pack[0]
    dataset.replace_packs([dataset.encode(pack) for pack in packs])


def double_a_sequence(dataset: Dataset) -> None:
    packs = dataset.packs()
    dataset.replace_packs([dataset.encode(pack) for pack in [packs[0][:1], *packs]])


def put_one_for_another(dataset: Dataset) -> None:
    """One sequence twice and another of its length not at all, so that all figures stay as they were."""
    packs = dataset.packs(1)
    places = [(pack, slot) for pack, sequences in enumerate(packs) for slot in range(len(sequences))]
    one, other = next(
        (a, b)
        for a in places
        for b in places
        if a < b
        and len(packs[a[0]][a[1]].tokens) == len(packs[b[0]][b[1]].tokens)
        and len(packs[a[0]][a[1]].masked_ids) == len(packs[b[0]][b[1]].masked_ids)
    )
    packs[one[0]][one[1]] = packs[other[0]][other[1]]
    dataset.replace_packs([dataset.encode(pack) for pack in packs], 1)


def without_record(content: bytes, record: int) -> bytes:
    payloads = [payload for _, payload in read_records(content, "")]
    del payloads[record]
    return b"".join(map(encode_record, payloads))


def made_of(change: Callable[[dict[str, bytes]], object]) -> Alteration:
    """A dataset of other raw data, with a recipe that claims to be of the true ones."""

    def alter(dataset: Dataset) -> None:
        others = raw_shards()
        change(others)
        other = make_dataset(others)
        pass_off(other, raw_shards())
        dataset.storage, dataset.manifest_uri = other.storage, other.manifest_uri

    return alter


def drop_a_raw_record(shards: dict[str, bytes]) -> None:
    shards["c"] = without_record(shards["c"], 7)


def double_a_raw_record(shards: dict[str, bytes]) -> None:
    _, payload = next(read_records(shards["c"], ""))
    shards["c"] += encode_record(payload)


def spoil_a_raw_record(shards: dict[str, bytes]) -> None:
    """A good sequence is rejected without reason, and nothing else is wrong."""
    records = [encode_record(payload) for _, payload in read_records(shards["c"], "")]
    sizes = [len(record) for record in records]
    spoilt = bad_record(0)
    offset = sum(sizes[:7])
    shards["c"] = shards["c"][:offset] + spoilt + shards["c"][offset + sizes[7] :]


def remove_object(number: int = 0) -> Alteration:
    def alter(dataset: Dataset) -> None:
        del dataset.storage.objects[dataset.manifest["shards"][number]["uri"]]

    return alter


def unlist_object(dataset: Dataset) -> None:
    dataset.edit_manifest(lambda document: document["shards"].pop(1))
    seal_manifest(dataset)


def double_entry(dataset: Dataset) -> None:
    dataset.edit_manifest(lambda document: document["shards"].append(document["shards"][0]))
    seal_manifest(dataset)


def swap_entries(dataset: Dataset) -> None:
    dataset.edit_manifest(lambda document: document["shards"].reverse())
    seal_manifest(dataset)


def copy_object(dataset: Dataset) -> None:
    """A packed shard under a second name that is listed, in place of the next one."""
    first, second = dataset.manifest["shards"][:2]
    dataset.storage.objects[second["uri"]] = dataset.storage.objects[first["uri"]]
    seal_manifest(dataset)


def move_a_figure(dataset: Dataset) -> None:
    """Totals stay right."""

    def edit(document: Any) -> None:
        document["shards"][0]["tokens"] -= 1
        document["shards"][1]["tokens"] += 1

    dataset.edit_manifest(edit)


def raw(change: Callable[[dict[str, bytes]], object]) -> Alteration:
    """A change of the raw shards after packing."""

    def alter(dataset: Dataset) -> None:
        shards = raw_shards()
        change(shards)
        for name in raw_shards():
            del dataset.storage.objects[f"/raw/{name}"]
        dataset.storage.objects.update({f"/raw/{name}": content for name, content in shards.items()})

    return alter


def other_tokens(shards: dict[str, bytes]) -> None:
    shards["c"] = raw_shard(random_sizes(25, seed=3), seed=33)


def other_compression(shards: dict[str, bytes]) -> None:
    shards["c"] = gzip.compress(shards["c"])


def unlist_raw_shard(recipe: Any) -> None:
    del recipe["dataset"]["shards"][2]


def list_raw_shard(recipe: Any) -> None:
    shard = {**recipe["dataset"]["shards"][-1], "name": "f", "uri": "/raw/f", "sequences": 0, "sha256": "0" * 64}
    recipe["dataset"]["shards"].append(shard)


def reject_in_recipe(recipe: Any) -> None:
    recipe["rejected"].insert(0, {"shard": "a.gz", "record": 3, "offset": 900, "expected": "better", "found": "worse"})


def lower_best_pack_value(recipe: Any) -> None:
    recipe["certificate"]["best_pack_value"] -= 2
    recipe["statistics"]["lower_bound"] = proven_bound(recipe)


def raise_a_price(recipe: Any) -> None:
    prices, counts = recipe["certificate"]["prices"], recipe["histogram"]["counts"]
    longest = int(np.flatnonzero(counts)[-1])
    prices[longest] += recipe["certificate"]["best_pack_value"]
    recipe["statistics"]["lower_bound"] = proven_bound(recipe)


def lower_the_bound(recipe: Any) -> None:
    recipe["statistics"]["lower_bound"] -= 1


def longer_packs(recipe: Any) -> None:
    recipe["parameters"]["max_sequence_length"] += 1
    recipe["histogram"]["counts"].append(0)
    prices = recipe["certificate"]["prices"]
    prices.append(prices[-1])


def worse_strategies(recipe: Any) -> None:
    """A pack of two sequences is taken apart, in the recipe alone."""
    strategies = recipe["partitions"][0]["strategies"]
    first = next(entry for entry in strategies if len(entry["lengths"]) > 1)
    alone, others = first["lengths"][:1], first["lengths"][1:]
    first["count"] -= 1
    for lengths in (alone, others):
        same = [entry for entry in strategies if entry["lengths"] == lengths]
        if same:
            same[0]["count"] += 1
        else:
            strategies.append({"lengths": lengths, "count": 1})
    strategies[:] = sorted((entry for entry in strategies if entry["count"]), key=lambda entry: entry["lengths"])


PLANTED: dict[str, tuple[Alteration, set[str]]] = {
    "a flipped bit": (flip_a_bit, {OBJECTS, PACKS, SEQUENCES}),
    "a flipped bit, manifest redone but for the figures": (
        then(flip_a_bit, lambda dataset: redo_digest(dataset)),
        {PACKS, SEQUENCES, BYTES},
    ),
    "a flipped bit of a token, checksum redone": (flip_a_bit_of_a_token, {OBJECTS, SEQUENCES}),
    "a flipped bit of a token, all redone": (then(flip_a_bit_of_a_token, seal_manifest), {SEQUENCES, BYTES}),
    "two swapped sequences": (swap_two_sequences, {OBJECTS}),
    "two swapped sequences, all redone": (then(swap_two_sequences, seal_manifest), {BYTES}),
    "two swapped packs, all redone": (then(swap_two_packs, seal_manifest), {BYTES}),
    "a missing sequence": (remove_a_sequence, {OBJECTS, PACKS, SEQUENCES}),
    "a missing sequence, manifest redone": (then(remove_a_sequence, seal_manifest), {MANIFEST, PACKS, SEQUENCES, BYTES}),
    "a missing sequence, all redone": (
        made_of(drop_a_raw_record),
        {HISTOGRAM, PARTITIONS, STRATEGIES, SEQUENCES, BYTES},
    ),
    "a doubled sequence": (double_a_sequence, {OBJECTS, PACKS, SEQUENCES}),
    "a doubled sequence, manifest redone": (then(double_a_sequence, seal_manifest), {MANIFEST, PACKS, SEQUENCES, BYTES}),
    "a doubled sequence, all redone": (
        made_of(double_a_raw_record),
        {HISTOGRAM, PARTITIONS, STRATEGIES, SEQUENCES, BYTES},
    ),
    "one sequence for another": (put_one_for_another, {OBJECTS, SEQUENCES}),
    "one sequence for another, all redone": (then(put_one_for_another, seal_manifest), {SEQUENCES, BYTES}),
    "a good record rejected": (careless(reject_in_recipe), {RECIPE, REJECTED, SEQUENCES}),
    "a good record rejected, all redone": (
        made_of(spoil_a_raw_record),
        {REJECTED, HISTOGRAM, PARTITIONS, STRATEGIES, SEQUENCES, BYTES},
    ),
    "a rejected record not told": (
        careful(lambda recipe: recipe["rejected"].pop()),
        {REJECTED, SEQUENCES},
    ),
    "an edited recipe: a count": (
        careless(in_recipe("strategies", 0, "count", to=lambda n: n + 1)),
        {MANIFEST, RECIPE},
    ),
    "an edited recipe: other strategies, all redone": (careful(worse_strategies), {PACKS, BYTES}),
    "an edited recipe: a figure": (
        careless(in_recipe("statistics", "packing_efficiency", to=lambda x: x / 2)),
        {RECIPE},
    ),
    "an edited recipe: no recipe": (
        careless(in_recipe("statistics", "packs", to=str)),
        {RECIPE} | NEED_RECIPE,
    ),
    "an edited manifest: a total": (
        lambda dataset: dataset.edit_manifest(in_recipe("totals", "packs", to=lambda n: n - 1)),
        {MANIFEST} | NEED_MANIFEST,
    ),
    "an edited manifest: figures": (move_a_figure, {MANIFEST, PACKS}),
    "an edited manifest: figures, pointer redone": (then(move_a_figure, point_to_manifest), {PACKS}),
    "an edited manifest: the order": (swap_entries, {MANIFEST}),
    "a replaced raw shard": (
        raw(other_tokens),
        {RAW, PARTITIONS, SEQUENCES, BYTES},
    ),
    "a replaced raw shard, recipe redone": (made_of(other_tokens), {SEQUENCES, BYTES}),
    "a raw shard compressed": (raw(other_compression), {RAW, PARTITIONS}),
    "a wrong bound": (careless(lower_the_bound), {RECIPE, BOUND}),
    "a wrong bound, all redone": (careful(lower_the_bound), {RECIPE, BOUND}),
    "a wrong bound: altered prices, all redone": (careful(raise_a_price), {RECIPE, BOUND}),
    "a wrong bound: best_pack_value lowered, all redone": (careful(lower_best_pack_value), {RECIPE, BOUND}),
    "a wrong parameter: seed": (
        careless(in_recipe("parameters", "seed", to=lambda n: n + 1)),
        {RECIPE, PARTITIONS, BYTES},
    ),
    "a wrong parameter: seed, all redone": (careful(in_recipe("parameters", "seed", to=lambda n: n + 1)), {BYTES}),
    "a wrong parameter: solver, all redone": (
        careful(in_recipe("parameters", "solver", to=lambda _: "spfhp")),
        {BYTES},
    ),
    "a wrong parameter: K": (
        careless(in_recipe("parameters", "max_sequences_per_pack", to=lambda n: n + 1)),
        {RECIPE, PARTITIONS, BYTES},
    ),
    "a wrong parameter: K, all redone": (
        careful(in_recipe("parameters", "max_sequences_per_pack", to=lambda n: n + 1)),
        {PACKS, SEQUENCES, BYTES},
    ),
    "a wrong parameter: L, all redone": (careful(longer_packs), {PACKS, SEQUENCES, BYTES}),
    "a wrong parameter: P, all redone": (
        careful(in_recipe("parameters", "max_predictions_per_sequence", to=lambda n: n + 1)),
        {PACKS, SEQUENCES, BYTES},
    ),
    "a wrong parameter: partition_bytes, all redone": (
        careful(in_recipe("parameters", "partition_bytes", to=lambda _: 2**20)),
        {PARTITIONS, STRATEGIES, BYTES},
    ),
    "a removed packed shard": (remove_object(), {OBJECTS, PACKS, SEQUENCES}),
    "a removed packed shard, not listed any more": (then(remove_object(1), unlist_object), {MANIFEST, PACKS, SEQUENCES, BYTES}),
    "an unlisted packed shard": (unlist_object, {MANIFEST, PACKS, SEQUENCES, BYTES}),
    "a strange object": (
        lambda dataset: dataset.storage.write(dataset.manifest["shards"][0]["uri"] + ".bak", b""),
        {OBJECTS},
    ),
    "a doubled entry": (double_entry, {MANIFEST} | NEED_MANIFEST),
    "a doubled packed shard, all redone": (copy_object, {MANIFEST, PACKS, SEQUENCES, BYTES}),
    "a removed raw shard": (
        raw(lambda shards: shards.pop("c")),
        {RAW, HISTOGRAM, PARTITIONS, STRATEGIES, SEQUENCES, BYTES},
    ),
    "a removed raw shard, not listed any more": (
        then(raw(lambda shards: shards.pop("c")), careful(unlist_raw_shard)),
        {RECIPE, HISTOGRAM, PARTITIONS, STRATEGIES, SEQUENCES, BYTES},
    ),
    "an additional raw shard": (
        raw(lambda shards: shards.update(f=raw_shard([(9, 1)], seed=77))),
        {RAW, HISTOGRAM, PARTITIONS, SEQUENCES},
    ),
    "an additional listed raw shard, all redone": (careful(list_raw_shard), {RAW, PARTITIONS}),
}


def redo_digest(dataset: Dataset) -> None:
    """Size and SHA-256 alone, as the packs of the shard cannot be counted any more."""
    import hashlib

    def edit(document: Any) -> None:
        content = dataset.storage.objects[document["shards"][0]["uri"]]
        document["shards"][0]["sha256"] = hashlib.sha256(content).hexdigest()

    dataset.edit_manifest(edit)
    point_to_manifest(dataset)


def test_a_sound_dataset_passes_every_line(small: Dataset) -> None:
    assert failed_lines(small) == {}
    assert len(small.recipe["rejected"]) == 3
    assert len(small.recipe["partitions"]) > 2


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_alteration_is_found_by_the_lines_that_should(small: Dataset, name: str) -> None:
    alter, lines = PLANTED[name]
    assert altered(small, alter).keys() == lines


def test_redoing_all_digests_of_a_sound_dataset_leaves_it_sound(small: Dataset) -> None:
    """The careful alterations are found for what they alter, not for how it is done."""
    forged = small.copy()
    forge(forged, lambda _: None)
    assert forged.manifest == small.manifest
    assert forged.recipe == small.recipe
    assert failed_lines(forged) == {}
