"""A recipe altered anywhere is found out, or means the same; what only the raw data can tell is listed."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packing.in_memory import MemoryStorage
from packing.jsonio import canonical, digest
from packing.recipe import (
    dataset_input_id,
    histogram_input_id,
    make_partition,
    make_recipe,
    partition_input_id,
    recipe_bytes,
    recipe_from_json,
    recipe_to_json,
)
from packing.recipe_checks import examine_recipe, recipe_problems
from packing.recipe_shape import LOWER_BOUND_METHODS, document_problems
from packing.solvers import solve
from packing.types import (
    Histogram,
    Parameters,
    Partition,
    RawShard,
    Recipe,
    Rejection,
    Segment,
    ShardSummary,
    merge_strategies,
)
from tests.packing.altered_json import alterations, at

PARAMETERS = Parameters(max_sequence_length=16, max_predictions_per_sequence=4, partition_bytes=1000)

NOT_TOLD_BY_A_RECIPE = {
    r"producer\.\w+": "who made a recipe is known to nobody else",
    r"statistics\.(solve_seconds|solve_iterations)": "how long a search took leaves no trace",
    r"statistics\.lower_bound_method": "another method could have found the same proof",
    r"statistics\.time_limited": "the search for the global bound can have been limited too",
    r"certificate\.(prices|best_pack_value).*": "another proof of the same bound is as good",
    r"dataset\.shards\.\d+\.(size|etag)": "of the store; audit compares sizes, and contents by SHA-256",
    r"rejected\.\d+\.(record|offset)": "of the raw data; audit derives them again",
    r"rejected\.\d+\.(expected|found)": "wording; audit derives again that the record is no good",
}


def summary(
    name: str, lengths: dict[int, int], rejected: tuple[int, ...] = (), records: int | None = None
) -> ShardSummary:
    count = sum(lengths.values()) + len(rejected) if records is None else records
    segment = Segment(0, 0, count, 0, count * 100, count * 40, tuple((n, c, 1) for n, c in sorted(lengths.items())))
    rejections = tuple(
        Rejection(name, record, record * 100, "segment_ids in 0..1", "7 at entry 3") for record in rejected
    )
    return ShardSummary(RawShard(name, f"/raw/{name}", count * 100, f"e-{name}"), digest(name), (segment,), rejections)


WHOLE = [
    summary("a", {3: 5, 7: 2, 16: 1}, rejected=(0, 4)),
    summary("b", {5: 9}),
    summary("c", {}),
    summary("e", {9: 4, 2: 6}),
]
DIVIDED = summary("d", {4: 7, 6: 6}, rejected=(2, 8, 9))
"""16 records: 0..7 and 10..15 are packed in two partitions, 2 is rejected in the first, 8 and 9 are between them."""
RANGES = [((0, 8), {4: 7}), ((10, 16), {6: 6})]


def partition(names: list[str], lengths: dict[int, int], records: tuple[int, int] | None = None) -> Partition:
    counts = [lengths.get(length, 0) for length in range(1, 17)]
    input_id = partition_input_id(PARAMETERS, {name: digest(name) for name in names}, records)
    strategies = solve(Histogram(tuple(counts)), 3).strategies
    return make_partition(input_id, names, records, sum(counts), strategies, complete=True)


def dataset_recipe() -> Recipe:
    summaries = sorted([*WHOLE, DIVIDED], key=lambda one: one.shard.name)
    total = dict.fromkeys(range(1, 17), 0)
    for one in summaries:
        for length, count, _ in one.segments[0].lengths:
            total[length] += count
    histogram = Histogram(tuple(total.values()))
    partitions = [
        partition(["a", "b", "c"], {3: 5, 7: 2, 16: 1, 5: 9}),
        *(partition(["d"], lengths, records) for records, lengths in RANGES),
        partition(["e"], {9: 4, 2: 6}),
    ]
    input_id = dataset_input_id(PARAMETERS, {one.shard.name: one.sha256 for one in summaries})
    return make_recipe(input_id, PARAMETERS, summaries, histogram, partitions, solve(histogram, 3), 0.25)


def histogram_recipe() -> Recipe:
    parameters, histogram = Parameters(max_sequence_length=8), Histogram((0, 0, 7, 5, 9, 1, 0, 4))
    solution, input_id = solve(histogram, 3), histogram_input_id(parameters, histogram)
    whole = make_partition(input_id, (), None, histogram.sequences, solution.strategies, complete=True)
    return make_recipe(input_id, parameters, (), histogram, [whole], solution, 0.5)


RECIPES = {
    "of a dataset": recipe_to_json(dataset_recipe()),
    "of a histogram": recipe_to_json(histogram_recipe()),
}


def examine(text: bytes) -> tuple[Recipe | None, list[str]]:
    storage = MemoryStorage()
    storage.write("/r.json", text)
    return examine_recipe(storage, "/r.json")


@pytest.mark.parametrize("name", RECIPES)
def test_a_sound_recipe_is_sound(name: str) -> None:
    recipe, problems = examine(json.dumps(RECIPES[name]).encode())
    assert problems == []
    assert recipe is not None
    assert recipe_to_json(recipe) == RECIPES[name]


@st.composite
def altered_recipes(draw: st.DrawFn) -> tuple[str, str, Any]:
    """Which sound recipe was altered, where, and the altered document; in half of the cases under its own recipe_id."""
    name = draw(st.sampled_from(sorted(RECIPES)))
    path, document = draw(alterations(RECIPES[name]))
    if draw(st.booleans()) and {"input_id", "strategies", "partitions", "recipe_id"} <= document.keys():
        fields = {field: document[field] for field in ("input_id", "strategies", "partitions")}
        document["recipe_id"] = digest(json.loads(json.dumps(fields), parse_constant=str))
    return name, path, document


@settings(max_examples=1500)
@given(altered_recipes())
def test_an_alteration_anywhere_is_found_in_words_or_means_the_same(altered: tuple[str, str, Any]) -> None:
    name, path, document = altered
    recipe, problems = examine(json.dumps(document).encode())
    assert all(isinstance(problem, str) and problem for problem in problems)
    if not problems and canonical(document) != canonical(RECIPES[name]):
        assert recipe is not None
        assert any(re.fullmatch(pattern, path) for pattern in NOT_TOLD_BY_A_RECIPE), f"not found: {path}"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("statistics", "packs"), 10**400, "statistics.packs: expected"),
        (("statistics", "gap"), 0.0, "statistics.gap: expected an integer, found 0.0"),
        (("statistics", "time_limited"), 0, "statistics.time_limited: expected true or false, found 0"),
        (("statistics", "lower_bound_method"), "faith", "statistics.lower_bound_method: expected one of 'tokens', "),
        (("schema_version",), True, "schema_version: expected 1, found True"),
        (("histogram", "max_sequence_length"), 17, "as many counts as its max_sequence_length 17, found 16"),
        (("producer",), "me", "producer: expected an object with version, commit, lock_sha256, found 'me'"),
        (("parameters", "seed"), -1, "seed: expected an integer from 0"),
        (("parameters", "seed"), 1, "input_id: expected"),
        (("dataset", "shards", 1, "uri"), "/other/b", "URIs of one source"),
        (("dataset", "shards", 1, "uri"), "/raw/", "URIs of one source"),
        (("partitions", 0, "digest"), "0" * 64, "its digests do not follow"),
        (("partitions", 0, "input_id"), "0" * 64, "its digests do not follow"),
        (("partitions", 1, "records"), None, "partitions: d: expected to be alone in those that hold ranges"),
        (("dataset", "shards", 1, "sequences"), 8, "expected 16 sequences from its shards, found 17 stated"),
        (("rejected", 0, "shard"), "z", "rejected: z: record 0 at offset 0: expected a listed raw shard"),
        (("rejected", 1, "record"), 10, "expected a record of the shard, found only 10 there"),
        (("rejected", 1, "offset"), 63, "expected an offset with room for the records before it"),
        (("statistics", "gap"), -1, "statistics.gap: expected 3, found -1"),
        (("certificate", "prices", 2), 2**70, "best_pack_value"),
        (("certificate", "best_pack_value"), 1, "best_pack_value"),
    ],
)
def test_what_is_wrong_is_named(path: tuple[Any, ...], value: Any, words: str) -> None:
    document = copy.deepcopy(RECIPES["of a dataset"])
    assert at(document, path) != value or type(at(document, path)) is not type(value)
    at(document, path[:-1])[path[-1]] = value
    document["recipe_id"] = recipe_id_of(document)
    _, problems = examine(json.dumps(document).encode())
    assert words in "; ".join(problems)


def recipe_id_of(document: Any) -> str:
    return digest({name: document[name] for name in ("input_id", "strategies", "partitions")})


def redo_digests(document: Any) -> None:
    """Those of the partitions and the recipe_id, so that they do not betray what was altered."""
    for entry in document["partitions"]:
        contents = {name: digest(name) for name in entry["shards"]}
        entry["input_id"] = partition_input_id(PARAMETERS, contents, entry["records"] and tuple(entry["records"]))
        entry["digest"] = digest({"input_id": entry["input_id"], "strategies": entry["strategies"]})
    document["recipe_id"] = recipe_id_of(document)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (("partitions",), "in the order of their shards"),
        (("partitions", 0, "strategies"), "expected its strategies sorted"),
        (("partitions", 0, "shards"), "expected raw shards, each once and in order"),
        (("dataset", "shards"), "dataset.shards: expected each name once and in order"),
        (("rejected",), "rejected: expected each record once and in order"),
        (("strategies",), "strategies: not the sum"),
    ],
)
def test_there_is_one_order(path: tuple[Any, ...], words: str) -> None:
    document = copy.deepcopy(RECIPES["of a dataset"])
    at(document, path).reverse()
    redo_digests(document)
    _, problems = examine(json.dumps(document).encode())
    assert words in "; ".join(problems)


def test_a_histogram_has_one_partition_without_records() -> None:
    document = copy.deepcopy(RECIPES["of a histogram"])
    document["partitions"][0]["records"] = [1, 2]
    document["recipe_id"] = recipe_id_of(document)
    _, problems = examine(json.dumps(document).encode())
    assert problems == ["partitions: expected one, without records, as the recipe names no raw shards"]


def change_ranges(*ranges: tuple[int, int]) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for entry, records in zip((p for p in document["partitions"] if p["records"]), ranges, strict=True):
            entry["records"] = list(records)

    return change


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        (((0, 8), (9, 16)), ""),  # record 9 is rejected
        (((0, 8), (11, 16)), "expected 5 sequences from its shards"),
        (((1, 8), (10, 16)), "expected 6 sequences"),
        (((0, 8), (10, 17)), "expected 7 sequences"),
        (((0, 8), (1, 8)), "ranges of its 16 records"),
        (((0, 8), (11, 17)), "ranges of its 16 records"),
    ],
)
def test_ranges_hold_every_record_once(ranges: tuple[tuple[int, int], ...], words: str) -> None:
    """The partitions' digests are made right again, so that only their ranges can be wrong."""
    document = copy.deepcopy(RECIPES["of a dataset"])
    change_ranges(*ranges)(document)
    redo_digests(document)
    _, problems = examine(json.dumps(document).encode())
    assert (words in "; ".join(problems)) if words else not problems


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b'{"schema_version": ' + b"[" * 100_000,
        b'{"schema_version": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"schema_version": ' + b"9" * 5000 + b"}",
        b'{"schema_version": NaN}',
        b'{"schema_version": "\\ud800"}',
    ],
)
def test_what_is_no_recipe_is_told_in_words(text: bytes) -> None:
    recipe, problems = examine(text)
    assert recipe is None
    assert problems
    assert all(problems)


