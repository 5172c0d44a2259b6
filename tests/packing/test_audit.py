"""Every planted alteration is found, by just the lines that should: careless ones, and ones with all digests redone."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packing import scan
from packing.audit import LINES, audit_dataset
from packing.errors import InputError, ObjectNotFoundError, VerificationError
from packing.example import RawSequence
from packing.jsonio import canonical
from packing.parallel import serial
from packing.recipe import strategies_from_json, strategies_to_json
from packing.tfrecord import encode_record, read_records
from packing.types import Parameters, merge_strategies
from packing.verify import require
from tests.builders import random_sizes, raw_shard
from tests.packing.altered_json import alterations
from tests.packing.forgery import (
    PARAMETERS,
    Dataset,
    bad_record,
    flip_a_bit,
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
OBJECTS, PACKS, SEQUENCES = "packed shards", "packs", "every raw sequence exactly once"
BYTES = "packed bytes made again"

NEED_MANIFEST = {OBJECTS, PACKS, SEQUENCES, BYTES}
NEED_RECIPE = {RAW, REJECTED, HISTOGRAM, PARTITIONS, STRATEGIES, BOUND, BYTES}

Alteration = Callable[[Dataset], object]


@pytest.fixture(scope="module")
def small() -> Dataset:
    return make_dataset(raw_shards())


def divided_dataset(filler: int) -> Dataset:
    """One of its shards is divided if `filler` makes it larger than a segment."""
    shards = {"a": raw_shards()["a.gz"], "large": large_shard(filler), "z": raw_shards()["b"]}
    return make_dataset(shards, replace(PARAMETERS, partition_bytes=4000), max_rejected=4)


@pytest.fixture
def divided(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setattr(scan, "SEGMENT_BYTES", 20_000)
    return divided_dataset(0)


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


def flip_a_bit_of_a_token(dataset: Dataset) -> None:
    """With the record's checksum right again."""
    packs = dataset.packs()
    packs[3][0].tokens[0] ^= 4
    dataset.replace_packs(packs)


def redo_digest(dataset: Dataset) -> None:
    """Size and SHA-256 alone, as the packs of the shard cannot be counted any more."""

    def edit(document: Any) -> None:
        content = dataset.storage.objects[document["shards"][0]["uri"]]
        document["shards"][0]["sha256"] = hashlib.sha256(content).hexdigest()

    dataset.edit_manifest(edit)
    point_to_manifest(dataset)