def test_every_method_that_solvers_name_is_known() -> None:
    histograms = [Histogram(counts) for counts in ((0, 9, 0, 1), (9, 0, 0, 0), (0, 0, 5, 3, 2, 2, 9, 1), (1, 0, 0, 9))]
    methods = {
        solve(h, k, solver).bound_method for h in histograms for k in (1, 2, 3) for solver in ("optimal", "spfhp")
    }
    assert len(methods) >= 3
    assert methods <= set(LOWER_BOUND_METHODS)


def test_a_field_that_stands_twice_is_refused() -> None:
    text = recipe_bytes(histogram_recipe()).replace(b'"input_id"', b'"input_id": "", "input_id"', 1)
    assert json.loads(text) == RECIPES["of a histogram"]
    (problem,) = examine(text)[1]
    assert "a field twice" in problem


def test_only_the_solver_with_a_time_limit_can_be_cut_short() -> None:
    document = copy.deepcopy(RECIPES["of a histogram"])
    document["partitions"][0]["complete"] = False
    document["statistics"]["time_limited"] = True
    document["parameters"]["solver"] = "spfhp"
    document["recipe_id"] = recipe_id_of(document)
    assert "the solver spfhp knows no time limit" in "; ".join(examine(json.dumps(document).encode())[1])


def test_a_partition_cut_short_must_be_told() -> None:
    document = copy.deepcopy(RECIPES["of a dataset"])
    document["partitions"][0]["complete"] = False
    document["recipe_id"] = recipe_id_of(document)
    recipe = recipe_from_json(document, "/r.json")
    assert recipe_problems(recipe) == [
        "statistics.time_limited: expected true, as a partition is not complete, found false"
    ]
    document["statistics"]["time_limited"] = True
    assert recipe_problems(recipe_from_json(document, "/r.json")) == []


def test_the_builder_is_sound() -> None:
    """The recipe that is altered has all that can be altered: several partitions, ranges, gaps, rejected records."""
    document = RECIPES["of a dataset"]
    assert document_problems(json.loads(recipe_bytes(recipe_from_json(document, "/r.json")))) == []
    assert [entry["records"] for entry in document["partitions"]] == [None, [0, 8], [10, 16], None]
    assert len(document["rejected"]) == 5
    assert merge_strategies(recipe_from_json(document, "/r.json").strategies)