def alike(packs: list[list[RawSequence]]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Pack and slot of two sequences in different packs, of equal length and with as many masked tokens."""
    seen: dict[tuple[int, int], tuple[int, int]] = {}
    for number, pack in enumerate(packs):
        for slot, sequence in enumerate(pack):
            size = len(sequence.tokens), len(sequence.masked_ids)
            first = seen.setdefault(size, (number, slot))
            if first[0] != number:
                return first, (number, slot)
    raise AssertionError("no two sequences are alike")


def swap_two_sequences(dataset: Dataset) -> None:
    """Every figure stays as it was."""
    packs = dataset.packs(-1)
    (a, i), (b, j) = alike(packs)
    packs[a][i], packs[b][j] = packs[b][j], packs[a][i]
    dataset.replace_packs(packs, -1)


def put_one_for_another(dataset: Dataset) -> None:
    """One sequence twice and another not at all; every figure stays as it was."""
    packs = dataset.packs(-1)
    (a, i), (b, j) = alike(packs)
    packs[a][i] = packs[b][j]
    dataset.replace_packs(packs, -1)


def swap_two_packs(dataset: Dataset) -> None:
    first, second, *others = dataset.packs()
    dataset.replace_packs([second, first, *others])


def remove_a_sequence(dataset: Dataset) -> None:
    packs = dataset.packs()
    del next(pack for pack in packs if len(pack) > 1)[0]
    dataset.replace_packs(packs)


def double_a_sequence(dataset: Dataset) -> None:
    packs = dataset.packs()
    dataset.replace_packs([packs[0][:1], *packs])


def without_record(content: bytes, record: int) -> bytes:
    payloads = [payload for _, payload in read_records(content, "")]
    del payloads[record]
    return b"".join(map(encode_record, payloads))


def made_of(change: Callable[[dict[str, bytes]], object]) -> Alteration:
    """A dataset of other raw data, with a recipe that claims to be of the true ones."""

    def alter(dataset: Dataset) -> None:
        others = raw_shards()
        change(others)
        other = make_dataset(others, max_rejected=4)
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


def move_a_total(dataset: Dataset) -> None:
    """A figure and the total that it is part of."""

    def edit(document: Any) -> None:
        document["shards"][0]["sequences"] -= 1
        document["totals"]["sequences"] -= 1

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
    recipe["certificate"] = {"prices": list(range(1, 66)), "best_pack_value": 65}
    recipe["statistics"]["lower_bound"] = proven_bound(recipe)


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
        then(flip_a_bit, redo_digest),
        {PACKS, SEQUENCES, BYTES},
    ),
    "a flipped bit of a token, checksum redone": (flip_a_bit_of_a_token, {OBJECTS, SEQUENCES}),
    "a flipped bit of a token, all redone": (then(flip_a_bit_of_a_token, seal_manifest), {SEQUENCES, BYTES}),
    "two swapped sequences": (swap_two_sequences, {OBJECTS}),
    "two swapped sequences, all redone": (then(swap_two_sequences, seal_manifest), {BYTES}),
    "two swapped packs, all redone": (then(swap_two_packs, seal_manifest), {BYTES}),
    "a missing sequence": (remove_a_sequence, {OBJECTS, PACKS, SEQUENCES}),
    "a missing sequence, manifest redone": (
        then(remove_a_sequence, seal_manifest),
        {MANIFEST, PACKS, SEQUENCES, BYTES},
    ),
    "a missing sequence, all redone": (
        made_of(drop_a_raw_record),
        {HISTOGRAM, PARTITIONS, STRATEGIES, BOUND, SEQUENCES, BYTES},
    ),
    "a doubled sequence": (double_a_sequence, {OBJECTS, PACKS, SEQUENCES}),
    "a doubled sequence, manifest redone": (
        then(double_a_sequence, seal_manifest),
        {MANIFEST, PACKS, SEQUENCES, BYTES},
    ),
    "a doubled sequence, all redone": (
        made_of(double_a_raw_record),
        {HISTOGRAM, PARTITIONS, STRATEGIES, BOUND, SEQUENCES, BYTES},
    ),
    "one sequence for another": (put_one_for_another, {OBJECTS, SEQUENCES}),
    "one sequence for another, all redone": (then(put_one_for_another, seal_manifest), {SEQUENCES, BYTES}),
    "a good record rejected": (careless(reject_in_recipe), {RECIPE, REJECTED, SEQUENCES}),
    "a good record rejected, all redone": (
        made_of(spoil_a_raw_record),
        {REJECTED, HISTOGRAM, PARTITIONS, STRATEGIES, BOUND, SEQUENCES, BYTES},
    ),
    "a rejected record not told": (
        careful(lambda recipe: recipe["rejected"].pop()),
        {REJECTED, SEQUENCES},
    ),
    "an edited recipe: a count": (
        careless(in_recipe("strategies", 0, "count", to=lambda n: n + 1)),
        {RECIPE},
    ),
    "an edited recipe: other strategies, all redone": (careful(worse_strategies), {MANIFEST, PACKS, BYTES}),
    "an edited recipe: a figure": (
        careless(in_recipe("statistics", "packing_efficiency", to=lambda x: x / 2)),
        {RECIPE},
    ),
    "an edited recipe: no recipe": (
        careless(in_recipe("statistics", "packs", to=str)),
        {RECIPE, SEQUENCES} | NEED_RECIPE,
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
    "a removed packed shard, not listed any more": (
        then(remove_object(1), unlist_object),
        {MANIFEST, PACKS, SEQUENCES, BYTES},
    ),
    "an unlisted packed shard": (unlist_object, {MANIFEST, PACKS, SEQUENCES, BYTES}),
    "a strange object": (
        lambda dataset: dataset.storage.write(dataset.manifest["shards"][0]["uri"] + ".bak", b""),
        {OBJECTS},
    ),
    "a doubled entry": (double_entry, {MANIFEST} | NEED_MANIFEST),
    "a doubled packed shard, all redone": (copy_object, {MANIFEST, PACKS, SEQUENCES, BYTES}),
    "a removed raw shard": (
        raw(lambda shards: shards.pop("c")),
        {RAW, HISTOGRAM, PARTITIONS, STRATEGIES, BOUND, SEQUENCES, BYTES},
    ),
    "a removed raw shard, not listed any more": (
        then(raw(lambda shards: shards.pop("c")), careful(unlist_raw_shard)),
        {RECIPE, HISTOGRAM, PARTITIONS, STRATEGIES, BOUND, SEQUENCES, BYTES},
    ),
    "an additional raw shard": (
        raw(lambda shards: shards.update(f=raw_shard([(9, 1)], seed=77))),
        {RAW, HISTOGRAM, PARTITIONS, STRATEGIES, SEQUENCES, BYTES},
    ),
    "an additional listed raw shard, all redone": (careful(list_raw_shard), {RAW, PARTITIONS}),
}


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


HARMLESS = {
    r"producer\.\w+": "who made a recipe is known to nobody else",
    r"statistics\.(solve_seconds|solve_iterations)": "how long a search took leaves no trace",
    r"statistics\.lower_bound_method": "another method could have found the same proof",
    r"statistics\.time_limited": "the search for the global bound can have been limited too",
    r"certificate\.(prices|best_pack_value).*": "another proof of the same bound is as good",
    r"dataset\.shards\.\d+\.etag": "raw shards may be stored anew, with the same content",
    r"rejected\.\d+\.(expected|found)": "wording",
}


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_alteration_anywhere_in_a_recipe_is_found(small: Dataset, data: st.DataObject) -> None:
    path, document = data.draw(alterations(small.recipe))
    changed = small.copy()
    changed.storage.objects[changed.recipe_uri] = json.dumps(document).encode()
    if not failed_lines(changed) and canonical(document) != canonical(small.recipe):
        assert any(re.fullmatch(pattern, path) for pattern in HARMLESS), f"not found: {path}"


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_alteration_anywhere_in_a_manifest_is_found(small: Dataset, data: st.DataObject) -> None:
    """Even without the pointer that states its digest."""
    path, document = data.draw(alterations(small.manifest))
    changed = small.copy()
    changed.storage.objects[changed.manifest_uri] = json.dumps(document).encode()
    if data.draw(st.booleans()):
        del changed.storage.objects[f"/out/index/inputs/{small.recipe['input_id']}.json"]
    assert failed_lines(changed) or canonical(document) == canonical(small.manifest), f"not found: {path}"


def edit_the_ranges(recipe: Any) -> None:
    first, second = (entry for entry in recipe["partitions"] if entry["records"])
    first["records"][1] -= 1
    second["records"][0] -= 1


def join_the_ranges(recipe: Any) -> None:
    """The whole large shard as one partition, with the strategies of both of its parts."""
    first, second = (entry for entry in recipe["partitions"] if entry["records"])
    recipe["partitions"].remove(second)
    both = merge_strategies(strategies_from_json([*first["strategies"], *second["strategies"]]))
    first.update(records=None, strategies=strategies_to_json(both), sequences=first["sequences"] + second["sequences"])


def test_a_sound_dataset_with_a_divided_shard_passes_every_line(divided: Dataset) -> None:
    ranges = [entry["records"] for entry in divided.recipe["partitions"] if entry["records"]]
    assert len(ranges) == 2
    assert ranges[0][0] == 0
    assert ranges[0][1] == ranges[1][0]
    assert ranges[1][1] == 61
    assert failed_lines(divided) == {}


@pytest.mark.slow
def test_a_shard_of_many_megabytes_is_divided_and_passes_every_line() -> None:
    dataset = divided_dataset(700_000)
    assert len(dataset.storage.objects["/raw/large"]) > scan.SEGMENT_BYTES
    assert [entry["records"] is None for entry in dataset.recipe["partitions"]] == [True, False, False, True]
    assert failed_lines(dataset) == {}


@pytest.mark.parametrize(
    ("alter", "lines"),
    [
        (then(swap_two_sequences, seal_manifest), {BYTES}),
        (careful(edit_the_ranges), {RECIPE, PARTITIONS, STRATEGIES, BYTES}),
        (careful(join_the_ranges), {MANIFEST, PARTITIONS, STRATEGIES, PACKS, BYTES}),
    ],
)
def test_an_alteration_of_a_divided_shard_is_found(divided: Dataset, alter: Alteration, lines: set[str]) -> None:
    assert altered(divided, alter).keys() == lines


@pytest.mark.parametrize(
    ("change", "lines", "words"),
    [
        (lambda shards: shards.update(c=shards["c"][:-3]), {RAW, REJECTED, HISTOGRAM}, "a whole record"),
        (lambda shards: shards.update({"a.gz": shards["a.gz"][:-9]}), {RAW, REJECTED}, "a damaged one (it ends early)"),
        (lambda shards: shards.update(e=b"no tfrecord at all"), {RAW, REJECTED, HISTOGRAM}, "not a TFRecord"),
    ],
)
def test_a_raw_shard_that_cannot_be_read_is_a_finding(
    small: Dataset, change: Callable[[dict[str, bytes]], object], lines: set[str], words: str
) -> None:
    failed = altered(small, raw(change))
    assert lines | {PARTITIONS, SEQUENCES, BYTES} <= failed.keys()
    assert words in failed[REJECTED]
    assert words in failed[PARTITIONS]


def test_what_is_missing_is_told_and_the_other_lines_go_on(small: Dataset) -> None:
    failed = altered(small, lambda dataset: dataset.storage.objects.pop(dataset.recipe_uri))
    assert "no such object" in failed[RECIPE]
    assert all(failed[name] == "not checked, as the recipe cannot be read" for name in NEED_RECIPE)
    assert not {MANIFEST, OBJECTS, PACKS} & failed.keys()


def test_without_a_manifest_or_raw_shards_there_is_nothing_to_audit(small: Dataset) -> None:
    with pytest.raises(ObjectNotFoundError, match="no such object"):
        audit_dataset(small.storage, serial(small.storage), "/out/manifests/none.json", "/raw")
    with pytest.raises(InputError, match="found none"):
        audit_dataset(small.storage, serial(small.storage), small.manifest_uri, "/nowhere")


def test_raw_shards_elsewhere_with_the_same_content_are_the_same(small: Dataset) -> None:
    moved = small.copy()
    for name in raw_shards():
        moved.storage.objects[f"/moved/{name}"] = moved.storage.objects.pop(f"/raw/{name}")
    checks = audit_dataset(moved.storage, serial(moved.storage), moved.manifest_uri, "/moved")
    require(checks, "audited")
    assert "5 of them stored anew since" in checks[2].detail


def test_a_raw_shard_that_came_after_the_refresh_is_told_and_fails_nothing(small: Dataset) -> None:
    """One that was there, and that the recipe does not list, was left out."""
    changed = small.copy()
    changed.storage.objects["/raw/later"] = raw_shards()["c"]

    def audited(listed: list[str] | None) -> dict[str, str]:
        checks = audit_dataset(changed.storage, serial(changed.storage), changed.manifest_uri, "/raw", listed)
        return {check.name: check.detail for check in checks if not check.passed or "later" in check.detail}

    there = list(raw_shards())
    assert audited(there)[RAW].endswith("; 1 more came after the refresh had listed them and are not in it: later")
    assert list(audited(there)) == [RAW]
    for left_out in ([*there, "later"], None):
        found = audited(left_out)
        assert found.keys() >= {RAW, HISTOGRAM, PARTITIONS, SEQUENCES}
        assert found[RAW].startswith("later: the recipe does not list it; it came later, or was left out")
    with pytest.raises(InputError, match="the 1 raw shards that the refresh listed, found none"):
        audited(["gone"])


def test_a_failed_audit_is_an_error_with_all_lines(small: Dataset) -> None:
    changed = small.copy()
    flip_a_bit(changed)
    checks = audit_dataset(changed.storage, serial(changed.storage), changed.manifest_uri, "/raw")
    with pytest.raises(VerificationError, match=f"^{OBJECTS}: .*; {PACKS}: ") as caught:
        require(checks, "audited")
    assert caught.value.details["audited"] is False
    assert [check["name"] for check in caught.value.details["checks"]] == list(LINES)


@pytest.fixture(scope="module")
def wikipedia() -> Dataset:
    return make_dataset({path.name: path.read_bytes() for path in WIKIPEDIA.iterdir()}, Parameters(), max_rejected=0)


def put_another_shard_in_place(dataset: Dataset) -> None:
    first, second, *_ = (uri for uri in dataset.storage.objects if uri.startswith("/raw/"))
    dataset.storage.objects[first] = dataset.storage.objects[second]


@pytest.mark.exhaustive
@pytest.mark.skipif(not WIKIPEDIA.is_dir(), reason="the Wikipedia sample is not here")
@pytest.mark.parametrize(
    ("alter", "lines"),
    [
        (flip_a_bit, {OBJECTS, PACKS, SEQUENCES}),
        (then(swap_two_sequences, seal_manifest), {BYTES}),
        (then(remove_a_sequence, seal_manifest), {MANIFEST, PACKS, SEQUENCES, BYTES}),
        (then(double_a_sequence, seal_manifest), {MANIFEST, PACKS, SEQUENCES, BYTES}),
        (careful(worse_strategies), {MANIFEST, PACKS, BYTES}),
        (then(move_a_total, point_to_manifest), {MANIFEST, PACKS}),
        (put_another_shard_in_place, {RAW, HISTOGRAM, PARTITIONS, STRATEGIES, BOUND, SEQUENCES, BYTES}),
        (careful(raise_a_price), {RECIPE, BOUND}),
        (careful(in_recipe("parameters", "seed", to=lambda n: n + 1)), {BYTES}),
        (remove_object(), {OBJECTS, PACKS, SEQUENCES}),
    ],
)
def test_ten_alterations_of_the_wikipedia_sample_are_found(
    wikipedia: Dataset, alter: Alteration, lines: set[str]
) -> None:
    assert altered(wikipedia, alter).keys() == lines


@pytest.mark.slow
@pytest.mark.skipif(not WIKIPEDIA.is_dir(), reason="the Wikipedia sample is not here")
def test_the_wikipedia_sample_passes_every_line(wikipedia: Dataset) -> None:
    assert failed_lines(wikipedia) == {}
